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
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer, writer

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
    """What one file holds."""

    number: int = 0
    sha256: str = ""
    names: tuple[str, ...] = ()
    lengths: tuple[int, ...] = ()
    digests: tuple[bytes, ...] = ()  # of every stretch of bases, see `genome.content`
    tally: genome_files.Tally = dataclasses.field(default_factory=genome_files.Tally)
    refusals: tuple[Refusal, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Planned:
    """The plan, or what is wrong with the input."""

    plan: Plan | None = None
    sha256: tuple[str, ...] = ()
    first_contig: tuple[int, ...] = ()  # of every file
    refusals: tuple[Refusal, ...] = ()


def prepare(config: Config, data_dir: Path | str, settings: Beam) -> None:
    """Makes the data set of a config as `windows.prepare` does, by a Beam pipeline.

    Args:
      config: inputs, window length, seed, split.
      data_dir: the data set's own folder. In a remote one (`gs://...`) the shards
        are written in place and windows.json last: without it, it is not whole.
      settings: runner and its options.

    Raises:
      InputError: as `windows.prepare`.
    """
    data_dir = str(data_dir)
    if not run.is_remote(data_dir):
        make = functools.partial(_make, settings=settings)
        dataset.prepare(config, Path(data_dir), make=make)
        return
    started, summary_path = time.perf_counter(), run.join(data_dir, dataset.SUMMARY_NAME)
    if run.exists(summary_path):
        raise InputError(f"{data_dir}: holds a data set already; give another --data_dir")
    if not config.data.fasta:
        raise InputError("data.fasta is empty: give files with --config.data.fasta=gs://...")
    run.check_inputs(config.fasta_paths)
    planned, shards = _run(config.fasta_paths, config, data_dir, settings)
    with tempfile.TemporaryDirectory() as folder:
        built = window_files.build(Path(folder), planned.plan, written=shards)
        for path in sorted(built.iterdir()):
            run.put(path, run.join(data_dir, path.name))
        seconds = time.perf_counter() - started
        content = dataset.summary(planned.plan, list(planned.sha256), seconds)
        path = Path(folder) / dataset.SUMMARY_NAME
        path.write_text(json.dumps(content, indent=1) + "\n")
        run.put(path, summary_path)
    print(f"data: {data_dir} made in {seconds:.1f} s: {dataset.report(content)}", flush=True)


def _make(paths: list[str], config: Config, partial: Path, *, settings: Beam) -> dataset.Made:
    """Returns the data set, made in `partial`, a folder that every worker sees."""
    shards_dir = partial / "shards"
    shards_dir.mkdir()
    planned, shards = _run(paths, config, str(shards_dir.absolute()), settings)
    folder = window_files.build(partial, planned.plan, written=shards)
    for path in shards_dir.glob("*.array_record*"):
        path.rename(folder / path.name)
    return dataset.Made(planned.plan, list(planned.sha256), folder)


def _run(
    paths: list[str], config: Config, folder: str, settings: Beam
) -> tuple[_Planned, window_files.Shards]:
    """Runs the pipeline, which writes the shards to `folder`; returns the plan and their sizes."""
    result = run.join(folder, _RESULT)

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
    run.remove(result)
    run.raise_first(planned.refusals)
    shards = {split: [] for split in SPLITS}
    for (split, _), *size in sorted(sizes):
        shards[split].append(tuple(size))
    return planned, shards


def _scan(item: tuple[int, str], k: int) -> _Scan:
    """Returns names and lengths of a file's contigs, or what is wrong with it."""

    def work(copy: str) -> _Scan:
        tally, names, lengths, digests = genome_files.Tally(), [], [], []
        contigs = genome_files.read_contigs([copy], min_length=k, tally=tally, digests=digests)
        for contig in contigs:
            names.append(cutting.contig_name(contig))
            lengths.append(len(contig.bases))
        sha256 = genome_files.sha256(copy)
        return _Scan(item[0], sha256, tuple(names), tuple(lengths), tuple(digests), tally)

    scan, refusals = run.attempt(item, work)
    return scan or _Scan(refusals=refusals)


def _plan(scans: list[_Scan], paths: list[str], config: Config) -> _Planned:
    """Returns the plan of all files in their order."""
    refusals = sum((scan.refusals for scan in scans), ())
    if refusals:
        return _Planned(refusals=refusals)
    scans = sorted(scans, key=lambda scan: scan.number)
    names = [name for scan in scans for name in scan.names]
    lengths = [length for scan in scans for length in scan.lengths]
    try:
        tally = genome_files.add_tallies(scan.tally for scan in scans)
        content = genome_files.content(digest for scan in scans for digest in scan.digests)
        plan = cutting.plan_of(paths, config, names, lengths, tally, content)
    except InputError as error:
        return _Planned(refusals=((len(paths), str(error)),))
    plan = dataclasses.replace(plan, pieces=None)  # a side input goes to every worker
    ends = np.cumsum([len(scan.lengths) for scan in scans])
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
    """Writes one shard, as TFDS does; returns which, its windows and its bytes."""
    (split, shard), chunks = item
    chunks = sorted(chunks, key=lambda chunk: chunk[0])
    numbers = np.cumsum([shard * window_files.SHARD_WINDOWS, *(len(rows) for _, rows in chunks)])
    assert [number for number, _ in chunks] == numbers[:-1].tolist(), (split, shard)
    features = window_files.features(planned.plan.config)
    shard_writer = writer.ShardWriter(
        features=features,
        serializer=example_serializer.ExampleSerializer(features.get_serialized_info()),
        example_writer=writer.ExampleWriter(file_format=window_files.FILE_FORMAT),
    )
    rows = (row_N for _, rows_WN in chunks for row_N in rows_WN)
    examples = ((number, {"bases": row_N}) for number, row_N in enumerate(rows))
    template = tfds.core.ShardedFileTemplate(
        data_dir=tempfile.gettempdir(),
        dataset_name=window_files.DnaWindows.name,
        split=split,
        filetype_suffix=window_files.FILE_FORMAT.file_suffix,
    )
    num_shards = window_files.num_shards(planned.plan, split)
    name = template.sharded_filepath(shard_index=shard, num_shards=num_shards).name
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / name
        num_windows = shard_writer.write(examples=examples, path=path)
        run.put(path, run.join(folder, name))
        return (split, shard), num_windows, path.stat().st_size
