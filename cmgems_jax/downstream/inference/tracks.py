"""Tracks for genome browsers: bedGraph, bigWig and BED, written as their values come.

All three are 0-based and half-open. Values come in the order of the contigs and positions.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyBigWig

from cmgems_jax.errors import InputError
from cmgems_jax.runtime import outputs

SUFFIXES = (".bedgraph", ".bw")  # of values; regions are .bed
REGIONS_SUFFIX = ".bed"
_MAX_CONTIG = 2**32 - 1  # bases; positions in a bigWig are uint32


class _BedGraph:
    """One line for each bin."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")
        self.close = self._file.close

    def add(self, contig: str, starts: np.ndarray, ends: np.ndarray, values: np.ndarray) -> None:
        """Takes bins that do not overlap, in order."""
        rows = zip(starts.tolist(), ends.tolist(), values.tolist(), strict=True)
        self._file.writelines(
            f"{contig}\t{start}\t{end}\t{value:.6g}\n" for start, end, value in rows
        )

    def add_bases(self, contig: str, start: int, values: np.ndarray) -> None:
        """Takes one value for each base from `start` on; NaN for none."""
        known = np.flatnonzero(~np.isnan(values))
        self.add(contig, start + known, start + known + 1, values[known])


class _BigWig:
    """pyBigWig's binary form, with its zoom levels; methods as of `_BedGraph`."""

    def __init__(self, path: Path, lengths: Mapping[str, int]) -> None:
        self._file = pyBigWig.open(str(path), "w")
        self._file.addHeader(list(lengths.items()))
        self.close = self._file.close

    def add(self, contig: str, starts: np.ndarray, ends: np.ndarray, values: np.ndarray) -> None:
        self._file.addEntries(
            [contig] * len(starts), starts.tolist(), ends=ends.tolist(), values=values.tolist()
        )

    def add_bases(self, contig: str, start: int, values: np.ndarray) -> None:
        edges = np.flatnonzero(np.diff(~np.isnan(values), prepend=False, append=False)).tolist()
        for first, end in zip(edges[::2], edges[1::2], strict=True):
            run = values[first:end].tolist()
            self._file.addEntries(contig, start + first, values=run, span=1, step=1)


@contextlib.contextmanager
def opened(output: Path, lengths: Mapping[str, int]) -> Iterator[_BedGraph | _BigWig]:
    """Yields a new track, which appears when the block succeeds.

    Args:
      output: .bedgraph (values with six digits) or .bw (float32).
      lengths: bases of every contig, in the order in which values will come.
    """
    if longest := [name for name, length in lengths.items() if length > _MAX_CONTIG]:
        raise InputError(f"contig '{longest[0]}': longer than {_MAX_CONTIG:,} bases: no track")
    with outputs.replaced_file(output) as partial:
        is_text = output.suffix == ".bedgraph"
        with contextlib.closing(
            _BedGraph(partial) if is_text else _BigWig(partial, lengths)
        ) as track:
            yield track
