"""Rows of a long computation, kept beside its output as they come, so that it resumes."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cmgems_jax.errors import InputError
from cmgems_jax.runtime import outputs, run_lock

_INPUTS, _ROWS = "inputs.json", "rows"


class KeptRows:
    """Rows of one dtype, on disk as soon as they are added."""

    def __init__(self, file: BinaryIO, dtype: np.dtype) -> None:
        """Takes what whole rows the file has; a torn one at its end is dropped."""
        self._file, self.dtype = file, dtype
        self.cut(len(self))

    def __len__(self) -> int:
        """Returns the number of rows."""
        return self._file.seek(0, os.SEEK_END) // self.dtype.itemsize

    def cut(self, num_rows: int) -> None:
        """Drops the rows behind the first `num_rows`."""
        self._file.truncate(num_rows * self.dtype.itemsize)

    def add(self, rows: np.ndarray) -> None:
        """Appends rows of the dtype."""
        self._file.write(rows.astype(self.dtype).tobytes())  # opened to append
        self._file.flush()
        os.fsync(self._file.fileno())

    def read(self, start: int, count: int) -> np.ndarray:
        """Returns `count` rows from number `start` on, fewer where there are no more."""
        self._file.seek(start * self.dtype.itemsize)
        return np.frombuffer(self._file.read(count * self.dtype.itemsize), self.dtype)


@contextlib.contextmanager
def opened(output: Path | str, dtype: np.dtype, inputs: dict[str, Any]) -> Iterator[KeptRows]:
    """Yields the rows that were kept for an output; they are removed when the block succeeds.

    They lie in a hidden folder beside the output, `.NAME.unfinished`. A block that breaks
    off leaves what it has added, for the same command to resume. `inputs` is everything that the
    rows depend on, as plain values for JSON.

    Raises:
      InputError: another process works on the output, or rows of other inputs are there.
    """
    output = Path(output).resolve()
    folder = output.with_name(f".{output.name}.unfinished")
    inputs = json.loads(json.dumps({**inputs, "rows": dtype.descr}))
    try:
        with run_lock.held(folder):
            _check_same(folder, inputs, output)
            with (folder / _ROWS).open("a+b") as file:
                try:
                    yield (rows := KeptRows(file, dtype))
                except BaseException:
                    if not len(rows):
                        shutil.rmtree(folder)
                    raise
            shutil.rmtree(folder)
    except run_lock.InUse:
        raise InputError(
            f"--output={output}: another process works on it ({folder} is locked); wait for it, "
            "or give another --output"
        ) from None


def _check_same(folder: Path, inputs: dict[str, Any], output: Path) -> None:
    """Raises `InputError` where rows of other inputs are kept; writes down new inputs."""
    path = folder / _INPUTS
    if not path.exists():
        outputs.write_json(path, inputs)
        return
    before = json.loads(path.read_text())
    names = {*before, *inputs}
    if others := sorted(name for name in names if before.get(name) != inputs.get(name)):
        raise InputError(
            f"--output={output}: {folder} keeps rows of a run that was cut off, with another "
            f"{', '.join(others)}; give the same to resume it, or remove that folder"
        )
