"""The command that scores the variants of a VCF file, or every substitution of regions."""

import dataclasses
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cmgems_jax import terminal
from cmgems_jax.downstream.finetuning import classifier as classifier_lib
from cmgems_jax.downstream.inference import saturation, variants, vcf
from cmgems_jax.downstream.inference.settings import ScoreSettings
from cmgems_jax.downstream.inference.variants import Scorer
from cmgems_jax.errors import InputError
from cmgems_jax.genome import files as genome_files
from cmgems_jax.genome import reference as reference_lib
from cmgems_jax.pretraining import pretrained
from cmgems_jax.runtime import kept_rows, outputs

SUFFIXES = (".tsv", ".vcf.gz")
_CHUNK_BATCHES = 16  # of alleles between two writings
_AT_ONCE = 1 << 16  # kept rows that are in memory


def score_variants(
    checkpoint: Path | str,
    fasta: Path | str,
    output: Path | str,
    *,
    vcf_path: str = "",
    bed_path: str = "",
    classifier: Path | str | None = None,
    settings: ScoreSettings | None = None,
) -> np.ndarray:
    """Writes the scores of substitutions; returns how many alleles have each of `REASONS`.

    Memory does not grow with the number of variants. Scores are kept as they come, and the
    same command resumes where it was cut off; the output appears when it is whole.

    Args:
      checkpoint: a pretraining run's folder, or WORKDIR/checkpoints/STEP.
      fasta: the genome, plain or bgzip.
      output: .tsv, a line per alternative allele; or .vcf.gz, the records with INFO fields.
      vcf_path: the variants; or
      bed_path: regions in which every substitution is scored, for a .tsv.
      classifier: a fine-tuned one's folder, whose predictions are compared too.

    Raises:
      InputError: a bad flag or file; a former output stays as it was.
    """
    settings, output = settings or ScoreSettings(), Path(output)
    if bool(vcf_path) == bool(bed_path):
        raise InputError("give one of --vcf=FILE and --bed=REGIONS")
    inputs = [vcf_path or bed_path, fasta]
    outputs.check_file(output, SUFFIXES[:1] if bed_path else SUFFIXES, inputs)
    model = pretrained.load_masked_lm(Path(checkpoint))
    trained = classifier_lib.load_classifier(classifier) if classifier else None
    with reference_lib.opened(fasta, ignore_chr_prefix=settings.ignore_chr_prefix) as reference:
        scorer = Scorer(model, reference, settings, trained)
        sites: vcf.Variants | saturation.Regions
        if vcf_path:
            sites = vcf.read(vcf_path, reference, skip_mismatches=settings.skip_mismatches)
        else:
            sites = saturation.read(bed_path, reference)
        digest, tensors = pretrained.digest(model), classifier_lib.TENSORS
        made_of = {
            "checkpoint": digest,
            "classifier": genome_files.sha256(Path(classifier) / tensors) if classifier else "",
            "vcf or bed": genome_files.sha256(sites.path),
            "fasta": reference.sha256,
            "flags": {**dataclasses.asdict(settings), "batch_size": None},
        }
        columns = vcf.fields(scorer.label_names, settings.strand, model.name)
        with kept_rows.opened(output, scorer.dtype, made_of) as rows:
            _score(scorer, sites, rows, settings.batch_size * _CHUNK_BATCHES)
            provenance = {"Model": model.name, "Step": model.step, "SHA256": digest}
            provenance |= {"Strand": settings.strand, "Window": scorer.num_bases}
            _write(sites, rows, output, columns, provenance | {"FASTA": Path(fasta).name})
            return _print_counts(rows, output)


def _score(
    scorer: Scorer, sites: vcf.Variants | saturation.Regions, rows: kept_rows.KeptRows, chunk: int
) -> None:
    """Scores the alleles that have no row yet."""
    if num_kept := len(rows):
        print(f"resumed: {num_kept:,} of {sites.num_alleles:,} alleles were scored before")
    alleles = itertools.islice(sites.alleles(), num_kept, None)
    start_s = time.perf_counter()
    with terminal.bar(
        total=sites.num_alleles, initial=num_kept, unit="alleles", desc="scoring"
    ) as bar:
        while part := list(itertools.islice(alleles, chunk)):
            rows.add(scorer.score(part))
            bar.update(len(part))
    seconds = time.perf_counter() - start_s
    num_new = len(rows) - num_kept
    print(f"{num_new:,} alleles in {seconds:,.1f} s, {num_new / max(seconds, 1e-9):,.1f} a second")


def _write(
    sites: vcf.Variants | saturation.Regions,
    rows: kept_rows.KeptRows,
    output: Path,
    columns: list[vcf.Field],
    provenance: dict[str, object],
) -> None:
    """Writes the output of all rows."""
    if output.suffix == ".tsv":
        vcf.write_table(sites.sites(), _each(rows), output, columns)
    else:
        vcf.write_vcf(sites, _each(rows), output, columns, provenance)
    if isinstance(sites, saturation.Regions):
        for path in saturation.write_maps(sites, _each(rows), output):
            print(f"wrote {path}")


def _parts(rows: kept_rows.KeptRows) -> Iterator[np.ndarray]:
    """Yields the kept rows, some at a time."""
    return (rows.read(start, _AT_ONCE) for start in range(0, len(rows), _AT_ONCE))


def _each(rows: kept_rows.KeptRows) -> Iterator[np.void]:
    """Yields the kept rows one by one."""
    return itertools.chain.from_iterable(_parts(rows))


def _print_counts(rows: kept_rows.KeptRows, output: Path) -> np.ndarray:
    """Prints how many alleles were scored, and why the others were not."""
    counts = np.zeros(len(variants.REASONS), np.int64)
    for part in _parts(rows):
        counts += np.bincount(part["reason"], minlength=len(counts))
    others = [
        f"{count:,} {name} ({text})"
        for (name, text), count in zip(variants.REASONS.items(), counts.tolist(), strict=True)
        if count and name != "scored"
    ]
    print(f"{counts[0]:,} scored" + "".join(f"; {other}" for other in others))
    print(f"wrote {output}", flush=True)
    return counts
