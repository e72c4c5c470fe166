"""Training in a random subspace of the parameters: few numbers move all of them.

The parameters are start + P z, where only z, of d numbers, is trained. P is the
Fastfood product of a random sign, a Hadamard transform, a permutation, Gaussian
weights and another Hadamard transform: a random matrix that is never written down
(Le, Sarlós, Smola 2013; Li et al. 2018; Aghajanyan, Gupta, Zettlemoyer 2021).
Axes: d numbers of z, n = 2**m >= all parameters.
"""

from typing import NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp


class Subspace(NamedTuple):
    """Parameters of a network in a subspace; a pytree."""

    z: jax.Array  # float32 (d,), what is trained; 0 = at the start
    start: dict  # the network's parameters where it starts
    key: jax.Array  # uint32 (2,), of the projection


def begin(params: dict, num_dimensions: int, key: jax.Array) -> Subspace:
    """Returns a subspace of `num_dimensions` through `params`, drawn by a key."""
    z_d = jnp.zeros(num_dimensions, jnp.float32)
    return Subspace(z_d, params, jax.random.key_data(key))


def expand(params: dict | Subspace) -> dict:
    """Returns the network's parameters, whether or not they are those of a subspace."""
    if not isinstance(params, Subspace):
        return params
    start_P, unravel = jax.flatten_util.ravel_pytree(params.start)
    moved_P = project(params.z, jax.random.wrap_key_data(params.key), start_P.size)
    return unravel(start_P + moved_P)


def trained(params: dict | Subspace) -> dict:
    """Returns what is trained of the parameters: all of them, or z."""
    return {"z": params.z} if isinstance(params, Subspace) else params


def with_trained(params: dict | Subspace, moved: dict) -> dict | Subspace:
    """Returns the parameters with other trained ones."""
    return params._replace(z=moved["z"]) if isinstance(params, Subspace) else moved


def project(z_d: jax.Array, key: jax.Array, num_parameters: int) -> jax.Array:
    """Returns P z: float32 (num_parameters,), about as long as z.

    Args:
      z_d: float32 (d,).
      key: of the projection; the same key gives the same P.
      num_parameters: at least d.
    """
    size = 1 << (num_parameters - 1).bit_length()
    sign_key, order_key, weight_key = jax.random.split(key, 3)
    signs_n = jax.random.rademacher(sign_key, (size,), jnp.float32)
    weights_n = jax.random.normal(weight_key, (size,), jnp.float32)
    padded_n = jnp.pad(z_d, (0, size - z_d.shape[0]))
    mixed_n = jax.random.permutation(order_key, hadamard(signs_n * padded_n))
    return hadamard(weights_n * mixed_n)[:num_parameters] * (size / num_parameters) ** 0.5


def hadamard(values_n: jax.Array) -> jax.Array:
    """Returns the orthonormal Walsh-Hadamard transform of 2**m values, in m passes."""
    size = values_n.shape[0]
    half = 1
    while half < size:
        pairs = values_n.reshape(-1, 2, half)
        total, difference = pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]
        values_n = jnp.stack([total, difference], axis=1)
        half *= 2
    return values_n.reshape(size) * size**-0.5
