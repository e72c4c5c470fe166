"""CM-GEMS pretraining of LOGO with 6-mers, 10,000 steps (Roy et al., ECAI 2024, section 4).

LOGO is DNABERT's architecture with 2 layers of 256 and no dropout.

    python -m launch.pretrain --config=configs/logo6.py --workdir=runs/logo6 \\
        --config.data.fasta=genome.fa.gz

One variation: --config.curriculum.name=fixed --config.curriculum.strategy=random
"""

from cmgems_jax.config import Config, ModelConfig


def get_config() -> Config:
    """Returns the published recipe: 250 windows per step, which 192 packed rows hold."""
    model = ModelConfig(
        num_layers=2, hidden_size=256, num_heads=8, dropout=0.0, attention_dropout=0.0
    )
    return Config(num_steps=10_000, batch_size=192, accumulation_steps=4, model=model)
