"""Pretraining windows (data/cutting.py) as a TFDS data set: made, checked, read.

The genome is streamed three times (plan, train, validation).
"""

import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from cmgems_jax import config as config_lib
from cmgems_jax import genome, synthetic, terminal
from cmgems_jax.config import Config
from cmgems_jax.data import cutting, window_files
from cmgems_jax.errors import InputError

SUMMARY_NAME = "windows.json"
SETTINGS = (
    "seed",
    "data.num_tokens",
    "data.full_length_share",
    "data.validation_fraction",
    "data.split",
    "tokens.k",
    "tokens.stride",
)


@dataclasses.dataclass(frozen=True)
class Made:
    """What a way of making the data set gives: its plan, sha256 of the inputs, and the files."""

    plan: cutting.Plan
    sha256: list[str]
    folder: Path


def make_here(paths: list[str], config: Config, partial: Path) -> Made:
    """Returns the data set, made in `partial` by this process."""
    sha256 = [genome.sha256(path) for path in paths]
    plan = cutting.plan(paths, config)
    total = sum(plan.windows.values())
    with terminal.bar(total=total, unit="windows", desc="windows") as progress:
        return Made(plan, sha256, window_files.build(partial, plan, progress))


def prepare(
    config: Config,
    data_dir: Path,
    *,
    make: Callable[[list[str], Config, Path], Made] = make_here,
) -> Path:
    """Makes the data set of a config in `data_dir`, or reuses the one that is there.

    It is written beside `data_dir` and renamed at the end, so that an
    interrupted run leaves nothing that looks complete.

    Args:
      config: inputs, window length, seed, split.
      data_dir: the data set's own folder.
      make: writes it, in this process unless told otherwise.

    Returns:
      `data_dir`.

    Raises:
      InputError: no input, bad input, too little data, or `data_dir` holds
        something else.
    """
    data_dir = Path(data_dir)
    started = time.perf_counter()
    wanted = {"settings": settings(config)}
    prepared = (data_dir / SUMMARY_NAME).is_file()
    if not prepared and data_dir.exists() and (not data_dir.is_dir() or any(data_dir.iterdir())):
        raise InputError(
            f"{data_dir}: exists and is not a prepared data set (no {SUMMARY_NAME}); "
            "give another data.dir, or remove it"
        )
    if prepared:
        _check_same(data_dir, wanted)
    how = "reused"
    if not prepared or config.data.fasta or config.data.synthetic_bases:
        paths = input_paths(config, data_dir)
        if not prepared and _write(paths, config, data_dir, make, started):
            how = f"made in {time.perf_counter() - started:.1f} s"
        else:
            _check_same(data_dir, wanted | {"sha256": [genome.sha256(path) for path in paths]})
    print(f"data: {data_dir} {how}: {report(read_summary(data_dir))}", flush=True)
    return data_dir


def settings(config: Config) -> dict[str, Any]:
    """Returns the fields that decide which windows there are."""
    flat = config_lib.flatten(config)
    return {name: flat[name] for name in SETTINGS}


def input_paths(config: Config, data_dir: Path) -> list[str]:
    """Returns the checked input files; the synthetic genome is made first where it is the input."""
    if config.data.fasta:
        paths = config.fasta_paths
    elif config.data.synthetic_bases:
        path = Path(data_dir).absolute().parent / "synthetic.fa"
        synthetic.write_genome(path, config.data.synthetic_bases, config.seed)
        paths = [str(path)]
    else:
        raise InputError(
            "data.fasta is empty: give a genome with --config.data.fasta=GENOME.fa.gz (FASTA, "
            ".gz or .2bit; several with commas), or data.synthetic_bases for a synthetic one"
        )
    genome.check_files(paths)
    return paths


def _write(
    paths: list[str], config: Config, data_dir: Path, make: Callable, started: float
) -> bool:
    """Writes under another name, then renames; False if another process was there first."""
    data_dir.absolute().parent.mkdir(parents=True, exist_ok=True)
    partial = Path(
        tempfile.mkdtemp(prefix=f".{data_dir.name}.incomplete-", dir=data_dir.absolute().parent)
    )
    try:
        made = make(paths, config, partial)
        content = summary(made.plan, made.sha256, time.perf_counter() - started)
        (made.folder / SUMMARY_NAME).write_text(json.dumps(content, indent=1) + "\n")
        made.folder.rename(data_dir)
        return True
    except OSError:
        if not (data_dir / SUMMARY_NAME).is_file():
            raise
        return False
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def summary(plan: cutting.Plan, sha256: list[str], seconds: float) -> dict[str, Any]:
    """Returns the content of `windows.json`."""
    return {
        "settings": settings(plan.config),
        "sha256": sha256,
        "files": plan.paths,
        "window_bases": plan.config.window_bases,
        "split": "window" if plan.held_out_C is None else "contig",
        "windows": plan.windows,
        "real_bases": plan.bases,
        "held_out_contigs": plan.names,
        "short_pieces": plan.short_pieces[0],
        "short_pieces_bases": plan.short_pieces[1],
        "input": dataclasses.asdict(plan.tally) | {"ambiguous_share": plan.tally.ambiguous_share},
        "seconds": round(seconds, 3),
    }


def report(summary: dict[str, Any]) -> str:
    """Returns what was made, on one line."""
    tally, windows, bases = summary["input"], summary["windows"], summary["real_bases"]
    dropped = tally["dropped_pieces"] + summary["short_pieces"]
    dropped_bases = tally["dropped_bases"] + summary["short_pieces_bases"]
    return (
        f"{tally['bases']:,} bases in {tally['contigs']:,} contigs, "
        f"{tally['ambiguous_share']:.2%} ambiguous, {dropped:,} pieces too short for a k-mer "
        f"dropped ({dropped_bases:,} bases); {windows['train']:,} train windows "
        f"({bases['train']:,} bases), {windows['validation']:,} validation windows "
        f"({bases['validation']:,} bases), split by {summary['split']}"
    )


def _check_same(data_dir: Path, wanted: dict[str, Any]) -> None:
    """The data set that is there is the wanted one."""
    found = read_summary(data_dir)
    differing = [
        f"{name}={value!r} (there: {found['settings'].get(name)!r})"
        for name, value in wanted["settings"].items()
        if found["settings"].get(name) != value
    ]
    if found["sha256"] != wanted.get("sha256", found["sha256"]):
        differing.append(f"contents of the input files (there: {', '.join(found['files'])})")
    if differing:
        raise InputError(
            f"{data_dir}: holds a data set with other settings: {'; '.join(differing)}; "
            "give another data.dir, or remove the folder"
        )


def read_summary(data_dir: Path) -> dict[str, Any]:
    """Returns the content of a data set's `windows.json`: settings, counts, held-out contigs."""
    path = Path(data_dir) / SUMMARY_NAME
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(
            f"{data_dir}: not a prepared data set (no {SUMMARY_NAME}); make it with "
            "python -m launch.prepare_data"
        ) from None
    except ValueError as error:
        raise InputError(
            f"{path}: not JSON ({error}); remove {data_dir} and make it again"
        ) from None


def _read_lengths(data_dir: Path, split: str, num_windows: int) -> np.ndarray:
    """Returns the bases of every window, int (W,)."""
    path = data_dir / window_files.LENGTHS_NAME.format(split=split)
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


class Windows:
    """One split of a prepared data set, for random access.

    Attributes:
      num_bases: of every row that `read` returns.
      lengths: unsigned (W,), real bases of every window.
    """

    def __init__(self, data_dir: Path, split: str) -> None:
        """Opens the split; use `open`."""
        builder = tfds.builder_from_directory(str(data_dir))
        self.num_bases: int = builder.info.features["bases"].shape[0]
        self._source = builder.as_data_source(split)
        self.lengths: np.ndarray = _read_lengths(data_dir, split, len(self._source))

    def __len__(self) -> int:
        """Returns the number of windows."""
        return len(self._source)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Returns windows by number.

        Args:
          indices: int (B,), each in [0, len).

        Returns:
          uint8 (B, num_bases), base codes, `vocabulary.PADDING` behind.
        """
        rows = np.empty((len(indices), self.num_bases), np.uint8)
        for row_N, example in zip(
            rows, self._source.__getitems__(np.asarray(indices).tolist()), strict=True
        ):
            row_N[:] = example["bases"]
        return rows


def open(data_dir: Path, split: str) -> Windows:
    """Returns a split ("train" or "validation") of the data set in `data_dir`."""
    read_summary(data_dir)
    return Windows(Path(data_dir), split)
