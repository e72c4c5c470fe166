"""Alleles of a VCF file, and scores written back into it or into a table.

pysam reads VCF, bgzip and BCF. Records are written as the text that pysam gives of them, with
our INFO fields added, in their order; nothing else of a record changes.
"""

import collections
import contextlib
import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pysam

from cmgems_jax import terminal
from cmgems_jax.downstream.inference import variants
from cmgems_jax.downstream.inference.variants import Allele
from cmgems_jax.errors import InputError
from cmgems_jax.genome import input_files, vocabulary
from cmgems_jax.genome.reference import Reference
from cmgems_jax.runtime import outputs

PREFIX = "CMGEMS_"  # of our INFO fields; those of an earlier scoring are replaced
_TBI_LONGEST = 2**29  # bases of a contig that a .tbi index takes
_INFO = 7  # the column
SITE_COLUMNS = ("chrom", "pos", "id", "ref", "alt")  # of a table of scores; positions from 1


@dataclasses.dataclass
class Variants:
    """A VCF file after a first reading: every record was checked against the genome."""

    path: str
    reference: Reference
    header: str = ""  # with everything that pysam found missing in it
    num_records: int = 0
    num_alleles: int = 0
    is_sorted: bool = True  # as an index wants it
    reasons: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def alleles(self) -> Iterator[Allele]:
        """Yields every alternative allele of every record, in their order."""
        for record in _records(self.path):
            yield from _alleles(record, self.reference)

    def sites(self) -> Iterator[list]:
        """Yields the `SITE_COLUMNS` of every allele, as the file spells them."""
        for record in _records(self.path):
            for alt in record.alts or ():
                yield [record.chrom, record.pos, record.id or ".", record.ref, alt]


def read(path: str, reference: Reference, *, skip_mismatches: bool) -> Variants:
    """Reads a VCF file once, so that bad input is refused before the long work.

    Raises:
      InputError: no VCF, a damaged record, or, unless `skip_mismatches`, a contig that the
        genome has not or a REF that it contradicts; the first is named by its line.
    """
    input_files.read_head(path, "a VCF file (plain, bgzip or BCF)")
    input_files.check_seekable(path)
    with _opened(path) as file:
        sites = Variants(path, reference)
        first, contigs, last = "", set(), ("", 0)
        for record in terminal.bar(_iterate(path, file), desc="checking", unit="records"):
            sites.num_records += 1
            _check_text(path, record, sites.num_records)
            reason = _check(record, reference)
            if reason and not first:
                first = _describe(record, reason, reference, _where(path, sites.num_records))
            sites.reasons[reason] += 1
            sites.num_alleles += len(record.alts or ())
            here = record.chrom, record.start
            is_new = here[0] != last[0]
            sites.is_sorted &= here[0] not in contigs if is_new else here >= last
            contigs.add(here[0])
            last = here
        sites.header = str(file.header)
    num_wrong = sites.num_records - sites.reasons[variants.SCORED]
    if num_wrong and not skip_mismatches:
        raise InputError(
            f"{first}; {num_wrong:,} of {sites.num_records:,} records do not fit this genome; "
            "--skip_mismatches leaves such records unscored"
        )
    return sites


def _where(path: str, number: int) -> str:
    """Returns where record `number` (from 1) stands."""
    with input_files.open_unpacked(path) as file:
        if file.peek(3)[:3] == b"BCF":
            return f"{path}: record {number:,}"
        num_header = sum(1 for _ in itertools.takewhile(lambda line: line[:1] == b"#", file))
    return f"{path}: line {num_header + number:,}"


def _check(record: pysam.VariantRecord, reference: Reference) -> int:
    """Returns why a record does not fit the genome, or SCORED."""
    contig = reference.find(record.chrom)
    if contig is None:
        return variants.NO_CONTIG
    codes = reference.fetch(contig, record.start, record.start + len(record.ref))
    fits = np.array_equal(codes, vocabulary.encode(record.ref))
    return variants.SCORED if fits else variants.REF_MISMATCH


def _describe(record: pysam.VariantRecord, reason: int, reference: Reference, where: str) -> str:
    """Returns what is wrong with a record, for a message."""
    if reason == variants.NO_CONTIG:
        return f"{where}: {reference.describe_missing(record.chrom)}"
    contig = reference.find(record.chrom)
    codes = reference.fetch(contig, record.start, record.start + len(record.ref))
    return (
        f"{where}: REF {record.ref[:20]} at {record.chrom}:{record.pos:,}, but {reference.path} "
        f"has {vocabulary.decode(codes)[:20] or 'no base'} there (another assembly?)"
    )


def _alleles(record: pysam.VariantRecord, reference: Reference) -> Iterator[Allele]:
    """Yields the alternative alleles of a record."""
    reason = _check(record, reference)
    contig = reference.find(record.chrom) or ""
    for alt in record.alts or ():
        single = substitution(record.ref, alt)
        if reason or single is None:
            yield Allele(reason=reason or variants.NOT_SNV)
        else:
            offset, *codes = single
            yield Allele(contig, record.start + offset, *codes)


def substitution(ref: str, alt: str) -> tuple[int, int, int] | None:
    """Returns offset, REF code and ALT code where two alleles differ in one known base only.

    At a site with several alleles a substitution may be spelled with its neighbours (CA to TA
    beside a deletion CA to C).
    """
    if len(ref) != len(alt) or not alt.isalpha():
        return None
    ref_codes, alt_codes = vocabulary.encode(ref), vocabulary.encode(alt)
    offsets = np.flatnonzero(ref_codes != alt_codes)
    if len(offsets) != 1:
        return None
    (offset,) = offsets.tolist()
    codes = int(ref_codes[offset]), int(alt_codes[offset])
    return None if max(codes) >= vocabulary.AMBIGUOUS else (offset, *codes)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[pysam.VariantFile]:
    """Yields an open file; what htslib would print is kept quiet, and its errors are named."""
    before = pysam.set_verbosity(0)
    try:
        file = pysam.VariantFile(path)
    except (OSError, ValueError):
        pysam.set_verbosity(before)
        raise InputError(
            f"{path}: cannot be read as VCF or BCF; expected a first line ##fileformat=VCFv4.x, a "
            "line #CHROM POS ID REF ALT QUAL FILTER INFO, and records, with tabs between columns"
        ) from None
    try:
        with file:
            yield file
    finally:
        pysam.set_verbosity(before)


def _iterate(path: str, file: pysam.VariantFile) -> Iterator[pysam.VariantRecord]:
    """Yields the records; a damaged one is named."""
    for number in itertools.count(1):
        try:
            record = next(file, None)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{_where(path, number)}: no record of VCF ({error}); expected the columns CHROM "
                "(text), POS (a number), ID, REF, ALT, QUAL, FILTER, INFO, with tabs between them"
            ) from None
        if record is None:
            return
        yield record


def _check_text(path: str, record: pysam.VariantRecord, number: int) -> None:
    """Raises `InputError` where record `number` (from 1) cannot be written again."""
    try:
        str(record)
    except UnicodeDecodeError:
        raise InputError(
            f"{_where(path, number)}: not UTF-8; convert the file: iconv -f LATIN1 -t UTF-8"
        ) from None


def _records(path: str) -> Iterator[pysam.VariantRecord]:
    """Yields the records of a file."""
    with _opened(path) as file:
        yield from _iterate(path, file)


@dataclasses.dataclass(frozen=True)
class Field:
    """A column of the scores: of the table, and as INFO field."""

    column: str  # in a table
    info: str  # ID in a VCF
    description: str


def fields(label_names: Sequence[str], strand: str, model: str) -> list[Field]:
    """Returns what is written of every allele: the score, the reason, changes of classes."""
    of = {"both": "mean over both strands"}.get(strand, f"{strand} strand")
    reasons = "; ".join(f"{name}: {text}" for name, text in variants.REASONS.items())
    names = [re.sub(r"\W", "_", label, flags=re.ASCII) for label in label_names]
    if len({*names}) < len(names):
        names = [str(number) for number in range(len(names))]
    return [
        Field(
            "score", f"{PREFIX}LLR",
            f"log p(ALT) - log p(REF) of the hidden base, nats, {of}, by {model}; below 0: the "
            "model finds ALT less probable. No statement about disease",
        ),
        Field("reason", f"{PREFIX}REASON", f"scored, or why not ({reasons})"),
        *(
            Field(
                f"change_{label}", f"{PREFIX}CHANGE_{name}",
                f"the classifier's prediction of {label} with ALT minus that with REF, {of}",
            )
            for label, name in zip(label_names, names, strict=True)
        ),
    ]  # fmt: skip


def cells(row: np.void) -> list[float | str]:
    """Returns the values of a kept row in the order of `fields`; "." for NaN."""
    numbers = [float(row["score"]), *map(float, row["change"])]
    score, *changes = ("." if np.isnan(number) else number for number in numbers)
    return [score, [*variants.REASONS][row["reason"]], *changes]


def write_table(
    sites: Iterator[list], rows: Iterator[np.void], output: Path, columns: Sequence[Field]
) -> None:
    """Writes one line per allele: its `SITE_COLUMNS`, and its scores."""
    names = [*SITE_COLUMNS, *(field.column for field in columns)]
    with outputs.table(output, pa.schema([(name, pa.string()) for name in names])) as add:
        for site, row in zip(sites, rows, strict=True):
            add([*site, *cells(row)])


def write_vcf(
    sites: Variants,
    rows: Iterator[np.void],
    output: Path,
    columns: Sequence[Field],
    provenance: dict[str, object],
) -> None:
    """Writes the records with their scores as INFO fields, bgzip, and an index beside it.

    There is no index where the records are not sorted, which a note says.
    """
    is_long = max(sites.reference.lengths.values()) >= _TBI_LONGEST
    suffix, other = (".csi", ".tbi") if is_long else (".tbi", ".csi")
    index = output.with_name(output.name + suffix)
    new_index = outputs.replaced_file(index) if sites.is_sorted else contextlib.nullcontext()
    with new_index as partial_index, outputs.replaced_file(output) as partial:
        with pysam.BGZFile(str(partial), "wb") as file:
            file.write(_header(sites, columns, provenance).encode())
            for record in _records(sites.path):
                scored = list(itertools.islice(rows, len(record.alts or ())))
                file.write(_line(str(record), scored, columns).encode())
        if partial_index:
            pysam.tabix_index(str(partial), preset="vcf", index=str(partial_index), csi=is_long)
    output.with_name(output.name + other).unlink(missing_ok=True)
    if not sites.is_sorted:
        index.unlink(missing_ok=True)
        print(f"{sites.path}: not sorted by contig and position: no index was made", flush=True)


def _header(sites: Variants, columns: Sequence[Field], provenance: dict[str, object]) -> str:
    """Returns the header with our lines in front of the last one, which names the columns."""
    *lines, last = [
        line
        for line in sites.header.splitlines()
        if not line.startswith((f"##INFO=<ID={PREFIX}", "##cmgems_jax="))
    ]
    for field in columns:
        kind = "String" if field.column == "reason" else "Float"
        text = field.description.replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'##INFO=<ID={field.info},Number=A,Type={kind},Description="{text}">')
    values = ",".join(f'{name}="{value}"' for name, value in provenance.items())
    return "\n".join([*lines, f"##cmgems_jax=<{values}>", last]) + "\n"


def _line(text: str, scored: Sequence[np.void], columns: Sequence[Field]) -> str:
    """Returns a record's line with our INFO fields at the end of its own."""
    parts = text.rstrip("\n").split("\t")
    infos = [
        info for info in parts[_INFO].split(";") if info != "." and not info.startswith(PREFIX)
    ]
    if scored:
        values = zip(*map(cells, scored), strict=True)
        infos += [
            f"{field.info}={','.join(map(_spell, by_allele))}"
            for field, by_allele in zip(columns, values, strict=True)
        ]
    parts[_INFO] = ";".join(infos) or "."
    return "\t".join(parts) + "\n"


def _spell(value: float | str) -> str:
    """Returns a cell as text."""
    return value if isinstance(value, str) else f"{value:.6g}"
