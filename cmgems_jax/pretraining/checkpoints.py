"""Checkpoints: one orbax folder per step, with the train state, its checksums and the config.

`WORKDIR/checkpoints/STEP/{state,checksums,config,clock}`. The state is stored as
host arrays, so that any number of devices restores it; the checksums are of those
arrays, so that a flipped bit anywhere on the way shows. The clock makes the seconds
of a resumed run those of all its steps; earlier versions saved it in `unlogged`.
"""

import contextlib
import dataclasses
import json
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from cmgems_jax import config as config_lib
from cmgems_jax.config import Config
from cmgems_jax.errors import InputError, TrainingError
from cmgems_jax.pretraining.steps import TrainState
from cmgems_jax.runtime import parallel

FOLDER = "checkpoints"
DAMAGED_FOLDER = "damaged_checkpoints"
# Fields that may change between two starts of one run: they shape no number in it. Where the
# input lies is one; that its content stays the same is run_inputs' to see.
FREE_FIELDS = frozenset(
    {
        "log_every", "checkpoint_every", "keep_checkpoints", "keep_every", "data.dir", "data.fasta",
        "init_from.step",
    }
)  # fmt: skip
_LONGER = (
    "\nnum_steps shapes the learning rate of every step, so a run cannot be lengthened: the same "
    "command with another --workdir trains all the steps, from the first; with another --workdir "
    "and --init_from={workdir} it trains further from this run's weights, by a new schedule"
)


@contextlib.contextmanager
def opened(workdir: Path, config: Config) -> Iterator[ocp.CheckpointManager]:
    """Yields the manager of a run's checkpoints and waits for its saves at the end.

    Saves are asynchronous and atomic: a folder gets its name once it is whole.
    Unfinished ones, of a process that was killed, are named and removed.
    """
    folder = (workdir / FOLDER).absolute()
    for unfinished in sorted(folder.glob("*.orbax-checkpoint-tmp*")):
        print(f"ignored an unfinished checkpoint: {unfinished.name}", flush=True)
        shutil.rmtree(unfinished)
    folder.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=config.keep_checkpoints,
        keep_period=config.keep_every or None,
        enable_async_checkpointing=True,
        create=False,
        # Of several processes only the first has a manager.
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=0, active_processes={0}
        ),
    )
    manager = ocp.CheckpointManager(folder, options=options)
    try:
        yield manager
    except BaseException:
        with contextlib.suppress(Exception):  # a failed save is named once
            manager.close()
        raise
    with _failures_named(manager):
        manager.close()


def save(
    manager: ocp.CheckpointManager,
    state: TrainState,
    config: Config,
    clock: dict[str, Any] | None = None,
    *,
    wait: bool = False,
) -> None:
    """Saves the replicated state under its step, with config and `run_log.Clock.state` beside it.

    Returns once it is copied off the device or, with `wait`, once it is on disk.

    Raises:
      TrainingError: this save, or an earlier one in the background, failed.
    """
    host = parallel.to_host(state)
    arguments = ocp.args.Composite(
        state=ocp.args.StandardSave(_parts(host)),
        checksums=ocp.args.JsonSave(checksums(host)),
        config=ocp.args.JsonSave(config_lib.to_dict(config)),
        clock=ocp.args.JsonSave(clock or {}),
    )
    with _failures_named(manager):
        manager.save(int(host.step), args=arguments)
        if wait:
            manager.wait_until_finished()


def _parts(state: TrainState) -> dict[str, Any]:
    """Returns the parts that a state has, by name: none for ranks that are not learned."""
    fields = ((field.name, getattr(state, field.name)) for field in dataclasses.fields(state))
    return {name: part for name, part in fields if part is not None}


def save_params(workdir: Path, params: dict, config: Config) -> None:
    """Saves parameters that no training here has made, as the checkpoint of step 0.

    What reads a run's parameters reads these, host arrays of heads.MaskedLM; there is no
    optimizer's state to resume from.
    """
    arguments = ocp.args.Composite(
        state=ocp.args.StandardSave({"params": params}),
        checksums=ocp.args.JsonSave(params_checksums(params)),
        config=ocp.args.JsonSave(config_lib.to_dict(config)),
    )
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
        writer.save((workdir / FOLDER / "0").absolute(), args=arguments)


def check_background(manager: ocp.CheckpointManager) -> None:
    """Raises `TrainingError` where a save in the background has failed."""
    with _failures_named(manager):
        manager.check_for_errors()


@contextlib.contextmanager
def _failures_named(manager: ocp.CheckpointManager) -> Iterator[None]:
    """Raises `TrainingError` that says what is left where a save in the block failed."""
    try:
        yield
    except Exception as error:
        kept = None
        with contextlib.suppress(OSError):
            manager.reload()
            kept = manager.latest_step()
        older = f"the checkpoint of step {kept} is intact" if kept is not None else "none was saved"
        raise TrainingError(
            f"{manager.directory}: a checkpoint could not be written ({first_line(error)}); "
            f"{older}. Is the disk full or the folder read-only? Mend that and run the same "
            "command again"
        ) from error


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, or its kind where there is none."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def checksums(host: Any) -> dict[str, int]:
    """Returns the CRC-32 of every array of a tree on the host, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(host)
    return {
        jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(leaf).tobytes())
        for path, leaf in leaves
    }


def params_checksums(params: dict) -> dict[str, int]:
    """Returns the checksums of a state's parameters under the names that they have in it."""
    return {f".params{name}": checksum for name, checksum in checksums(params).items()}


def verify(sums: dict[str, int], saved: dict[str, int]) -> None:
    """Raises `ValueError` where an array is not the one that was saved."""
    for name, checksum in sums.items():
        if saved.get(name) != checksum:
            raise ValueError(f"array {name}: its checksum is not the one that was saved")


def check_resume(workdir: Path, resume: str) -> None:
    """Raises `InputError` for "must" without a checkpoint, for "never" with one; not for "auto"."""
    folder, saved = workdir / FOLDER, saved_steps(workdir)
    if resume == "must" and not saved:
        raise InputError(
            f"{folder}: --resume=must, but there is no checkpoint; check --workdir, or start a "
            "new run with --resume=auto"
        )
    if resume == "never" and saved:
        raise InputError(
            f"{folder}: --resume=never, but it holds the checkpoint of step {max(saved)}; "
            "give another --workdir"
        )


def restore_latest(
    manager: ocp.CheckpointManager,
    initial: TrainState,
    *,
    fallback: bool = False,
) -> tuple[TrainState, dict[str, Any]]:
    """Returns the newest state, replicated, and its clock's state ({}: not saved).

    Where there is no checkpoint, `initial` and {}.

    Args:
      manager: of the run.
      initial: the state before the first step.
      fallback: go to an older checkpoint where the newest is damaged, which is
        moved to `DAMAGED_FOLDER`.

    Raises:
      InputError: a checkpoint is damaged, and there is no older one, or no `fallback`.
    """
    saved = sorted(manager.all_steps(), reverse=True)
    folder = Path(manager.directory)
    for step in saved:
        try:
            host, clock = restore(manager, step, initial)
        except Exception as error:
            damage = f"{folder / str(step)}: damaged checkpoint ({first_line(error)[:300]})"
            older = [other for other in saved if other < step]
            if not (fallback and older):
                back = "there is no checkpoint that is whole; start in another --workdir"
                if older:
                    back = f"--fallback goes back to step {older[0]}"
                raise InputError(f"{damage}; {back}. It was left as it is") from None
            aside = folder.parent / DAMAGED_FOLDER / str(step)
            print(f"WARNING: {damage}; moved to {aside}, going back", flush=True)
            aside.parent.mkdir(exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            shutil.move(folder / str(step), aside)
            manager.reload()
            continue
        print(f"resumed from step {step:,} in {folder}", flush=True)
        return parallel.replicate(host), clock
    return initial, {}


def restore(
    manager: ocp.CheckpointManager, step: int, like: TrainState
) -> tuple[TrainState, dict[str, Any]]:
    """Returns the state of a step as host arrays, and its clock's state ({}: not saved).

    `like` is a state of the same shapes.

    Raises:
      ValueError: the state is not the one that was saved. A damaged checkpoint may
        raise other errors of orbax or tensorstore.
    """
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, parallel.to_host(like))
    is_earlier = (Path(manager.directory) / str(step) / "unlogged").exists()
    arguments = ocp.args.Composite(
        state=ocp.args.StandardRestore(_parts(target)),
        checksums=ocp.args.JsonRestore(),
        **{"unlogged" if is_earlier else "clock": ocp.args.JsonRestore()},
    )
    restored = manager.restore(step, args=arguments)
    state = like.replace(**restored["state"])
    verify(checksums(state), restored["checksums"])
    clock = restored["unlogged"].get("clock") if is_earlier else restored["clock"]
    return state, clock or {}


def binding(config: Config) -> dict[str, Any]:
    """Returns the fields, by dotted name, that two starts of one run must share."""
    fields = config_lib.flatten(config)
    if config.has_pmi_table:
        fields["pmi.table"] = "a file"
    return {name: value for name, value in fields.items() if name not in FREE_FIELDS}


def saved_steps(workdir: Path) -> list[int]:
    """Returns the steps of a run's checkpoints, in no order; none where there is no run."""
    return [int(child.name) for child in (workdir / FOLDER).glob("*") if child.name.isdecimal()]


def read_config(workdir: Path) -> Config | None:
    """Returns the config of the run that was begun in `workdir`, or None: of its config.json."""
    path = workdir / "config.json"
    if not path.exists():
        return None
    try:
        saved: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); use another --workdir") from None
    return config_lib.from_dict(saved, source=str(path))


def refuse_other_run(workdir: Path, config: Config) -> None:
    """Raises `InputError` with a table of differing fields where `workdir` holds another run.

    Its config.json is from the last start that trained; `FREE_FIELDS` may differ.
    """
    saved = read_config(workdir)
    if saved is None:
        if any((workdir / FOLDER).glob("*")):
            raise InputError(
                f"{workdir}: holds {FOLDER}/ but no config.json, so it is not known whose they "
                f"are; give another --workdir (with --init_from={workdir}, to train further from "
                "these weights)"
            )
        return
    before, now = binding(saved), binding(config)
    rows = [
        f"  {name}: {before[name]!r} before, {now[name]!r} now"
        for name in now
        if before[name] != now[name]
    ]
    if rows:
        longer = _LONGER.format(workdir=workdir) if before["num_steps"] < now["num_steps"] else ""
        raise InputError(
            f"{workdir}: holds a run with another config; give another --workdir, or undo\n"
            + "\n".join(rows)
            + longer
        )
