"""Seconds of launch.count_pmi and launch.prepare_data by the size of the genome, and for 3.1 Gbp.

    python -m benchmarks.preparation --fasta=A.fa.gz,B.fa.gz --mbp=1,10,31,133

Every size is a gzip file of that many bases from the front of the input, in contigs of
at most --contig_mbp. Both commands run in fresh processes, sizes in turn. A line through the
medians (least squares on relative errors) is drawn out to a human genome.
"""

import gzip
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags

from benchmarks import result
from cmgems_jax import command, genome, vocabulary
from cmgems_jax.errors import InputError

_FASTA = command.define_paths("fasta", None, "FASTA files.", required=True)
_MBP = flags.DEFINE_list("mbp", ["1", "10", "31", "133"], "Sizes, millions of bases.")
_CONTIG_MBP = flags.DEFINE_integer("contig_mbp", 50, "Longest contig.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Timed repeats of each.", lower_bound=1)
_CONFIG = flags.DEFINE_string("config", "configs/dnabert6.py", "Of launch.prepare_data.")
_HUMAN = 3.1e9  # bases of GRCh38
_PACKING_LEVEL = 6


def main() -> None:
    """Runs the benchmark."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = _cut(folder)
        calls = {}
        for bases, path in files.items():
            calls[f"count_pmi {bases / 1e6:.3g} Mbp"] = lambda path=path: _seconds(
                "count_pmi", folder, [f"--fasta={path}"], "output"
            )
            calls[f"prepare_data {bases / 1e6:.3g} Mbp"] = lambda path=path: _seconds(
                "prepare_data", folder,
                [f"--config={_CONFIG.value}", f"--config.data.fasta={path}"], "data_dir",
            )  # fmt: skip
        seconds = result.in_turn(calls, _REPEATS.value)
    notes = {"config": _CONFIG.value}
    for program in ("count_pmi", "prepare_data"):
        medians = [np.median(values) for kind, values in seconds.items() if program in kind]
        start_s, bases_a_second = line(list(files), medians)
        notes[f"{program}, reasoned"] = (
            f"{start_s:.2f} s and {bases_a_second / 1e6:,.1f} Mbp/s; "
            f"3.1 Gbp: {(start_s + _HUMAN / bases_a_second) / 60:.1f} minutes"
        )
    result.report("preparation", seconds, unit="s", notes=notes)


def line(bases: list[int], seconds: list[float]) -> tuple[float, float]:
    """Returns seconds of a start, and bases a second behind it; small sizes weigh as large ones."""
    design = np.stack([np.ones(len(bases)), np.array(bases, float)], axis=1)
    weight = 1 / np.array(seconds)
    start_s, second_a_base = np.linalg.lstsq(design * weight[:, None], np.ones(len(bases)))[0]
    return float(start_s), float(1 / second_a_base)


def _cut(folder: Path) -> dict[int, Path]:
    """Writes the files of all sizes; returns them by their bases."""
    longest = _CONTIG_MBP.value * 1_000_000
    wanted = sorted(int(float(size) * 1e6) for size in _MBP.value)
    contigs = [c.bases for c in genome.read_contigs(_FASTA.value)]
    bases = np.concatenate(contigs)
    files = {}
    for size in wanted:
        taken = bases[:size]
        if len(taken) < 0.95 * size:
            raise InputError(f"--fasta: {len(bases):,} bases, --mbp asks for {size:,}")
        path = folder / f"{size}.fa.gz"
        with gzip.open(path, "wt", compresslevel=_PACKING_LEVEL) as file:
            for number, start in enumerate(range(0, len(taken), longest)):
                letters = vocabulary.decode(taken[start : start + longest])
                rows = (letters[place : place + 80] for place in range(0, len(letters), 80))
                file.write(f">contig{number}\n" + "\n".join(rows) + "\n")
        files[len(taken)] = path
    return files


def _seconds(program: str, folder: Path, settings: list[str], output: str) -> float:
    """Returns the seconds of one command in a fresh process; its output is removed."""
    with tempfile.TemporaryDirectory(dir=folder) as made:
        line = [sys.executable, "-m", f"launch.{program}", *settings, f"--{output}={made}/out"]
        start = time.perf_counter()
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise InputError(f"launch.{program}: {done.stderr}")
        return seconds


if __name__ == "__main__":
    command.run(main)
