"""Files and folders that are whole or not there: written beside, renamed at the end."""

import contextlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cmgems_jax.errors import InputError
from cmgems_jax.runtime import run_lock

TABLE_SUFFIXES = (".tsv", ".parquet")
_INCOMPLETE = ".incomplete-"  # in the names of hidden folders
_ROW_GROUP = 16_384  # rows in memory before they are written to a parquet file


def nearest_folder(path: Path) -> Path:
    """Returns the path, or the nearest one above it, that exists."""
    return next(one for one in (path, *path.absolute().parents) if one.exists())


def check_file(
    path: Path | str, suffixes: Sequence[str], inputs: Sequence[Path | str] = ()
) -> None:
    """Raises `InputError` where a file, new or to be replaced, cannot be made, before any work.

    `inputs` are files that it must not replace.
    """
    path = Path(path)
    if not path.name.endswith(tuple(suffixes)):
        raise InputError(
            f"--output={path}: unknown kind of file {path.suffix!r}; expected a name that ends in "
            f"{' or '.join(suffixes)}"
        )
    if path.is_dir():
        raise InputError(f"--output={path}: is a folder; give a file name in it")
    if not path.parent.is_dir():
        raise InputError(f"--output={path}: no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"--output={path}: {path.parent} cannot be written to")
    for one in inputs:
        if path.exists() and os.path.exists(one) and path.samefile(one):
            raise InputError(f"--output={path}: is an input, {one}; give another name")


@contextlib.contextmanager
def hidden_folder(path: Path) -> Iterator[Path]:
    """Yields a new hidden folder beside `path`, which is removed at the end of the block.

    Those that killed processes of this host have left beside it are removed first. A
    lock in the folder tells them, not a number of a process, which another process or
    host may have too; what is not known to be left is named and stays.
    """
    path = path.absolute()
    prefix = f".{path.name}{_INCOMPLETE}"
    for left in sorted(path.parent.iterdir()):
        if left.name.startswith(prefix) and left.is_dir():
            _remove_if_left(left)
    try:
        made = tempfile.TemporaryDirectory(
            dir=path.parent, prefix=prefix, ignore_cleanup_errors=True
        )
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); give another") from None
    with made as name:
        with run_lock.held(Path(name)):
            yield Path(name)


def _remove_if_left(folder: Path) -> None:
    """Removes another process's hidden folder where that process is dead, and names it."""
    try:
        holder = (folder / run_lock.NAME).read_text()
    except OSError:
        holder = ""
    if not holder.endswith(f" on {platform.node()}"):  # its lock need not be seen from here
        print(
            f"note: {folder}: of {holder or 'an unknown process'}; remove it if that has ended",
            flush=True,
        )
        return
    with contextlib.suppress(run_lock.InUse), run_lock.held(folder):
        shutil.rmtree(folder)
        print(f"removed {folder}: left by {holder}, which was killed", flush=True)


@contextlib.contextmanager
def replaced_file(path: Path | str) -> Iterator[Path]:
    """Yields a hidden path that takes the place of `path` when the block succeeds."""
    path = Path(path).resolve()  # of a link, the file is replaced and the link stays
    with hidden_folder(path) as folder:
        yield folder / path.name
        (folder / path.name).replace(path)


def write_json(path: Path, values: Any) -> None:
    """Writes JSON, whole or not at all."""
    with replaced_file(path) as partial:
        partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def table(path: Path | str, schema: pa.Schema) -> Iterator[Callable[[Sequence], None]]:
    """Yields a function that takes one row; the rows go to a file that appears when all are in.

    Args:
      path: .tsv (floats with six digits) or .parquet (written in row groups).
      schema: names and types of the columns.
    """
    opened = _tsv if Path(path).suffix == ".tsv" else _parquet
    with replaced_file(path) as partial, opened(partial, schema) as add:
        yield add


@contextlib.contextmanager
def _tsv(path: Path, schema: pa.Schema) -> Iterator[Callable[[Sequence], None]]:
    """Writes line by line."""
    with path.open("w", encoding="utf-8") as file:
        file.write("\t".join(schema.names) + "\n")

        def add(row: Sequence) -> None:
            cells = (f"{cell:.6g}" if isinstance(cell, float) else str(cell) for cell in row)
            file.write("\t".join(cells) + "\n")

        yield add


@contextlib.contextmanager
def _parquet(path: Path, schema: pa.Schema) -> Iterator[Callable[[Sequence], None]]:
    """Writes row group by row group."""
    rows: list[Sequence] = []
    with pq.ParquetWriter(path, schema) as writer:

        def flush() -> None:
            if rows:
                columns = zip(zip(*rows, strict=True), schema.types, strict=True)
                arrays = [pa.array(column, kind) for column, kind in columns]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
                rows.clear()

        def add(row: Sequence) -> None:
            rows.append(row)
            if len(rows) >= _ROW_GROUP:
                flush()

        yield add
        flush()


def check_folder(output: Path | str, names: Sequence[str], marks: Sequence[str]) -> None:
    """Raises `InputError` where a folder cannot be made, or holds something else.

    Args:
      output: a new or empty folder, or one that the same command made.
      names: of everything that the command may write in it.
      marks: those that it always writes; a folder with all of them is its own.
    """
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise InputError(f"--output={output}: is a file; give a folder")
    parent = nearest_folder(output.absolute().parent)
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"--output={output}: cannot be made in {parent}; give another folder")
    if not output.exists():
        return
    if output.samefile(Path.cwd()):
        raise InputError(f"--output={output}: is the current folder; give a new one")
    present = {path.name for path in output.iterdir() if _INCOMPLETE not in path.name}
    others = sorted(present - set(names) if present >= set(marks) else present)
    if others:
        raise InputError(
            f"--output={output}: holds other files ({', '.join(others[:3])}); give a new folder"
        )


@contextlib.contextmanager
def replaced_folder(output: Path | str) -> Iterator[Path]:
    """Yields a hidden folder beside `output` that takes its place when the block succeeds."""
    output = Path(output).resolve()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output={output}: cannot be made ({error.strerror})") from None
    with hidden_folder(output) as hidden:
        folder, before = hidden / "made", hidden / "before"
        folder.mkdir()
        yield folder
        try:
            if output.exists():
                output.rename(before)
            folder.rename(output)
        except BaseException:  # an interrupt too
            if before.exists() and not output.exists():
                before.rename(output)
            raise
