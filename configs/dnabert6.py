"""CM-GEMS pretraining of DNABERT-6, 10,000 steps (Roy et al., ECAI 2024, section 4).

    python -m launch.pretrain --config=configs/dnabert6.py --workdir=runs/dnabert6 \\
        --config.data.fasta=genome.fa.gz

One variation: --config.curriculum.threshold=0.5
"""

from cmgems_jax.config import Config


def get_config() -> Config:
    """Returns the published recipe: 250 sequences a step, as 25 parts of 10."""
    return Config(num_steps=10_000, batch_size=250, accumulation_steps=25)
