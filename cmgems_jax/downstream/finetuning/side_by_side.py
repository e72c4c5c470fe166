"""Arrays of many draws side by side: a leading axis, split over the local devices.

Arrays of draws are (devices, draws each, ...); the draws are filled up to a multiple
of the devices by repeating the last one. Axis: D draws.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cmgems_jax.runtime import parallel


def num_devices(num_draws: int) -> int:
    """Returns how many local devices share the draws: no more than there are draws."""
    return min(num_draws, jax.local_device_count())


def split(rows_D: np.ndarray, num_devices: int) -> np.ndarray:
    """Returns (D, ...) as (devices, draws each, ...), filled up with the last draw."""
    each = -(-len(rows_D) // num_devices)
    filled = np.minimum(np.arange(num_devices * each), len(rows_D) - 1)
    return rows_D[filled].reshape(num_devices, each, *rows_D.shape[1:])


def join(rows: jax.Array, num_draws: int) -> np.ndarray:
    """Returns (devices, draws each, ...) as a host array (D, ...), without the filling."""
    rows_D = np.asarray(rows)
    return rows_D.reshape(-1, *rows_D.shape[2:])[:num_draws]


def share(tree: Any, num_devices: int) -> Any:
    """Returns the tree on each device, as `parallel.draws_program` takes what the draws share."""
    mesh = Mesh(np.array(jax.local_devices()[:num_devices]), (parallel.AXIS,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
