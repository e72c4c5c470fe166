"""CM-GEMS at nano scale: a run takes some minutes on two CPU cores; the studies' preset.

Structured initial values and a high threshold, because 1,200 steps are few.

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
        num_steps=1_200,
        batch_size=16,  # few: what ends the plateau at the start is steps, not tokens
        log_every=50,
        eval_every=100,
        eval_windows=512,
        checkpoint_every=300,
        keep_checkpoints=1,
        data=DataConfig(num_tokens=128),
        curriculum=CurriculumConfig(threshold=100.0),
        model=ModelConfig(
            num_layers=2,
            hidden_size=128,
            num_heads=4,
            feedforward_size=512,
            num_positions=128,
            dropout=0.0,
            attention_dropout=0.0,
            embedding_init="bases",
            position_init="sinusoidal",
        ),
        optimizer=OptimizerConfig(peak_lr=3e-3, warmup_steps=50),
    )
