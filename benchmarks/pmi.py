"""Counting k-mers, alone and as the whole PMI command, against jellyfish.

    python -m benchmarks.pmi --fasta=A.fa.gz,B.fa.gz

`jellyfish count` runs with two threads on the same records, unpacked, in memory. The
whole commands take the files as they are: ours reads, counts, writes table, summary
and picture; jellyfish gets `gzip -dc` through a pipe and dumps its counts as text. Without
jellyfish (apt-get install jellyfish) ours are timed alone. All counts are compared.
"""

import functools
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import flags

from benchmarks import result
from cmgems_jax.errors import InputError
from cmgems_jax.genome import files as genome_files
from cmgems_jax.genome import vocabulary
from cmgems_jax.pmi import counts as pmi_counts
from cmgems_jax.runtime import command

_FASTA = command.define_paths("fasta", None, "FASTA files, as for launch.count_pmi.", required=True)
_K = flags.DEFINE_integer("k", 6, "Bases a k-mer.", lower_bound=3, upper_bound=8)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed repeats of each.", lower_bound=1)
_THREADS = flags.DEFINE_integer("threads", 2, "Of jellyfish.", lower_bound=1)
_HASH_SIZE = "1M"  # of jellyfish; more than there are 8-mers


def main() -> None:
    """Runs the benchmark."""
    tally = genome_files.Tally()
    contigs = [contig.bases for contig in genome_files.read_contigs(_FASTA.value, tally=tally)]
    counts = pmi_counts.count_ngrams(contigs, _K.value)[-1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = folder / "all.fa"
        with plain.open("wb") as file:
            subprocess.run(["gzip", "-dcf", *_FASTA.value], stdout=file, check=True)
        works = {
            "count_ngrams, bases in memory": lambda: pmi_counts.count_ngrams(contigs, _K.value),
            "read and count plain FASTA": lambda: _read_and_count(plain),
            "launch.count_pmi, whole command": lambda: _ours(folder),
        }
        if shutil.which("jellyfish"):
            _compare(_jellyfish_counts(folder), counts)
            works["jellyfish count, plain FASTA"] = lambda: _count(folder, plain)
            works["gzip | jellyfish count, dump"] = lambda: _piped(folder)
        calls = {what: functools.partial(_timed, work) for what, work in works.items()}
        seconds = result.in_turn(calls, _REPEATS.value)
    notes = {
        "files": [Path(path).name for path in _FASTA.value],
        "bases": tally.bases,
        "contigs": tally.contigs,
        "k": _K.value,
        "jellyfish": _version(),
    }
    rates = {what: [tally.bases / 1e6 / s for s in values] for what, values in seconds.items()}
    result.report("pmi", rates, unit="Mbp/s", notes=notes)
    if shutil.which("jellyfish"):
        _print_ratios([float(np.median(values)) for values in seconds.values()])


def _print_ratios(median_s: list[float]) -> None:
    """Prints how many times as long jellyfish takes."""
    alone, read, whole, count, piped = median_s
    print(
        f"equal counts; jellyfish takes {count / alone:.2f} times as long as counting alone, "
        f"{count / read:.2f} times as reading and counting the same file, and its whole command "
        f"{piped / whole:.2f} times as ours"
    )


def _timed(work: Callable[[], object]) -> float:
    """Returns seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _read_and_count(path: Path) -> None:
    """Counts an unpacked file from its text on."""
    contigs = genome_files.read_contigs(path)
    pmi_counts.count_ngrams((contig.bases for contig in contigs), _K.value)


def _ours(folder: Path) -> None:
    """Runs the whole command in a fresh process."""
    flag_values = [
        f"--fasta={','.join(_FASTA.value)}",
        f"--k={_K.value}",
        f"--output={folder / 'pmi'}",
    ]
    _run([sys.executable, "-m", "launch.count_pmi", *flag_values])


def _count(folder: Path, path: Path | str, **options: object) -> None:
    """Runs `jellyfish count`."""
    settings = [f"-m{_K.value}", f"-s{_HASH_SIZE}", f"-t{_THREADS.value}", "-o"]
    _run(["jellyfish", "count", *settings, str(folder / "counts.jf"), str(path)], **options)


def _piped(folder: Path) -> None:
    """Runs jellyfish's whole command: unpack, count, dump as text."""
    with subprocess.Popen(["gzip", "-dcf", *_FASTA.value], stdout=subprocess.PIPE) as unpacked:
        _count(folder, "/dev/stdin", stdin=unpacked.stdout)
    _run(["jellyfish", "dump", "-c", "-o", str(folder / "counts.txt"), str(folder / "counts.jf")])


def _jellyfish_counts(folder: Path) -> np.ndarray:
    """Returns jellyfish's counts: int64 (4**k,) by our codes."""
    _piped(folder)
    counts = np.zeros(4**_K.value, np.int64)
    for line in (folder / "counts.txt").read_text().splitlines():
        kmer, count = line.split()
        counts[vocabulary.kmer_code(kmer)] = int(count)
    return counts


def _compare(theirs: np.ndarray, ours: np.ndarray) -> None:
    """Raises `InputError` where the counts differ."""
    differing = np.flatnonzero(theirs != ours)
    if len(differing):
        names = [vocabulary.kmers(_K.value)[code] for code in differing[:3]]
        raise InputError(f"{len(differing)} counts differ from jellyfish's: {', '.join(names)}")


def _version() -> str:
    """Returns jellyfish's version, or that it is not there."""
    if not shutil.which("jellyfish"):
        return "not installed"
    return subprocess.run(
        ["jellyfish", "--version"], capture_output=True, text=True, check=True
    ).stdout.strip()


def _run(command_line: list[str], **options: object) -> None:
    """Runs a program; its output is shown where it fails."""
    done = subprocess.run(
        command_line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        **options,
    )  # fmt: skip
    if done.returncode:
        raise InputError(f"{command_line[0]} failed: {done.stdout}")


if __name__ == "__main__":
    command.run(main)
