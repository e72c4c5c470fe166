"""CM-GEMS at nano scale: a run takes some minutes on two CPU cores; the studies' preset.

Structured initial values and a high threshold, because 1,000 steps are few.

    python -m launch.pretrain --config=configs/nano6.py --workdir=runs/nano \\
        --config.data.fasta=genome.fa.gz
    python -m launch.study --study=strategy --preset=nano --fasta=genome.fa.gz \\
        --data_dir=DATA --output=runs/strategy

One variation: --config.curriculum.name=fixed --config.curriculum.strategy=random
"""

from cmgems_jax.config import Config, CurriculumConfig, DataConfig, ModelConfig, OptimizerConfig


def get_config() -> Config:
    """Returns the nano recipe."""
    return Config(
        num_steps=1_000,
        batch_size=32,
        log_every=50,
        eval_every=100,
        eval_windows=512,
        checkpoint_every=250,
        keep_checkpoints=1,
        data=DataConfig(num_tokens=72),  # 75 bases: a core promoter fits
        curriculum=CurriculumConfig(threshold=100.0),
        model=ModelConfig(
            num_layers=2,
            hidden_size=128,
            num_heads=4,
            feedforward_size=512,
            num_positions=72,
            dropout=0.0,
            attention_dropout=0.0,
            embedding_init="bases",
            embedding_scale=0.1,
            position_init="sinusoidal",
            position_scale=0.4,
        ),
        optimizer=OptimizerConfig(peak_lr=2e-3, warmup_steps=50),
    )
