"""Counts the n-grams of a genome and ranks its k-mers by pointwise mutual information.

    python -m launch.count_pmi --fasta=A.fa.gz,B.2bit --k=6 --output=DIR
    python -m launch.count_pmi --counts=FILE.csv --output=DIR

DIR gets pmi.csv (kmer,count,pmi,npmi,rank, by rank; for --config.pmi.table), summary.json,
pmi.png, and known_motifs.tsv: what the k-mers ranked first and last are like in JASPAR.
"""

import functools
from pathlib import Path

from absl import flags

from cmgems_jax.beam import run as beam_run
from cmgems_jax.pmi import scores as pmi_scores
from cmgems_jax.runtime import command

_FASTA = command.define_paths("fasta", [], "FASTA (plain, gzip, bgzip) or .2bit files.")
_COUNTS = flags.DEFINE_string("counts", "", "CSV with columns kmer,count, in place of --fasta.")
_K = flags.DEFINE_integer("k", 6, "Bases per k-mer, 3 to 8.")
_SEGMENTATION = flags.DEFINE_enum(
    "segmentation", "published", pmi_scores.SEGMENTATIONS,
    "published: pieces of one or two bases, as in the published GRCh38 ranking. "
    "full: all segmentations, the paper's formula.",
)  # fmt: skip
_MIN_COUNT = flags.DEFINE_integer(
    "min_count", pmi_scores.MIN_COUNT, "The constant c of NPMI, which discounts rare k-mers."
)
_STRANDS = flags.DEFINE_enum(
    "strands", "forward", ["forward", "both"], "both: a k-mer and its reverse complement add up."
)
_KNOWN = command.define_known_motifs()
_BEAM = beam_run.define_beam_flags()
flags.adopt_module_key_flags(beam_run)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to make.", required=True)


def main() -> None:
    """Runs the command."""
    from cmgems_jax.beam import counts as beam_counts
    from cmgems_jax.pmi import command as pmi_command

    output, beam = Path(_OUTPUT.value), _BEAM()
    count = functools.partial(beam_counts.count, settings=beam, beside=output) if beam else None
    pmi_command.make(
        fasta=_FASTA.value,
        counts=_COUNTS.value,
        k=_K.value,
        segmentation=_SEGMENTATION.value,
        min_count=_MIN_COUNT.value,
        output=output,
        strands=_STRANDS.value,
        taxon=_KNOWN.value,
        count=count,
    )


if __name__ == "__main__":
    command.run(main)
