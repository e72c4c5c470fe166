"""Predicts the class of every record of a FASTA file.

    python -m launch.predict --checkpoint=CLASSIFIER_DIR --fasta=X.fa.gz --output=out.tsv
    python -m launch.predict --checkpoint=CLASSIFIER_DIR --fasta=X.fa.gz --output=out.parquet \\
        --windows --stride=100

A record longer than the classifier's sequences is cut into overlapping windows; its
probabilities are the mean over them. With --windows each window has a row of its own
(record, start_0based, end_excluded, probabilities).
"""

from pathlib import Path

from absl import flags

from cmgems_jax.runtime import command

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Folder of a fine-tuned classifier.", required=True
)
_OUTPUT = flags.DEFINE_string("output", None, "File to make, .tsv or .parquet.", required=True)
_EACH_WINDOW = flags.DEFINE_bool("windows", False, "One row per window in place of one per record.")
_WINDOW_FLAGS = command.define_window_flags()


def main() -> None:
    """Runs the command."""
    from cmgems_jax.downstream.finetuning import classifier
    from cmgems_jax.downstream.inference import predict

    predict.predict(
        classifier.load_classifier(Path(_CHECKPOINT.value)),
        output=Path(_OUTPUT.value),
        each_window=_EACH_WINDOW.value,
        **_WINDOW_FLAGS(),
    )


if __name__ == "__main__":
    command.run(main)
