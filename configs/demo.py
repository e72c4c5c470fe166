"""The whole of CM-GEMS in minutes on two CPU cores, without a download.

A synthetic genome is drawn from the embedded GRCh38 6-mer counts (a 5th-order Markov chain), and
a quarter of it overwritten with diverged copies of one repeat; a model of 2 layers x 128 is
pretrained on it under `cm_gems`, with structured initial values and a relative threshold.

    python -m launch.pretrain --config=configs/demo.py --workdir=runs/demo

One variation: --config.curriculum.name=fixed --config.curriculum.strategy=random
"""

from cmgems_jax.config import Config, CurriculumConfig, DataConfig, ModelConfig, OptimizerConfig


def get_config() -> Config:
    """Returns the demo."""
    return Config(
        num_steps=500,
        batch_size=48,  # rows; about 64 windows
        log_every=50,
        eval_every=125,
        eval_windows=256,
        checkpoint_every=250,
        data=DataConfig(synthetic_bases=4_000_000, synthetic_repeats=0.25, num_tokens=64),
        curriculum=CurriculumConfig(threshold=0.5, threshold_kind="relative"),
        model=ModelConfig(
            num_layers=2,
            hidden_size=128,
            num_heads=4,
            feedforward_size=512,
            num_positions=64,
            dropout=0.0,
            attention_dropout=0.0,
            embedding_init="bases",
            embedding_scale=0.1,
            position_init="sinusoidal",
            position_scale=0.4,
        ),
        optimizer=OptimizerConfig(peak_lr=3e-3, warmup_steps=50),
    )
