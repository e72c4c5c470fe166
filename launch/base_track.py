"""Writes -log posterior of every base of a genome, by a pretrained model, for a browser.

    python -m launch.base_track --checkpoint=runs/mine --fasta=genome.fa --output=surprise.bw

Low values: the model expects the base from its surroundings. The same command resumes where it
was cut off. What the values mean, and how --spacing moves them: docs/variants.md.
"""

from absl import flags

from cmgems_jax.downstream.inference.settings import BaseTrackSettings
from cmgems_jax.genome import vocabulary
from cmgems_jax.runtime import command

_DEFAULT = BaseTrackSettings()
_CHECKPOINT = command.define_checkpoint("A pretraining run's folder")
_FASTA = flags.DEFINE_string("fasta", None, "The genome: FASTA, plain or bgzip.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "File to make, .bw or .bedgraph.", required=True)
_SETTINGS = {
    "strand": flags.DEFINE_enum("strand", _DEFAULT.strand, vocabulary.STRANDS, "Both: the mean."),
    "window": flags.DEFINE_integer(
        "window", _DEFAULT.window, "Bases that the model sees; default: as in its pretraining."
    ),
    "spacing": flags.DEFINE_integer(
        "spacing", _DEFAULT.spacing, "Bases between those hidden in one pass; default: 4 k."
    ),
    "batch_size": flags.DEFINE_integer(
        "batch_size", _DEFAULT.batch_size, "Windows at a time.", lower_bound=1
    ),
}  # fmt: skip


def main() -> None:
    """Runs the command."""
    from cmgems_jax.downstream.inference import base_track

    base_track.base_track(
        _CHECKPOINT(), _FASTA.value, _OUTPUT.value,
        BaseTrackSettings(**{name: flag.value for name, flag in _SETTINGS.items()}),
    )  # fmt: skip


if __name__ == "__main__":
    command.run(main)
