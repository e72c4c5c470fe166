"""Checkpoints: one orbax folder a step, with the train state and the run's config.

`WORKDIR/checkpoints/STEP/{state,config}`. The state is stored as host arrays, so
that any number of devices restores it.
"""

import json
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from cmgems_jax import config as config_lib
from cmgems_jax import parallel
from cmgems_jax.config import Config
from cmgems_jax.errors import InputError
from cmgems_jax.steps import TrainState

FOLDER = "checkpoints"
# Fields that may change between two starts of one run: they shape no number in it.
FREE_FIELDS = frozenset(
    {"log_every", "checkpoint_every", "keep_checkpoints", "keep_every", "data.dir"}
)


def manager(workdir: Path, config: Config) -> ocp.CheckpointManager:
    """Returns the manager of a run's checkpoints; close it before the process exits.

    Saves are asynchronous and atomic: a folder gets its name once it is whole.
    """
    options = ocp.CheckpointManagerOptions(
        max_to_keep=config.keep_checkpoints,
        keep_period=config.keep_every or None,
        enable_async_checkpointing=True,
        create=True,
    )
    return ocp.CheckpointManager((workdir / FOLDER).absolute(), options=options)


def save(
    manager: ocp.CheckpointManager, state: TrainState, config: Config, *, wait: bool = False
) -> None:
    """Saves the state under its step; returns once it is copied off the device.

    Args:
      manager: of the run.
      state: replicated.
      config: saved beside the state.
      wait: until the checkpoint is on disk.
    """
    arguments = ocp.args.Composite(
        state=ocp.args.StandardSave(parallel.to_host(state)),
        config=ocp.args.JsonSave(config_lib.to_dict(config)),
    )
    manager.save(int(state.step), args=arguments)
    if wait:
        manager.wait_until_finished()


def restore_latest(manager: ocp.CheckpointManager, initial: TrainState) -> TrainState:
    """Returns the newest state, replicated; `initial` where there is no checkpoint."""
    step = manager.latest_step()
    if step is None:
        return initial
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, parallel.to_host(initial))
    arguments = ocp.args.Composite(state=ocp.args.StandardRestore(target))
    state = parallel.replicate(manager.restore(step, args=arguments)["state"])
    print(f"resumed from step {step:,} in {manager.directory}", flush=True)
    return state


def refuse_other_run(workdir: Path, config: Config) -> None:
    """Raises `InputError` with a table of differing fields where `workdir` holds another run.

    Args:
      workdir: folder of the run; its config.json is from the run's first start.
      config: of this start; `FREE_FIELDS` may differ.
    """
    path = workdir / "config.json"
    if not path.exists():
        return
    try:
        saved = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); use another --workdir") from None
    before = config_lib.flatten(config_lib.from_dict(saved, source=str(path)))
    now = config_lib.flatten(config)
    rows = [
        f"  {name}: {before[name]!r} before, {now[name]!r} now"
        for name in now
        if before[name] != now[name] and name not in FREE_FIELDS
    ]
    if rows:
        raise InputError(
            f"{workdir}: holds a run with another config; give another --workdir, or undo\n"
            + "\n".join(rows)
        )
