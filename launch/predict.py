"""Predicts the class of every record of a FASTA file, or a class along a genome.

    python -m launch.predict --checkpoint=CLASSIFIER_DIR --fasta=X.fa.gz --output=out.tsv
    python -m launch.predict --checkpoint=CLASSIFIER_DIR --fasta=X.fa.gz --output=out.parquet \\
        --windows --stride=100
    python -m launch.predict --checkpoint=CLASSIFIER_DIR --fasta=genome.fa --output=out.bw \\
        --class=promoter

A table has one row per record; where records are longer than the classifier's sequences, one
per overlapping window (record, start_0based, end_excluded, probabilities), or with --nowindows
the mean over them. A track (.bedgraph, .bw) has the probability of --class in bins that do not
overlap, each the mean over the windows that cover it; .bed has the regions where it is the
likeliest. docs/variants.md says more of tracks.
"""

from pathlib import Path

from absl import flags

from cmgems_jax.downstream.inference.settings import WindowSettings
from cmgems_jax.errors import InputError
from cmgems_jax.runtime import command

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Folder of a fine-tuned classifier.", required=True
)
_FASTA = command.define_paths(
    "fasta", None, "FASTA (plain, gzip, bgzip) or .2bit files.", required=True
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "File to make: .tsv, .parquet, .bedgraph, .bw or .bed.", required=True
)
_EACH_WINDOW = flags.DEFINE_bool(
    "windows", None, "One row per window, or one per record; default: by the records' lengths."
)
_CLASS = flags.DEFINE_string("class", "", "Of a track; default: the classifier's last.")
_WINDOW_FLAGS = command.define_window_flags()


def main() -> None:
    """Runs the command."""
    from cmgems_jax.downstream.finetuning import classifier
    from cmgems_jax.downstream.inference import predict, predict_track

    output, settings = Path(_OUTPUT.value), WindowSettings(**_WINDOW_FLAGS())
    trained = classifier.load_classifier(_CHECKPOINT.value)
    if output.suffix in predict_track.SUFFIXES:
        predict_track.predict_track(trained, _FASTA.value, output, settings, label=_CLASS.value)
    else:
        if _CLASS.value:
            raise InputError(f"--class={_CLASS.value}: a table has all classes; leave it out")
        each_window = _EACH_WINDOW.value
        predict.predict(trained, _FASTA.value, output, settings, each_window=each_window)


if __name__ == "__main__":
    command.run(main)
