"""The files of a data set of pretraining windows: TFDS's array_record, and how they are read.

Shards are written here and not by a builder of TFDS, whose generator-based writer keeps a split
in memory up to 1 GB and beyond that needs TensorFlow.
"""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from tensorflow_datasets.core import dataset_info, example_serializer, file_adapters

from cmgems_jax import terminal
from cmgems_jax.config import Config
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.windows.cutting import SPLITS, Plan

SHARD_WINDOWS = 131_072
LENGTHS_NAME = "lengths_{split}.npy"  # bases of every window, so that rows are packed unread
Shards = dict[str, list[tuple[int, int]]]  # windows and bytes of the shards of every split
_NAME = "dna_windows"


def num_shards(plan: Plan, split: str) -> int:
    """Returns how many files a split has; all but the last hold `SHARD_WINDOWS` windows."""
    return -(-plan.windows[split] // SHARD_WINDOWS)


def write(folder: Path, plan: Plan) -> Shards:
    """Writes all windows of a plan, split by split; returns what was written."""
    shards: Shards = {split: [] for split in SPLITS}
    with terminal.bar(total=sum(plan.windows.values()), unit="windows", desc="windows") as bar:
        for split in SPLITS:
            rows = _one_by_one(plan.rows(split), bar)
            for shard in range(num_shards(plan, split)):
                some = itertools.islice(rows, SHARD_WINDOWS)
                path, number = write_shard(folder, plan, split, shard, some)
                shards[split].append((number, path.stat().st_size))
    return shards


def _one_by_one(chunks: Iterable[np.ndarray], bar: tqdm.tqdm) -> Iterator[np.ndarray]:
    """Yields the windows of chunks, which the bar counts."""
    for rows_WN in chunks:
        yield from rows_WN
        bar.update(len(rows_WN))


def write_shard(
    folder: Path, plan: Plan, split: str, shard: int, rows: Iterable[np.ndarray]
) -> tuple[Path, int]:
    """Writes the windows of one shard, each uint8 (N,); returns its file and their number."""
    features = _features(plan.config)
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    number = itertools.count()
    examples = (
        (next(number), serializer.serialize_example(features.encode_example({"bases": row_N})))
        for row_N in rows
    )
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=_NAME, split=split, filetype_suffix="array_record"
    )
    name = template.sharded_filepath(shard_index=shard, num_shards=num_shards(plan, split)).name
    file_adapters.ArrayRecordFileAdapter.write_examples(folder / name, examples)
    return folder / name, next(number)


def write_metadata(folder: Path, plan: Plan, shards: Shards) -> None:
    """Writes what TFDS reads the shards by, and the lengths of all windows."""
    written = {split: sum(number for number, _ in shards[split]) for split in SPLITS}
    assert written == plan.windows, (written, plan.windows)
    identity = dataset_info.DatasetIdentity(
        name=_NAME, version=tfds.core.Version("1.0.0"), data_dir=str(folder), module_name=""
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description="DNA windows cut from contigs without overlap; codes A T C G = 0..3, "
        f"{vocabulary.PADDING} = padding.",
        features=_features(plan.config),
    )
    info.set_file_format(tfds.core.FileFormat.ARRAY_RECORD)
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[number for number, _ in shards[split]],
            num_bytes=sum(size for _, size in shards[split]),
        )
        for split in SPLITS
    ]
    info.set_splits(tfds.core.splits.SplitDict(splits))
    info.write_to_directory(folder)
    for split, length_W in plan.lengths().items():
        np.save(folder / LENGTHS_NAME.format(split=split), length_W)


def _features(config: Config) -> tfds.features.FeaturesDict:
    """Returns the one feature; its fixed shape makes every record equally long."""
    bases = tfds.features.Tensor(shape=(config.window_bases,), dtype=np.uint8, encoding="bytes")
    return tfds.features.FeaturesDict({"bases": bases})


class StoredWindows:
    """One split of a prepared data set, for random access.

    Attributes:
      num_bases: of every row that `read` returns.
      lengths: unsigned (W,), real bases of every window.
    """

    def __init__(self, data_dir: Path, split: str) -> None:
        """Opens it; `dataset.open_split` says more where the data set is not there."""
        builder = tfds.builder_from_directory(str(data_dir))
        self.num_bases: int = builder.info.features["bases"].shape[0]
        self._source = builder.as_data_source(split)
        self.lengths: np.ndarray = _read_lengths(data_dir, split, len(self))

    def __len__(self) -> int:
        """Returns the number of windows."""
        return len(self._source)

    def read_all(self, chunk_windows: int) -> Iterator[np.ndarray]:
        """Yields all windows in order, as `read`, five times as fast.

        All records are equally long and end with their one feature, so nothing is decoded.
        """
        for first in range(0, len(self), chunk_windows):
            indices = range(first, min(first + chunk_windows, len(self)))
            records = b"".join(self._source.data_source.__getitems__(list(indices)))
            yield np.frombuffer(records, np.uint8).reshape(len(indices), -1)[:, -self.num_bases :]

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Returns windows by number (B,): uint8 (B, num_bases), `vocabulary.PADDING` behind."""
        rows = np.empty((len(indices), self.num_bases), np.uint8)
        examples = self._source.__getitems__(np.asarray(indices).tolist())
        for row_N, example in zip(rows, examples, strict=True):
            row_N[:] = example["bases"]
        return rows


def _read_lengths(data_dir: Path, split: str, num_windows: int) -> np.ndarray:
    """Returns the bases of every window, int (W,)."""
    path = data_dir / LENGTHS_NAME.format(split=split)
    try:
        length_W = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); remove {data_dir} and make it again"
        ) from None
    if length_W.shape != (num_windows,):
        raise InputError(
            f"{path}: holds {length_W.size:,} lengths, expected those of {num_windows:,} windows; "
            f"remove {data_dir} and make it again"
        )
    return length_W
