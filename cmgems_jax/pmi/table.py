"""PMI tables and k-mer counts as files, checked when read; the embedded GRCh38 counts."""

import csv
import dataclasses
import importlib.resources
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cmgems_jax.config import Config
from cmgems_jax.errors import InputError
from cmgems_jax.genome import files as genome_files
from cmgems_jax.genome import input_files, vocabulary
from cmgems_jax.pmi import counts as pmi_counts
from cmgems_jax.pmi import scores as pmi_scores

COLUMNS = ("kmer", "count", "pmi", "npmi", "rank")
_NUM_SHOWN = 3  # offenders named in an error
_LETTERS_SHOWN = 40  # of a bad field
_MAX_TOTAL = 2**62  # PMI doubles the total; int64 would wrap without a word


@dataclasses.dataclass
class PmiTable:
    """PMI of every k-mer by its code."""

    k: int
    count: np.ndarray  # int64 (4**k,)
    pmi: np.ndarray  # float64 (4**k,), nats; NaN where count is 0
    npmi: np.ndarray  # float64 (4**k,), nats; NaN where count is 0
    rank: np.ndarray  # int32 (4**k,), 1 = best


def make(
    counts: list[np.ndarray],
    k: int,
    *,
    segmentation: str = "published",
    min_count: int = pmi_scores.MIN_COUNT,
) -> PmiTable:
    """Returns the table of n-gram counts; arguments as in `pmi.npmi`."""
    scores = pmi_scores.npmi(counts, k, segmentation=segmentation, min_count=min_count)
    plain = pmi_scores.pmi(counts, k, segmentation=segmentation)
    return PmiTable(k, counts[k - 1], plain, scores, pmi_scores.rank(scores))


def write(table: PmiTable, path: Path | str) -> None:
    """Writes a CSV sorted by rank; pmi and npmi of k-mers that do not occur are empty."""
    kmers = vocabulary.kmers(table.k)
    with open(path, "w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for code in np.argsort(table.rank).tolist():
            scores = (table.pmi[code], table.npmi[code])
            text = ["" if math.isnan(score) else repr(float(score)) for score in scores]
            rows.writerow([kmers[code], table.count[code], *text, table.rank[code]])


def read(path: Path | str, k: int) -> PmiTable:
    """Returns a table that `write` wrote.

    Raises:
      InputError: naming file, line and the first offenders: other columns, k-mers
        of another length, missing or twice, values that are not numbers, a rank
        that does not follow from the NPMI, lines not sorted by rank.
    """
    table = PmiTable(
        k,
        np.full(4**k, -1, np.int64),
        np.full(4**k, np.nan),
        np.full(4**k, np.nan),
        np.zeros(4**k, np.int32),
    )
    remedy = f"make it again (python -m launch.count_pmi --k={k})"
    for line, row in _rows(path, "a PMI table", COLUMNS, remedy):
        code = _kmer_code(path, line, row[0], k, table.count)
        table.count[code] = _number(path, line, "count", row[1], int)
        if row[2] or row[3] or table.count[code]:
            table.pmi[code] = _number(path, line, "pmi", row[2], float)
            table.npmi[code] = _number(path, line, "npmi", row[3], float)
        table.rank[code] = _number(path, line, "rank", row[4], int)
        if table.rank[code] != line - 1:
            raise InputError(
                f"{path}: line {line}: rank {row[4]} of {row[0]}: expected {line - 1}; "
                f"lines must be sorted by rank, 1 to {4**k}; {remedy}"
            )
    _refuse_missing(path, table.count, k, remedy)
    expected = pmi_scores.rank(table.npmi)
    wrong = np.flatnonzero(expected != table.rank)
    if len(wrong):
        named = ", ".join(vocabulary.kmers(k)[code] for code in wrong[:_NUM_SHOWN])
        raise InputError(
            f"{path}: the ranks of {len(wrong)} k-mers do not follow from their npmi "
            f"({named}, ...); {remedy}"
        )
    return table


def read_counts(path: Path | str) -> np.ndarray:
    """Returns k-mer counts from a CSV with columns kmer,count: int64 (4**k,) by code.

    k is the length of the first k-mer.

    Raises:
      InputError: naming file, line and the first offenders, as `read`.
    """
    remedy = "expected one line 'KMER,COUNT' for each of the 4**k k-mers"
    k, counts = 0, np.zeros(0, np.int64)
    for line, row in _rows(path, "k-mer counts", COLUMNS[:2], remedy):
        if not k:
            k = len(row[0])
            if not vocabulary.MIN_K <= k <= vocabulary.MAX_K:
                raise InputError(
                    f"{path}: line {line}: k-mer {row[0][:_LETTERS_SHOWN]!r} of length {k}: "
                    f"expected {vocabulary.MIN_K} to {vocabulary.MAX_K}"
                )
            counts = np.full(4**k, -1, np.int64)
        code = _kmer_code(path, line, row[0], k, counts)
        counts[code] = _number(path, line, "count", row[1], int)
    if not k:
        raise InputError(f"{path}: no k-mer; {remedy}")
    _refuse_missing(path, counts, k, remedy)
    if not counts.any():
        raise InputError(f"{path}: every count is 0")
    if counts.sum(dtype=np.float64) >= _MAX_TOTAL:
        raise InputError(f"{path}: the counts add up to 2**62 or more: not counts of a genome")
    return counts


def grch38_counts() -> np.ndarray:
    """Returns the embedded 6-mer counts of GRCh38: int64 (4096,) by code."""
    resource = importlib.resources.files("cmgems_jax") / "grch38_6mer_counts.csv"
    with importlib.resources.as_file(resource) as path:
        return read_counts(path)


def ranks_for(config: Config, fasta_paths: Sequence[str]) -> np.ndarray:
    """Returns int32 (4**k,), the ranks of `table_for`, permuted where `masking.ranks` says so."""
    ranks_V = table_for(config, fasta_paths).rank
    if config.masking.ranks == "shuffled":  # the same for every seed: one fixed set of k-mers
        ranks_V = np.random.default_rng(0).permutation(ranks_V)
    return ranks_V


def table_for(config: Config, fasta_paths: Sequence[str]) -> PmiTable:
    """Returns the table that `config.pmi` asks for; a "corpus" is counted."""
    k, settings = config.tokens.k, config.pmi
    if config.has_pmi_table:
        return read(config.pmi_source, k)
    if config.pmi_source == "grch38":
        counts = pmi_counts.counts_from_kmers(grch38_counts())
    else:
        contigs = genome_files.read_contigs(fasta_paths, progress=True)
        counts = pmi_counts.count_ngrams((contig.bases for contig in contigs), k)
        if config.data.reverse_complement:  # what the model reads
            counts = [pmi_counts.of_both_strands(one) for one in counts]
    return make(counts, k, segmentation=settings.segmentation, min_count=settings.min_count)


def _rows(
    path: Path | str, what: str, columns: tuple[str, ...], remedy: str
) -> Iterator[tuple[int, list[str]]]:
    """Yields (line, fields) behind a file's header, each with as many fields as the header."""
    content = io.BytesIO(input_files.read_unpacked(path, what))
    text = io.TextIOWrapper(content, newline="", encoding="utf-8-sig", errors="replace")
    try:
        for line, row in enumerate(csv.reader(text), 1):
            if line == 1 and tuple(row) != columns:
                raise InputError(
                    f"{path}: line 1: expected the columns {','.join(columns)}, found "
                    f"{','.join(row)[:60]!r}; {remedy}"
                )
            if len(row) != len(columns):
                raise InputError(
                    f"{path}: line {line}: expected {len(columns)} fields, found {len(row)}; "
                    f"{remedy}"
                )
            if line > 1:
                yield line, row
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV file ({error}); {remedy}") from None


def _kmer_code(path: Path, line: int, kmer: str, k: int, seen: np.ndarray) -> int:
    """Returns the k-mer's code; `seen` is -1 where a code has not been read yet."""
    if len(kmer) != k:
        raise InputError(
            f"{path}: line {line}: k-mer {kmer[:_LETTERS_SHOWN]!r} of length {len(kmer)}: "
            f"expected k={k}"
        )
    try:
        code = vocabulary.kmer_code(kmer)
    except ValueError as error:
        raise InputError(f"{path}: line {line}: {error}") from None
    if seen[code] >= 0:
        raise InputError(f"{path}: line {line}: k-mer {kmer} stands here a second time")
    return code


def _number(path: Path, line: int, name: str, text: str, kind: type) -> float:
    """Returns a finite number, not negative where it is a count or rank."""
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not (0 <= value < 2**63 if kind is int else math.isfinite(value)):
        expected = "a whole number from 0" if kind is int else "a number"
        raise InputError(
            f"{path}: line {line}: {name} {text[:_LETTERS_SHOWN]!r}: expected {expected}"
        )
    return value


def _refuse_missing(path: Path, seen: np.ndarray, k: int, remedy: str) -> None:
    """Raises `InputError` unless every k-mer was read."""
    missing = np.flatnonzero(seen < 0)
    if len(missing):
        named = ", ".join(vocabulary.kmers(k)[code] for code in missing[:_NUM_SHOWN])
        raise InputError(
            f"{path}: {len(missing)} of {4**k} {k}-mers are missing ({named}"
            f"{', ...' if len(missing) > _NUM_SHOWN else ''}); {remedy}"
        )
