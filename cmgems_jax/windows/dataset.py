"""Pretraining windows as a data set in a folder: made, described, and checked before use.

The genome is streamed three times (plan, train, validation).
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmgems_jax import config as config_lib
from cmgems_jax import terminal
from cmgems_jax.config import Config
from cmgems_jax.errors import InputError
from cmgems_jax.genome import files as genome_files
from cmgems_jax.genome import vocabulary
from cmgems_jax.runtime import outputs
from cmgems_jax.windows import cutting, synthetic_genome
from cmgems_jax.windows import files as window_files

SUMMARY_NAME = "windows.json"
SIXMERS_NAME = "train_6mers.npy"  # made when they are first asked for
_SIX, _CHUNK_WINDOWS = 6, 4_096
SETTINGS = (
    "seed",
    "data.num_tokens",
    "data.full_length_share",
    "data.validation_fraction",
    "data.split",
    "tokens.k",
    "tokens.stride",
)


class Written(NamedTuple):
    """What a way of writing the windows gives."""

    plan: cutting.Plan
    sha256: list[str]  # of the input files
    shards: window_files.Shards


def write_here(paths: list[str], config: Config, folder: Path) -> Written:
    """Writes the shards of files to `folder` in this process."""
    sha256 = [genome_files.sha256(path) for path in paths]
    plan = cutting.plan(paths, config)
    return Written(plan, sha256, window_files.write(folder, plan))


def prepare(
    config: Config,
    data_dir: Path,
    *,
    write: Callable[[list[str], Config, Path], Written] = write_here,
) -> Path:
    """Makes the data set of a config in the folder `data_dir`, or reuses the one that is there.

    It is written beside `data_dir` and renamed at the end, so that an interrupted run
    leaves nothing that looks complete. `write` writes the shards of files to a folder.

    Raises:
      InputError: no input, bad input, too little data, or `data_dir` holds
        something else.
    """
    data_dir, started = Path(data_dir), time.perf_counter()
    how = "reused"
    if not is_prepared(config, data_dir):
        if _make(config, data_dir, write, started):
            how = f"made in {time.perf_counter() - started:.1f} s"
        else:
            _check_same(config, data_dir)
    print(f"data: {data_dir} {how}: {report(read_summary(data_dir))}", flush=True)
    return data_dir


def is_prepared(config: Config, data_dir: Path) -> bool:
    """Returns whether the data set of a config is in `data_dir`, not whether it could be made.

    Contents are compared, not paths: first the files' bytes, and where these differ
    (packed otherwise, say) the bases. Files that are gone cannot be compared, which is
    printed; they are not needed any more.

    Raises:
      InputError: `data_dir` holds something else, or nothing and there is no input.
    """
    if (data_dir / SUMMARY_NAME).is_file():
        _check_same(config, data_dir)
        return True
    if data_dir.exists() and (not data_dir.is_dir() or any(data_dir.iterdir())):
        raise InputError(
            f"{data_dir}: exists and is not a prepared data set (no {SUMMARY_NAME}); "
            "give another data.dir, or remove it"
        )
    _check_input(config)
    return False


def settings(config: Config) -> dict[str, Any]:
    """Returns the fields that decide which windows there are."""
    flat = config_lib.flatten(config)
    return {name: flat[name] for name in SETTINGS}


def input_paths(config: Config, data_dir: Path) -> list[str]:
    """Returns the checked input files; a synthetic genome lies in `data_dir`, made if missing."""
    _check_input(config)
    if config.data.fasta:
        return config.fasta_paths
    path, data = data_dir / _synthetic_name(config), config.data
    synthetic_genome.write_genome(
        path, data.synthetic_bases, config.seed, repeats=data.synthetic_repeats
    )
    return [str(path)]


def _synthetic_name(config: Config) -> str:
    """Returns the file name of a synthetic genome."""
    repeats = config.data.synthetic_repeats
    planted = f"_repeats{repeats:g}" if repeats else ""
    return f"synthetic_{config.data.synthetic_bases}_bases_seed{config.seed}{planted}.fa"


def _check_input(config: Config) -> None:
    """Raises `InputError` unless there is a genome that looks like one."""
    if config.data.fasta:
        genome_files.check_files(config.fasta_paths)
    elif not config.data.synthetic_bases:
        raise InputError(
            "data.fasta is empty: give a genome with --config.data.fasta=GENOME.fa.gz (FASTA, "
            ".gz or .2bit; several with commas), or data.synthetic_bases for a synthetic one"
        )


def _make(config: Config, data_dir: Path, write: Callable, started: float) -> bool:
    """Makes it under another name, then renames; False if another process was there first."""
    data_dir = data_dir.resolve()  # of a link, the folder is replaced and the link stays
    if data_dir.is_mount():
        raise InputError(f"{data_dir}: is a mount point; give a folder in it")
    try:
        data_dir.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{data_dir}: cannot be made ({error.strerror}); give another") from None
    with outputs.hidden_folder(data_dir) as hidden:
        folder = hidden / "made"
        folder.mkdir()
        paths = input_paths(config, folder)
        files = paths if config.data.fasta else [str(data_dir / Path(paths[0]).name)]
        try:
            describe(folder, write(paths, config, folder), files, started)
            folder.rename(data_dir)
            return True
        except OSError:
            if not (data_dir / SUMMARY_NAME).is_file():
                raise
            return False


def describe(folder: Path, written: Written, files: list[str], started: float) -> None:
    """Writes what belongs to a data set's shards, wherever they lie, and `windows.json` at the end.

    `files` are those of the input, as they will be known; `started` is a `time.perf_counter()`.
    """
    plan = written.plan
    window_files.write_metadata(folder, plan, written.shards)
    summary = {
        "settings": settings(plan.config),
        "content": plan.content,
        "sha256": written.sha256,
        "files": files,
        "window_bases": plan.config.window_bases,
        "split": _split(plan),
        "split_note": plan.note,
        "windows": plan.windows,
        "real_bases": plan.bases,
        "held_out_contigs": plan.names,
        "short_pieces": plan.short_pieces[0],
        "short_pieces_bases": plan.short_pieces[1],
        "input": dataclasses.asdict(plan.tally) | {"ambiguous_share": plan.tally.ambiguous_share},
        "seconds": round(time.perf_counter() - started, 3),
    }
    (folder / SUMMARY_NAME).write_text(json.dumps(summary, indent=1) + "\n")


def _split(plan: cutting.Plan) -> str:
    """Returns what is held out, in words."""
    if plan.held_out_C is not None:
        return "contig"
    return f"blocks of {plan.block} windows" if plan.block > 1 else "window"


def report(summary: dict[str, Any]) -> str:
    """Returns what was made, on one line."""
    tally, windows, bases = summary["input"], summary["windows"], summary["real_bases"]
    note = summary.get("split_note", "")
    dropped = tally["dropped_pieces"] + summary["short_pieces"]
    dropped_bases = tally["dropped_bases"] + summary["short_pieces_bases"]
    return (
        f"{tally['bases']:,} bases in {tally['contigs']:,} contigs, "
        f"{tally['ambiguous_share']:.2%} ambiguous, {dropped:,} pieces too short for a k-mer "
        f"dropped ({dropped_bases:,} bases); {windows['train']:,} train windows "
        f"({bases['train']:,} bases), {windows['validation']:,} validation windows "
        f"({bases['validation']:,} bases), split by {summary['split']}{note and f' ({note})'}"
    )


def _check_same(config: Config, data_dir: Path) -> None:
    """Raises `InputError` where the data set that is there is another than the config's."""
    summary = read_summary(data_dir)
    before = summary["settings"]
    differing = [
        f"{name}={value!r} (there: {before.get(name)!r})"
        for name, value in settings(config).items()
        if before.get(name) != value
    ]
    files = ", ".join(summary["files"])
    gone = [path for path in config.fasta_paths if not Path(path).exists()]
    if gone and not differing:
        print(
            f"note: {', '.join(gone)}: no such file; continuing with the windows in {data_dir}, "
            f"made of {files}",
            flush=True,
        )
    elif not differing and not is_made_of(summary, config):
        differing.append(f"contents of the input files (there: {files})")
        if "content" not in summary:
            differing[-1] += (
                ", of which an earlier version kept only the sha256 as packed: give these files "
                "unchanged, or leave data.fasta empty to continue with the windows as they are"
            )
    if differing:
        raise InputError(
            f"{data_dir}: holds a data set with other settings: {'; '.join(differing)}; "
            "give another data.dir, or remove the folder"
        )
    if "content" not in summary and config.tokens.stride > 1:
        print(
            f"note: {data_dir}: an earlier version cut these windows without regard to "
            f"tokens.stride={config.tokens.stride}, out of frame; prepare them anew for new runs",
            flush=True,
        )


def is_made_of(summary: dict[str, Any], config: Config) -> bool:
    """Returns whether a data set's input is the config's, by contents; True where it has none.

    The config's files exist, as the caller has seen.
    """
    if paths := config.fasta_paths:
        genome_files.check_files(paths)
        if list(map(genome_files.sha256, paths)) == summary.get("sha256"):
            return True
        content = summary.get("content")
        return bool(content) and genome_files.survey(paths, progress=True).content == content
    if config.data.synthetic_bases:  # the seed is among the settings
        tally, name = summary["input"], Path(summary["files"][0]).name
        planted, planted_now = (
            one.partition("_repeats")[2] for one in (name, _synthetic_name(config))
        )
        num_bases = tally["bases"] + tally["dropped_bases"]
        is_as_long = num_bases == config.data.synthetic_bases
        return name.startswith("synthetic") and planted == planted_now and is_as_long
    return True


def identity(data_dir: Path) -> dict[str, Any]:
    """Returns what makes a data set the one it is: input, settings, and how it was cut."""
    summary = read_summary(data_dir)
    names = ("settings", "windows", "real_bases", "content", "sha256")
    kept = {name: summary[name] for name in names if name in summary}
    lengths = [data_dir / window_files.LENGTHS_NAME.format(split=name) for name in cutting.SPLITS]
    return kept | {"lengths": [genome_files.sha256(path) for path in lengths]}


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


def train_sixmers(data_dir: Path) -> np.ndarray:
    """Returns the counts of the training windows' 6-mers, int64 (4096,), by code.

    Counted once, and kept in the data set's folder where that can be written to.
    """
    path, shape = Path(data_dir) / SIXMERS_NAME, (4**_SIX,)
    with contextlib.suppress(OSError, ValueError, EOFError):
        counts_V = np.load(path)
        if counts_V.shape == shape:
            return counts_V
    windows, counts_V = open_split(data_dir, "train"), np.zeros(shape, np.int64)
    with terminal.bar(total=len(windows), unit="windows", desc="counting 6-mers") as bar:
        for bases_WN in windows.read_all(_CHUNK_WINDOWS):
            ids = vocabulary.tokenize(bases_WN, _SIX).ravel()
            counts_V += np.bincount(ids, minlength=vocabulary.size(_SIX))[vocabulary.NUM_SPECIAL :]
            bar.update(len(bases_WN))
    with contextlib.suppress(OSError, InputError), outputs.replaced_file(path) as partial:
        np.save(partial, counts_V)
    return counts_V


def open_split(data_dir: Path, split: str) -> window_files.StoredWindows:
    """Returns a split ("train" or "validation") of the data set in `data_dir`."""
    read_summary(data_dir)
    return window_files.StoredWindows(Path(data_dir), split)
