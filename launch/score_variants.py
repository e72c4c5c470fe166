"""Scores variants by a pretrained model: log p(ALT) - log p(REF) of the hidden base.

    python -m launch.score_variants --checkpoint=runs/mine --vcf=x.vcf.gz --fasta=genome.fa \\
        --output=scored.vcf.gz
    python -m launch.score_variants --checkpoint=runs/mine --bed=regions.bed --fasta=genome.fa \\
        --output=saturation.tsv

Substitutions of one base are scored, allele by allele; insertions and deletions are counted
and not scored. With --bed, all three substitutions of every base of the regions. The same
command resumes where it was cut off. What a score means: docs/variants.md.
"""

from absl import flags

from cmgems_jax.downstream.inference.settings import ScoreSettings
from cmgems_jax.genome import vocabulary
from cmgems_jax.runtime import command

_DEFAULT = ScoreSettings()
_CHECKPOINT = command.define_checkpoint("A pretraining run's folder")
_VCF = flags.DEFINE_string("vcf", "", "The variants: VCF (plain or bgzip) or BCF.")
_BED = flags.DEFINE_string("bed", "", "Regions in place of --vcf: every substitution in them.")
_FASTA = flags.DEFINE_string("fasta", None, "The genome: FASTA, plain or bgzip.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "File to make, .tsv or .vcf.gz.", required=True)
_CLASSIFIER = flags.DEFINE_string("classifier", "", "Adds how this classifier's output changes.")
_SETTINGS = {
    "strand": flags.DEFINE_enum("strand", _DEFAULT.strand, vocabulary.STRANDS, "both = mean."),
    "window": flags.DEFINE_integer(
        "window", _DEFAULT.window, "Bases that the model sees; default: as in its pretraining."
    ),
    "batch_size": flags.DEFINE_integer(
        "batch_size", _DEFAULT.batch_size, "Windows at a time.", lower_bound=1
    ),
    "ignore_chr_prefix": flags.DEFINE_bool(
        "ignore_chr_prefix", _DEFAULT.ignore_chr_prefix,
        "Take contigs `1` and `chr1`, `MT` and `chrM` as one.",
    ),
    "skip_mismatches": flags.DEFINE_bool(
        "skip_mismatches", _DEFAULT.skip_mismatches,
        "Leave records unscored whose REF or contig the genome does not have.",
    ),
}  # fmt: skip


def main() -> None:
    """Runs the command."""
    from cmgems_jax.downstream.inference import score_variants

    score_variants.score_variants(
        _CHECKPOINT(), _FASTA.value, _OUTPUT.value,
        vcf_path=_VCF.value, bed_path=_BED.value, classifier=_CLASSIFIER.value or None,
        settings=ScoreSettings(**{name: flag.value for name, flag in _SETTINGS.items()}),
    )  # fmt: skip


if __name__ == "__main__":
    command.run(main)
