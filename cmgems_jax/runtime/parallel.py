"""Devices and processes: the only module that knows how many there are.

`jax.pmap` is jit of shard_map since jax 0.9; steps are written against the
axis name `AXIS` and would run under `shard_map` unchanged. The state lies
replicated on a mesh, which keeps pmap from compiling a second time for
another placement.

Process 0 alone reads and writes a run's folder; the others get what they need
through jax's coordinator, so the folder need not be shared.
"""

import itertools
import json
import math
import signal
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cmgems_jax import terminal
from cmgems_jax.errors import InputError, TrainingError

AXIS = "data"
AGREE_EVERY = 10  # steps between two questions of several processes whether to stop
T = TypeVar("T")
Devices = Sequence[jax.Device] | None  # of a program; None = all that are at hand

_WORK_MS = 7 * 24 * 3_600_000  # for `in_first`: jax ends the wait sooner if process 0 dies
_works = itertools.count()  # of `in_first`, in the same order in every process


def is_first() -> bool:
    """True in the process that reads and writes the run's folder."""
    return jax.process_index() == 0


def in_first(work: Callable[[], T]) -> T | None:
    """Runs `work` in process 0 while the others wait, without holding up a device.

    All processes must call it in the same order.

    Returns:
      What `work` returns, in process 0; None in the others.

    Raises:
      InputError, TrainingError: those of `work`, in every process.
    """
    if jax.process_count() == 1:
        return work()
    from jax._src import distributed  # the coordinator's key-value store has no public name

    client, key = distributed.global_state.client, f"cmgems_jax/in_first/{next(_works)}"
    if is_first():
        failure = []
        try:
            return work()
        except BaseException as error:
            failure = [type(error).__name__, str(error)]
            raise
        finally:
            client.key_value_set(key, json.dumps(failure))
    outcome = json.loads(client.blocking_key_value_get(key, _WORK_MS))
    if not outcome:
        return None
    kind, text = outcome
    if kind == InputError.__name__:
        raise InputError(f"in process 0: {text}")
    raise TrainingError(f"in process 0: {text if kind == TrainingError.__name__ else outcome}")


def of_first(tree: Any) -> Any:
    """Returns process 0's replicated tree, replicated; the others' gives shapes and dtypes."""
    if jax.process_count() == 1:
        return tree
    host = to_host(tree)
    # As bytes: a sum with the others' zeros would turn -0.0 into 0.0.
    raw = jax.tree.map(lambda leaf: leaf.reshape(-1).view(np.uint8), host)
    sent = multihost_utils.broadcast_one_to_all(raw)
    return replicate(
        jax.tree.map(
            lambda leaf, own: np.asarray(leaf).view(own.dtype).reshape(own.shape), sent, host
        )
    )


def stops_when() -> str:
    """Returns when a run stops that gets a signal, in words."""
    if jax.process_count() == 1:
        return "after this step"
    return f"with the other processes, within {AGREE_EVERY} steps"


def agree_on_signal(name: str, step: int, *, after: Any) -> str:
    """Returns the name of a signal that came to any process, the same in all; "" for none.

    `name` is of the one that came to this process, "" for none. Several processes ask each other
    every `AGREE_EVERY` steps only, as that waits for the device: for the arrays `after` first, so
    that no two collectives run at a time.
    """
    if jax.process_count() == 1:
        return name
    if step % AGREE_EVERY:
        return ""
    jax.block_until_ready(after)
    mine = signal.Signals[name].value if name else 0
    number = int(multihost_utils.process_allgather(np.int32(mine)).max())
    return signal.Signals(number).name if number else ""


def replicate(tree: Any) -> Any:
    """Returns the tree on every device, as pmap's `in_axes=None` takes it without recompiling."""
    sharding = NamedSharding(Mesh(np.array(jax.devices()), (AXIS,)), PartitionSpec())
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def to_device(leaf: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(to_device, to_host(tree))


def to_host(tree: Any) -> Any:
    """Returns a replicated tree as numpy arrays (0-d ones too), copied off the device."""
    return jax.tree.map(np.asarray, jax.device_get(tree))


def train_program(step: Callable, devices: Devices = None) -> Callable:
    """Returns `step(state, batch) -> (state, metrics)` over all devices; the state is donated."""
    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=(None, None),
        donate_argnums=0,
        devices=devices,
    )


def eval_program(step: Callable, devices: Devices = None) -> Callable:
    """Returns `step(state, batch, which) -> sums` over all devices."""
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0, None), out_axes=None, devices=devices)


def rows_program(function: Callable, params: Any) -> Callable:
    """Returns `(*rows) -> outputs` of host arrays, computed on all local devices.

    Args:
      function: `(params, *rows) -> outputs`, arrays (B, ...); compiled once per shape. B
        is a multiple of the local devices (`whole_batch`), each of which takes a share.
      params: any tree; each device has a copy.
    """
    split = jax.pmap(
        lambda params, rows: function(params, *rows), axis_name=AXIS, in_axes=(None, 0)
    )
    params = replicate(params)

    def program(*rows: np.ndarray) -> Any:
        outputs = split(params, [shard(array)[:, 0] for array in rows])
        return jax.tree.map(lambda out: np.asarray(out).reshape(-1, *out.shape[2:]), outputs)

    return program


def whole_batch(batch_size: int) -> int:
    """Returns the size rounded up to a multiple of the local devices."""
    num_devices = jax.local_device_count()
    return -(-batch_size // num_devices) * num_devices


def map_rows(
    program: Callable[..., np.ndarray],
    *rows_N: np.ndarray,
    batch_size: int,
    description: str,
) -> np.ndarray:
    """Returns the outputs (N, ...) of a program for N >= 1 sequences, with a progress bar.

    Args:
      program: of host arrays (B, ...), such as `rows_program` gives.
      rows_N: the program's arguments, each (N, ...), a row per sequence.
      batch_size: B; the last batch is filled up, so that one program is compiled.
      description: of the bar; "" = no bar.
    """
    num_rows = len(rows_N[0])
    outputs_N = None
    with terminal.bar(
        total=num_rows, desc=description, unit="sequences", disable=not description
    ) as bar:
        for start in range(0, num_rows, batch_size):
            filled = np.minimum(np.arange(start, start + batch_size), num_rows - 1)
            output_B = program(*(array[filled] for array in rows_N))[: num_rows - start]
            if outputs_N is None:  # once: features of many rows fill the memory
                outputs_N = np.empty((num_rows, *output_B.shape[1:]), output_B.dtype)
            outputs_N[start : start + batch_size] = output_B
            bar.update(len(output_B))
    return outputs_N


def check_devices() -> None:
    """Raises `InputError` unless every process has the same number of devices."""
    num_devices, num_processes = jax.device_count(), jax.process_count()
    if num_devices != num_processes * jax.local_device_count():
        raise InputError(
            f"process {jax.process_index()} has {jax.local_device_count()} of {num_devices} "
            f"devices: expected as many in each of the {num_processes} processes"
        )


def shard(rows: T, accumulation_steps: int = 1) -> T:
    """Returns arrays of rows (R, ...), a tree, as (local devices, accumulation steps, R', ...)."""
    lead = (jax.local_device_count(), accumulation_steps)
    return jax.tree.map(lambda x: x.reshape(*lead, len(x) // math.prod(lead), *x.shape[1:]), rows)


def draws_program(
    function: Callable,
    *,
    num_devices: int,
    in_axes: tuple[int | None, ...],
    donate: tuple[int, ...] = (),
) -> Callable:
    """Returns `function` of one device's draws as a program over the first local devices.

    Its arguments are (devices, draws each, ...) where `in_axes` is 0, the same on every device
    where it is None; the outputs may take the memory of those in `donate`.
    """
    return jax.pmap(
        function,
        axis_name=AXIS,
        in_axes=in_axes,
        donate_argnums=donate,
        devices=jax.local_devices()[:num_devices],
    )
