"""Embeddings of the records of a FASTA file: last-layer states, pooled or token by token.

Axes: B windows, L token positions, T k-mers, D hidden.
"""

import dataclasses
import itertools
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from cmgems_jax.config import Config
from cmgems_jax.downstream.finetuning import classifier
from cmgems_jax.downstream.finetuning.classifier import TrainedClassifier
from cmgems_jax.downstream.inference import sliding
from cmgems_jax.downstream.inference.settings import DEFAULT_WINDOWS, WindowSettings
from cmgems_jax.downstream.inference.sliding import Records, Survey, Tiling, WindowOutputs
from cmgems_jax.genome import files as genome_files
from cmgems_jax.genome import input_files, vocabulary
from cmgems_jax.model import bert, strands
from cmgems_jax.pretraining import pretrained
from cmgems_jax.pretraining.pretrained import Pretrained
from cmgems_jax.runtime import outputs, parallel

POOLINGS = ("mean", "cls", "tokens")
SUFFIXES = (".npz", ".parquet")
_TOKEN_CHUNK = 2  # batches of states in memory: 100 MB at 32 x 512 x 768


@dataclasses.dataclass
class Embedder:
    """An encoder, pretrained or of a classifier."""

    config: Config
    params: dict  # of bert.Encoder
    max_tokens: int  # positions of a window at most, [CLS] and [SEP] included
    strand: str = "forward"  # of `vocabulary.STRANDS`, from which it is meant to read
    programs: dict[tuple[str, str], Callable] = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )  # by pooling and strand, see `program`


def load_embedder(path: Path | str) -> Embedder:
    """Returns the encoder of a pretraining run's or a classifier's folder, else `InputError`."""
    path = Path(path)
    if (path / classifier.RECORD).exists():
        return of_classifier(classifier.load_classifier(path))
    return of_pretrained(pretrained.load(path))


def of_classifier(trained: TrainedClassifier) -> Embedder:
    """Returns the encoder of a classifier, which takes windows as long as its training rows."""
    return Embedder(trained.config, trained.params["encoder"], trained.max_tokens, trained.strand)


def of_pretrained(encoder: Pretrained) -> Embedder:
    """Returns the encoder of a run, which takes windows as long as those of its pretraining."""
    data = encoder.config.data
    strand = "both" if data.reverse_complement else "forward"
    return Embedder(encoder.config, encoder.params, data.num_tokens, strand)


def embed(
    embedder: Embedder,
    fasta: genome_files.Paths,
    output: Path | str,
    settings: WindowSettings = DEFAULT_WINDOWS,
    *,
    pooling: str = "mean",
) -> Survey:
    """Writes the embeddings of every record and prints their shapes.

    Of a record longer than a window, a k-mer that two windows see is taken from the one where
    it stands farther from the edge. Memory does not grow with the number of records.

    Args:
      fasta: files; ambiguous letters become [UNK] tokens.
      output: .npz or .parquet. mean, cls: arrays (or columns) ids (N,) and embeddings
        float32 (N, D). tokens: npz has one array float32 (T, D) per record under its
        name, row t for the k-mer that starts at base t * tokens.stride; parquet one row
        per k-mer: record, start_0based, embedding. The strand is an array of npz, a comment
        of npz of tokens, metadata of parquet.
      settings: states of the other strand are aligned to the forward one.
      pooling: "mean" over the record's k-mers without ambiguous letters; "cls", the
        state of [CLS], mean over windows; "tokens", every k-mer, [UNK] included.

    Raises:
      InputError: a bad flag or file; a former output stays as it was.
    """
    records, output = genome_files.Records(input_files.listed(fasta)), Path(output)
    outputs.check_file(output, SUFFIXES)
    windows, tiling, survey = run(embedder, records, pooling, settings)
    start_s, strand = time.perf_counter(), tiling.strand
    size, is_tokens = embedder.config.model.hidden_size, pooling == "tokens"
    if output.suffix == ".parquet":
        rows = _token_rows(windows, tiling) if is_tokens else record_rows(windows)
        contents = _write_parquet(rows, output, size, is_tokens, strand)
    elif is_tokens:
        contents = _write_tokens(windows, output, size, strand)
    else:
        rows = record_rows(windows)
        contents = _write_records(rows, output, (survey.num_records, size), strand)
    print(f"{pooling}: {contents}")
    sliding.print_summary(survey, tiling, output, time.perf_counter() - start_s)
    return survey


def run(
    embedder: Embedder, records: Records, pooling: str, settings: WindowSettings
) -> tuple[WindowOutputs, Tiling, Survey]:
    """Returns the windows with their outputs (see `_function`), how they are cut, what there is.

    The outputs are for `record_rows` or `record_states`. Errors as of `embed`.
    """
    strand = settings.strand or embedder.strand
    tiling = sliding.make_tiling(
        embedder.config.tokens, embedder.max_tokens, settings.window, settings.stride, strand
    )
    survey = sliding.survey(records, tiling, needs_known=pooling == "mean")
    windows = sliding.run_windows(
        sliding.read_windows(records, tiling),
        program(embedder, pooling, strand),
        tiling,
        batch_size=settings.batch_size,
        num_windows=survey.num_windows,
        description="embedding",
        chunk_batches=_TOKEN_CHUNK if pooling == "tokens" else sliding.CHUNK_BATCHES,
    )
    return windows, tiling, survey


def program(embedder: Embedder, pooling: str, strand: str) -> Callable[..., tuple]:
    """Returns `(bases_BN, owned_B2) -> outputs` of `_function`, which compiles a shape once."""
    if (pooling, strand) not in embedder.programs:
        function = _function(embedder.config, pooling, strand)
        embedder.programs[pooling, strand] = parallel.rows_program(function, embedder.params)
    return embedder.programs[pooling, strand]


def _function(config: Config, pooling: str, strand: str) -> Callable[..., tuple[jax.Array, ...]]:
    """Returns `(params, bases_BN, owned_B2) -> outputs` for `sliding.run_windows`.

    The outputs are sums (B, D) with counts (B,), or states of the k-mers (B, T, D).
    """
    tokens = config.tokens
    model = bert.Encoder(config.model, tokens)

    def ids_of(bases_BN: jax.Array) -> jax.Array:
        return vocabulary.model_ids(bases_BN, tokens.k, tokens.stride)

    states = strands.on_strand(
        lambda params, bases_BN: model.apply({"params": params}, ids_of(bases_BN)),
        strand,
        align=lambda states_BLD, bases_BN: strands.align_tokens(states_BLD, ids_of(bases_BN)),
    )

    def function(params: dict, bases_BN: jax.Array, owned_B2: jax.Array) -> tuple[jax.Array, ...]:
        ids_BL = ids_of(bases_BN)
        states_BLD = states(params, bases_BN).astype(jnp.float32)
        if pooling == "cls":
            return states_BLD[:, 0], jnp.ones(len(ids_BL), jnp.int32)
        if pooling == "tokens":
            return (states_BLD[:, 1:-1],)
        kmer_L = jnp.arange(ids_BL.shape[1], dtype=jnp.int32) - 1  # the first one follows [CLS]
        counts_BL = (
            (ids_BL >= vocabulary.NUM_SPECIAL)
            & (kmer_L[None] >= owned_B2[:, :1])
            & (kmer_L[None] < owned_B2[:, 1:])
        )
        sums_BD = jnp.where(counts_BL[:, :, None], states_BLD, 0).sum(axis=1)
        return sums_BD, counts_BL.sum(axis=1, dtype=jnp.int32)

    return function


def record_rows(windows: WindowOutputs) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (record, its pooled embedding float32 (D,))."""
    sum_D, count = 0.0, 0
    for window, (window_sum_D, window_count) in windows:
        sum_D, count = sum_D + window_sum_D.astype(np.float64), count + int(window_count)
        if window.is_last:
            yield window.record, (sum_D / count).astype(np.float32)
            sum_D, count = 0.0, 0


def record_states(windows: WindowOutputs) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yields (record, the states of its k-mers in order, float32 (T, D) in parts)."""
    for record, of_record in itertools.groupby(windows, key=lambda pair: pair[0].record):
        yield (
            record,
            [states_TD[one.first_owned : one.end_owned] for one, (states_TD,) in of_record],
        )


def _token_rows(windows: WindowOutputs, tiling: Tiling) -> Iterator[tuple[str, int, np.ndarray]]:
    """Yields (record, start in bases, state float32 (D,)) of every k-mer."""
    for window, (states_TD,) in windows:
        for position in range(window.first_owned, window.end_owned):
            start = window.start + position * tiling.token_stride
            yield window.record, start, states_TD[position]


def _write_parquet(
    rows: Iterator[tuple], output: Path, size: int, is_tokens: bool, strand: str
) -> str:
    """Writes one row per record or k-mer; returns what the file holds, in words."""
    vector = pa.list_(pa.float32(), size)
    columns = {"ids": pa.string(), "embeddings": vector}
    if is_tokens:
        columns = {"record": pa.string(), "start_0based": pa.int64(), "embedding": vector}
    num_rows = 0
    with outputs.table(output, pa.schema(columns, {"strand": strand})) as add:
        for row in rows:
            add(row)
            num_rows += 1
    return f"{num_rows:,} rows: {', '.join(columns)} ({size},) float32"


def _write_records(
    rows: Iterator[tuple[str, np.ndarray]], output: Path, shape: tuple[int, int], strand: str
) -> str:
    """Writes the .npz of ids and embeddings; the ids alone are held in memory."""
    ids = []

    def embeddings() -> Iterator[np.ndarray]:
        for record, embedding_D in rows:
            ids.append(record)
            yield embedding_D

    with outputs.replaced_file(output) as partial, zipfile.ZipFile(partial, "w") as archive:
        _write_array(archive, "embeddings", shape, embeddings())
        for name, value in (("ids", ids), ("strand", strand)):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.array(value), allow_pickle=False)
    return f"embeddings {shape} float32, ids ({shape[0]},)"


def _write_tokens(windows: WindowOutputs, output: Path, size: int, strand: str) -> str:
    """Writes the .npz of one array per record, which alone is held in memory."""
    num_arrays = num_kmers = 0
    with outputs.replaced_file(output) as partial, zipfile.ZipFile(partial, "w") as archive:
        archive.comment = f"strand: {strand}".encode()
        for record, parts in record_states(windows):
            length = sum(map(len, parts))
            _write_array(archive, record, (length, size), parts)
            num_arrays, num_kmers = num_arrays + 1, num_kmers + length
    return f"{num_arrays} arrays (k-mers, {size}) float32, {num_kmers:,} k-mers in all"


def _write_array(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, int], parts: Iterable[np.ndarray]
) -> None:
    """Adds a float32 array to an .npz, part by part."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(part.astype("<f4").tobytes())
