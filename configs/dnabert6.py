"""CM-GEMS pretraining of DNABERT-6, 10,000 steps (Roy et al., ECAI 2024, section 4).

    python -m launch.pretrain --config=configs/dnabert6.py --workdir=runs/dnabert6 \\
        --config.data.fasta=genome.fa.gz

One variation: --config.curriculum.threshold=0.5
"""

from cmgems_jax.config import Config


def get_config() -> Config:
    """Returns the published recipe: 250 windows a step, which 192 packed rows hold."""
    return Config(num_steps=10_000, batch_size=192, accumulation_steps=24)
