"""Devices: the only module that knows how many there are.

`jax.pmap` is jit of shard_map since jax 0.9; steps are written against the
axis name `AXIS` and would run under `shard_map` unchanged. The state lies
replicated on a mesh, which keeps pmap from compiling a second time for
another placement.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cmgems_jax.errors import InputError

AXIS = "data"


def replicate(tree: Any) -> Any:
    """Returns the tree on every device, as pmap's `in_axes=None` takes it without recompiling."""
    sharding = NamedSharding(Mesh(np.array(jax.devices()), (AXIS,)), PartitionSpec())
    return jax.device_put(tree, sharding)


def to_host(tree: Any) -> Any:
    """Returns a replicated tree as numpy arrays (0-d ones too), copied off the device."""
    return jax.tree.map(np.asarray, jax.device_get(tree))


def train_program(step: Callable) -> Callable:
    """Returns `step(state, batch) -> (state, metrics)` over all devices; the state is donated."""
    return jax.pmap(
        step, axis_name=AXIS, in_axes=(None, 0), out_axes=(None, None), donate_argnums=0
    )


def eval_program(step: Callable) -> Callable:
    """Returns `step(state, batch, which) -> sums` over all devices."""
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0, None), out_axes=None)


def check_batch_size(batch_size: int, accumulation_steps: int) -> None:
    """Raises `InputError` unless every device gets the same number of sequences."""
    num_devices = jax.device_count()
    unit = num_devices * accumulation_steps
    if batch_size % unit:
        lower = batch_size - batch_size % unit
        nearest = f"{lower} or {lower + unit}" if lower else str(unit)
        raise InputError(
            f"batch_size={batch_size}: expected a multiple of {num_devices} devices x "
            f"{accumulation_steps} accumulation steps = {unit}, for example {nearest}"
        )


def shard(rows: np.ndarray, accumulation_steps: int = 1) -> np.ndarray:
    """Returns rows (R, ...) as (local devices, accumulation steps, R', ...)."""
    lead = (jax.local_device_count(), accumulation_steps)
    return rows.reshape(*lead, rows.shape[0] // (lead[0] * lead[1]), *rows.shape[1:])
