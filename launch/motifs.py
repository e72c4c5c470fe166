"""Finds the motifs that a classifier looks at.

    python -m launch.motifs --checkpoint=CLASSIFIER_DIR --task=OWN_TASK --output=DIR
    python -m launch.motifs --checkpoint=CLASSIFIER_DIR --positives=bound.fa \\
        --negatives=unbound.fa --output=DIR --mutagenesis=3

Scores bases by input gradients, tests the k-mers of high regions for enrichment in the positives
(Fisher, Benjamini-Hochberg), merges those that align, names what is like a motif of JASPAR. Use
sequences that it was not trained on. DIR: motifs.tsv, .meme, logos/, regions.tsv, mutagenesis/.
"""

from pathlib import Path

from absl import flags

from cmgems_jax.runtime import command

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Classifier's folder.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to make.", required=True)
_POSITIVES = command.define_paths("positives", [], "FASTA files of the class.")
_NEGATIVES = command.define_paths("negatives", [], "FASTA files of other sequences.")
_TASK = flags.DEFINE_string("task", "", "Name or folder of a task, in place of FASTA files.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder that holds fewshot/ and gue/.")
_COLUMNS = command.define_column_flags()
_LABEL = flags.DEFINE_string("label", "", "Name of the class; default: the classifier's last.")
_LIMIT = flags.DEFINE_integer("limit", 2_000, "Sequences of either side at most.", lower_bound=5)
_MUTAGENESIS = flags.DEFINE_string("mutagenesis", "", "A record's name, or how many positives.")
_LENGTH = flags.DEFINE_integer("motif_length", 6, "Bases of the k-mers that are tested, 4 to 12.")
_NUM_SD = flags.DEFINE_float("num_sd", 1.0, "Standard deviations above the mean score: high.")
_ALPHA = flags.DEFINE_float("alpha", 0.05, "Largest q value (false discovery rate).")
_STRAND = command.define_strand("Default: forward; both where it was trained on both.")
_KNOWN = command.define_known_motifs()
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Sequences at a time.", lower_bound=1)


def main() -> None:
    """Runs the command."""
    from cmgems_jax.downstream.finetuning import classifier
    from cmgems_jax.downstream.motifs import contrast, enrichment, report
    from cmgems_jax.downstream.tasks.settings import TaskSettings

    contrast.check_sources(_TASK.value, _POSITIVES.value, _NEGATIVES.value)
    trained = classifier.load_classifier(_CHECKPOINT.value)
    label = contrast.find_label(trained, _LABEL.value)
    if _TASK.value:
        settings = TaskSettings(**_COLUMNS())
        pair = contrast.from_task(_TASK.value, Path(_DATA_DIR.value), trained, label, settings)
    else:
        pair = contrast.from_fasta(_POSITIVES.value, _NEGATIVES.value)
    pair = contrast.limit(pair, _LIMIT.value)
    report.write_motifs(
        trained, pair, label, _OUTPUT.value,
        enrichment.MotifSettings(width=_LENGTH.value, num_sd=_NUM_SD.value, alpha=_ALPHA.value),
        mapped=report.rows_to_map(pair, _MUTAGENESIS.value), batch_size=_BATCH_SIZE.value,
        strand=_STRAND.value, taxon=_KNOWN.value,
    )  # fmt: skip


if __name__ == "__main__":
    command.run(main)
