"""The files of a data set of pretraining windows, written by TFDS as array_record.

The builder is shard-based: TFDS's generator-based writer keeps a split in memory
up to 1 GB and beyond that needs TensorFlow.
"""

import contextlib
import functools
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from absl import logging

from cmgems_jax.config import Config
from cmgems_jax.genome import vocabulary
from cmgems_jax.windows import cutting

SHARD_WINDOWS = 131_072  # bounds memory: TFDS holds the examples of one shard
LENGTHS_NAME = "lengths_{split}.npy"  # bases of every window, so that rows are packed unread
FILE_FORMAT = tfds.core.FileFormat.ARRAY_RECORD
Shards = dict[str, list[tuple[int, int]]]  # windows and bytes of the shards of every split


def features(config: Config) -> tfds.features.FeaturesDict:
    """Returns the one feature; its fixed shape makes every record equally long."""
    bases = tfds.features.Tensor(shape=(config.window_bases,), dtype=np.uint8, encoding="bytes")
    return tfds.features.FeaturesDict({"bases": bases})


def num_shards(plan: cutting.Plan, split: str) -> int:
    """Returns how many files a split has; all but the last hold `SHARD_WINDOWS` windows."""
    return -(-plan.windows[split] // SHARD_WINDOWS)


class DnaWindows(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Windows of base codes, all of one length, filled behind with `vocabulary.PADDING`."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # nothing is downloaded; TFDS's look-up needs an undeclared package

    def __init__(
        self,
        plan: cutting.Plan,
        progress: tqdm.tqdm | None = None,
        written: Shards | None = None,
        **arguments: Any,
    ) -> None:
        """Takes what to write, or what has been written elsewhere; `arguments` are TFDS's."""
        self._plan = plan
        self._progress = progress
        self._written = written
        super().__init__(**arguments)

    def _info(self) -> tfds.core.DatasetInfo:
        """Everything that TFDS asks for."""
        return tfds.core.DatasetInfo(
            builder=self,
            description="DNA windows cut from contigs without overlap; codes A T C G = 0..3, "
            f"{vocabulary.PADDING} = padding.",
            features=features(self._plan.config),
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        """Writes the shards, unless that was done elsewhere: then it only notes their sizes."""
        if self._written is None:
            super()._download_and_prepare(dl_manager, download_config)
            return
        infos = [
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[length for length, _ in shards],
                num_bytes=sum(size for _, size in shards),
                filename_template=self._get_filename_template(split_name=split),
            )
            for split, shards in self._written.items()
        ]
        self.info.set_splits(tfds.core.splits.SplitDict(infos))

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list]:
        """One stream a split; TFDS asks for its shards one after another."""
        del dl_manager
        shards = {}
        for split in cutting.SPLITS:
            examples = self._examples(split)
            lengths = [SHARD_WINDOWS] * num_shards(self._plan, split)
            shards[split] = [functools.partial(itertools.islice, examples, n) for n in lengths]
        return shards

    def _examples(self, split: str) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Yields (number, example)."""
        number = itertools.count()
        for rows_WN in self._plan.rows(split):
            yield from ((next(number), {"bases": row_N}) for row_N in rows_WN)
            self._progress.update(len(rows_WN))


def build(partial: Path, plan: cutting.Plan, progress: Any = None, written: Any = None) -> Path:
    """Returns the folder of a data set, windows and lengths; arguments as of `DnaWindows`."""
    with quiet_tfds():
        builder = DnaWindows(plan, progress, written, data_dir=partial, file_format=FILE_FORMAT)
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    found = {split: builder.info.splits[split].num_examples for split in cutting.SPLITS}
    assert found == plan.windows, (found, plan.windows)
    folder = Path(builder.data_dir)
    for split, length_W in plan.lengths().items():
        np.save(folder / LENGTHS_NAME.format(split=split), length_W)
    return folder


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """TFDS announces downloads and generation on stdout and in the log, and draws bars."""
    verbosity = logging.get_verbosity()
    tfds.disable_progress_bar()
    logging.set_verbosity(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
