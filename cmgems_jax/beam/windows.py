"""The data set of windows by an Apache Beam pipeline: the same files as windows.py, byte for byte.

    files ── scan ──────────▶ lengths of contigs ── plan ──┐ (to every worker)
      └───── cut ◀─────────────────────────────────────────┤
              └─▶ (shard, rows) ── group ── write shard ◀──┘

How a contig is cut follows from the seed, its number in the input and its length.
One pass therefore finds the lengths, file by file, side by side; the plan then
says for every contig which windows it gives and their numbers; and a second pass
cuts each file wherever it lies, and sends chunks of rows to the worker that writes
their shard in the order of the numbers. A worker holds one record of a genome, or
one shard.
"""

import dataclasses
import functools
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cmgems_jax.beam import run
from cmgems_jax.beam.run import Beam, Refusal
from cmgems_jax.config import Config
from cmgems_jax.errors import InputError
from cmgems_jax.genome import files as genome_files
from cmgems_jax.windows import cutting, dataset
from cmgems_jax.windows import files as window_files
from cmgems_jax.windows.cutting import SPLITS, Plan

if TYPE_CHECKING:
    import apache_beam

_RESULT = "written.pickle"
_Shard = tuple[str, int]  # split and number
_Chunk = tuple[int, np.ndarray]  # number of the first row in the split, rows


@dataclasses.dataclass(frozen=True)
class _Scan:
    """What one file holds, or what is wrong with it."""

    number: int = 0
    sha256: str = ""
    survey: genome_files.Survey = dataclasses.field(default_factory=genome_files.Survey)
    refusals: tuple[Refusal, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Planned:
    """The plan, or what is wrong with the input."""

    plan: Plan | None = None
    sha256: tuple[str, ...] = ()
    first_contig: tuple[int, ...] = ()  # of every file
    refusals: tuple[Refusal, ...] = ()


def prepare(config: Config, data_dir: Path | str, settings: Beam) -> None:
    """Makes the data set of a config as `windows.dataset.prepare` does, by a Beam pipeline.

    In a remote folder (`gs://...`) the shards are written in place and windows.json last:
    without it, it is not whole.

    Raises:
      InputError: as `windows.dataset.prepare`.
    """
    data_dir = str(data_dir)
    if not run.is_remote(data_dir):
        write = functools.partial(_write, settings=settings)
        dataset.prepare(config, Path(data_dir), write=write)
        return
    started, summary_path = time.perf_counter(), os.path.join(data_dir, dataset.SUMMARY_NAME)
    if run.file_systems().exists(summary_path):
        raise InputError(f"{data_dir}: holds a data set already; give another --data_dir")
    if not config.data.fasta:
        raise InputError("data.fasta is empty: give files with --config.data.fasta=gs://...")
    run.check_inputs(config.fasta_paths)
    written = _write(config.fasta_paths, config, data_dir, settings=settings)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset.describe(folder, written, config.fasta_paths, started)
        for path in sorted(folder.iterdir(), key=lambda path: path.name == dataset.SUMMARY_NAME):
            run.put(path, os.path.join(data_dir, path.name))
        summary = dataset.read_summary(folder)
    seconds = summary["seconds"]
    print(f"data: {data_dir} made in {seconds:.1f} s: {dataset.report(summary)}", flush=True)


def _write(
    paths: list[str], config: Config, folder: Path | str, *, settings: Beam
) -> dataset.Written:
    """Runs the pipeline, which writes the shards to a folder that every worker sees."""
    folder = str(folder if run.is_remote(str(folder)) else Path(folder).absolute())
    result = os.path.join(folder, _RESULT)

    def build(pipeline: "apache_beam.Pipeline") -> None:
        import apache_beam as beam

        files = pipeline | "files" >> beam.Create(list(enumerate(paths)))
        files = files | "spread" >> beam.Reshuffle()
        scans = files | "scan" >> beam.Map(_scan, config.tokens.k)
        scans = scans | "all scans" >> beam.combiners.ToList()
        planned = scans | "plan" >> beam.Map(_plan, paths, config)
        side = beam.pvalue.AsSingleton(planned)
        chunks = files | "cut" >> beam.FlatMap(_cut, side)
        shards = chunks | "by shard" >> beam.GroupByKey()
        sizes = shards | "write" >> beam.Map(_write_shard, side, folder)
        sizes = sizes | "all sizes" >> beam.combiners.ToList()
        pair = sizes | "with plan" >> beam.Map(lambda sizes, planned: (planned, sizes), side)
        _ = pair | "save" >> beam.Map(run.save, result)

    run.run(settings, build)
    planned, sizes = run.load(result)
    run.file_systems().delete([result])
    run.raise_first(planned.refusals)
    shards = {split: [] for split in SPLITS}
    for (split, _), *size in sorted(sizes):
        shards[split].append(tuple(size))
    return dataset.Written(planned.plan, list(planned.sha256), shards)


def _scan(item: tuple[int, str], k: int) -> _Scan:
    """Returns names and lengths of a file's contigs, or what is wrong with it."""

    def work(copy: str) -> _Scan:
        survey = genome_files.survey([copy], min_length=k)
        return _Scan(item[0], genome_files.sha256(copy), survey)

    scan, refusals = run.attempt(item, work)
    return scan or _Scan(refusals=refusals)


def _plan(scans: list[_Scan], paths: list[str], config: Config) -> _Planned:
    """Returns the plan of all files in their order."""
    refusals = sum((scan.refusals for scan in scans), ())
    if refusals:
        return _Planned(refusals=refusals)
    scans = sorted(scans, key=lambda scan: scan.number)
    try:
        survey = sum((scan.survey for scan in scans), genome_files.Survey())
        plan = cutting.plan_of(paths, config, survey)
    except InputError as error:
        return _Planned(refusals=((len(paths), str(error)),))
    plan = dataclasses.replace(plan, pieces=None)  # a side input goes to every worker
    ends = np.cumsum([len(scan.survey.lengths) for scan in scans])
    first_contig = (0, *ends[:-1].tolist())
    return _Planned(plan, tuple(scan.sha256 for scan in scans), first_contig)


def _cut(item: tuple[int, str], planned: _Planned) -> Iterator[tuple[_Shard, _Chunk]]:
    """Yields the windows of one file in chunks that no shard's end divides."""
    if planned.plan is None:
        return
    size, plan = window_files.SHARD_WINDOWS, planned.plan
    before_CS = np.cumsum(plan.windows_CS, axis=0) - plan.windows_CS
    with run.local_copy(item[1]) as copy:
        contigs = genome_files.read_contigs([copy], min_length=plan.config.tokens.k)
        for index, contig in enumerate(contigs, planned.first_contig[item[0]]):
            cut = plan.contig_windows(index)
            for column, split in enumerate(SPLITS):
                number = int(before_CS[index, column])
                for rows_WN in plan.contig_rows(contig.bases, cut, split):
                    while len(rows_WN):
                        room = size - number % size
                        yield (split, number // size), (number, rows_WN[:room])
                        number, rows_WN = number + len(rows_WN[:room]), rows_WN[room:]


def _write_shard(
    item: tuple[_Shard, Iterable[_Chunk]], planned: _Planned, folder: str
) -> tuple[_Shard, int, int]:
    """Writes one shard; returns which, its windows and its bytes."""
    (split, shard), chunks = item
    chunks = sorted(chunks, key=lambda chunk: chunk[0])
    numbers = np.cumsum([shard * window_files.SHARD_WINDOWS, *(len(rows) for _, rows in chunks)])
    assert [number for number, _ in chunks] == numbers[:-1].tolist(), (split, shard)
    rows = (row_N for _, rows_WN in chunks for row_N in rows_WN)
    with tempfile.TemporaryDirectory() as made:
        path, number = window_files.write_shard(Path(made), planned.plan, split, shard, rows)
        run.put(path, os.path.join(folder, path.name))
        return (split, shard), number, path.stat().st_size
