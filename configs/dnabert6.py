"""CM-GEMS pretraining of DNABERT-6, 10,000 steps (Roy et al., ECAI 2024, section 4).

    python -m launch.pretrain --config=configs/dnabert6.py --workdir=runs/dnabert6 \\
        --config.data.fasta=genome.fa.gz

Two things are not as published: windows are packed into rows, and attention weights are not
dropped, so that the scores of a row never lie in memory. --config.model.attention_dropout=0.1 does
as DNABERT did; docs/scaling.md says how to see what that costs.

One variation: --config.curriculum.threshold=0.5
"""

from cmgems_jax.config import Config, ModelConfig


def get_config() -> Config:
    """Returns the recipe: 250 windows per step, which 192 packed rows hold."""
    model = ModelConfig(attention_dropout=0.0)
    return Config(num_steps=10_000, batch_size=192, accumulation_steps=24, model=model)
