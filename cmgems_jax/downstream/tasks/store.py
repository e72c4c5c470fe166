"""Labelled sequences as a TFDS data set, so that their text is read once.

Shard-based and array_record for the reasons given in data/window_files.py: no TensorFlow.
"""

import contextlib
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from absl import logging

from cmgems_jax import terminal
from cmgems_jax.genome import vocabulary
from cmgems_jax.runtime import outputs

_SHARD_ROWS = 65_536  # bounds memory: TFDS holds the examples of one shard
_READ_ROWS = 4_096


@dataclasses.dataclass
class Examples:
    """The labelled sequences of one split."""

    bases_NM: np.ndarray  # uint8 (N, M), base codes, `vocabulary.PADDING` behind
    labels_N: np.ndarray  # int32 (N,), in [0, C)
    rows_N: np.ndarray  # int32 (N,), lines of the file; 1 is the header
    path: str

    def take(self, chosen: np.ndarray) -> "Examples":
        """Returns the rows that an index or mask chooses."""
        return Examples(
            self.bases_NM[chosen], self.labels_N[chosen], self.rows_N[chosen], self.path
        )


class LabelledSequences(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Splits of (bases, label, row), all sequences padded to one length."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # nothing is downloaded; TFDS's look-up needs an undeclared package

    def __init__(
        self,
        splits: dict[str, Examples],
        label_names: list[str],
        progress: tqdm.tqdm,
        **arguments: Any,
    ) -> None:
        """Takes what to write; `arguments` are TFDS's."""
        self._splits = splits
        self._label_names = label_names
        self._progress = progress
        super().__init__(**arguments)

    def _info(self) -> tfds.core.DatasetInfo:
        """The features; the file names go with them."""
        num_bases = next(iter(self._splits.values())).bases_NM.shape[1]
        features = {
            "bases": tfds.features.Tensor(shape=(num_bases,), dtype=np.uint8, encoding="bytes"),
            "label": tfds.features.ClassLabel(names=self._label_names),
            "row": tfds.features.Scalar(dtype=np.int32),
        }
        names = {split: Path(examples.path).name for split, examples in self._splits.items()}
        return tfds.core.DatasetInfo(
            builder=self,
            description="Labelled sequences; codes A T C G = 0..3, "
            f"{vocabulary.AMBIGUOUS} = any other letter, {vocabulary.PADDING} = padding.",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(files=names),
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list]:
        """The rows of a split, in their order, cut into shards."""
        del dl_manager
        return {
            split: [
                self._shard(examples, start)
                for start in range(0, len(examples.labels_N), _SHARD_ROWS)
            ]
            for split, examples in self._splits.items()
        }

    def _shard(self, examples: Examples, start: int) -> Any:
        """Returns what yields (number, example) when TFDS asks for the shard."""

        def rows() -> Iterator[tuple[int, dict[str, Any]]]:
            columns = (examples.bases_NM, examples.labels_N, examples.rows_N)
            shard = (column[start : start + _SHARD_ROWS] for column in columns)
            for number, (bases_M, label, row) in enumerate(zip(*shard, strict=True), start):
                yield number, {"bases": bases_M, "label": int(label), "row": int(row)}
                self._progress.update(1)

        return rows


def write(folder: Path, splits: dict[str, Examples], label_names: list[str]) -> None:
    """Writes a data set beside `folder` and renames it, so that no half of one is ever there.

    Args:
      folder: its own folder; if another process makes it first, that one stays.
      splits: by name; all of one padded length.
      label_names: of the classes 0, 1, ...
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    num_rows = sum(len(examples.labels_N) for examples in splits.values())
    with (
        outputs.hidden_folder(folder) as partial,
        terminal.bar(total=num_rows, unit="rows", desc="storing") as progress,
        _quiet_tfds(),
    ):
        builder = LabelledSequences(
            splits, label_names, progress, data_dir=partial, file_format="array_record"
        )
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
        try:
            Path(builder.data_dir).rename(folder)
        except OSError:
            if not folder.is_dir():
                raise


def read(folder: Path, source: Path) -> tuple[dict[str, Examples], list[str]]:
    """Returns what `write` was given.

    Args:
      folder: of the data set.
      source: folder of the text files, for `Examples.path`.

    Returns:
      Splits by name, and the names of the classes.
    """
    with _quiet_tfds():
        builder = tfds.builder_from_directory(str(folder))
        splits = {
            split: _read_split(builder, split, str(source / name))
            for split, name in builder.info.metadata["files"].items()
        }
    return splits, list(builder.info.features["label"].names)


def _read_split(builder: Any, split: str, path: str) -> Examples:
    """Returns one split, in the order in which it was written."""
    records = builder.as_data_source(split)
    num_rows, num_bases = len(records), builder.info.features["bases"].shape[0]
    examples = Examples(
        np.empty((num_rows, num_bases), np.uint8),
        np.empty(num_rows, np.int32),
        np.empty(num_rows, np.int32),
        path,
    )
    for start in range(0, num_rows, _READ_ROWS):
        numbers = list(range(start, min(start + _READ_ROWS, num_rows)))
        for number, record in zip(numbers, records.__getitems__(numbers), strict=True):
            examples.bases_NM[number] = record["bases"]
            examples.labels_N[number] = record["label"]
            examples.rows_N[number] = record["row"]
    return examples


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """TFDS announces downloads and generation on stdout and in the log, and draws bars."""
    verbosity = logging.get_verbosity()
    tfds.disable_progress_bar()
    logging.set_verbosity(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
