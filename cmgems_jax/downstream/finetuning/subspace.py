"""Training in a random subspace of the parameters: few numbers move all of them.

The parameters are start + P z, where only z, of d numbers, is trained. P is the
Fastfood product of a random sign, a Hadamard transform, a permutation, Gaussian
weights and another Hadamard transform: a random matrix that is never written down
(Le, Sarlós, Smola 2013; Li et al. 2018; Aghajanyan, Gupta, Zettlemoyer 2021). Behind
its first d numbers z is filled with zeros, so the first transform is that of the
next power of two, again and again, and the permutation chooses from it.
Axes: d numbers of z, w = 2**j >= d, n = 2**m >= all parameters.
"""

from typing import NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
from scipy import linalg

_MAX_BITS = 7  # of a factor of a transform: a matrix of 128 x 128


class Projection(NamedTuple):
    """P, sampled once."""

    signs_d: jax.Array  # float32
    source_n: jax.Array  # int32 in [0, w), where the permutation takes its values from
    weights_n: jax.Array  # float32


class Subspace(NamedTuple):
    """Parameters of a network in a subspace; a pytree."""

    z: jax.Array  # float32 (d,), what is trained; 0 = at the start
    start: dict  # the network's parameters where it starts
    projection: Projection


def begin(params: dict, num_dimensions: int, key: jax.Array) -> Subspace:
    """Returns a subspace of `num_dimensions` through `params`, by a key."""
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    projection = sample_projection(key, num_dimensions, num_parameters)
    return Subspace(jnp.zeros(num_dimensions, jnp.float32), params, projection)


def expand(params: dict | Subspace) -> dict:
    """Returns the network's parameters, whether or not they are those of a subspace."""
    if not isinstance(params, Subspace):
        return params
    start_P, unravel = jax.flatten_util.ravel_pytree(params.start)
    moved_P = project(params.z, params.projection, start_P.size)
    return unravel(start_P + moved_P)


def trained(params: dict | Subspace) -> dict:
    """Returns what is trained of the parameters: all of them, or z."""
    return {"z": params.z} if isinstance(params, Subspace) else params


def with_trained(params: dict | Subspace, moved: dict) -> dict | Subspace:
    """Returns the parameters with other trained ones."""
    return params._replace(z=moved["z"]) if isinstance(params, Subspace) else moved


def sample_projection(key: jax.Array, num_dimensions: int, num_parameters: int) -> Projection:
    """Returns P; the same key gives the same."""
    size = _power_of_two(num_parameters)
    sign_key, order_key, weight_key = jax.random.split(key, 3)
    return Projection(
        jax.random.rademacher(sign_key, (num_dimensions,), jnp.float32),
        jax.random.permutation(order_key, size) % _power_of_two(num_dimensions),
        jax.random.normal(weight_key, (size,), jnp.float32),
    )


def project(z_d: jax.Array, projection: Projection, num_parameters: int) -> jax.Array:
    """Returns P z: float32 (num_parameters,), about as long as z; at least d parameters."""
    width = _power_of_two(z_d.shape[0])
    mixed_w = hadamard(jnp.pad(projection.signs_d * z_d, (0, width - z_d.shape[0])))
    moved_n = hadamard(projection.weights_n * mixed_w[projection.source_n])
    return moved_n[:num_parameters] * (width / num_parameters) ** 0.5


def hadamard(values_n: jax.Array) -> jax.Array:
    """Returns the orthonormal Walsh-Hadamard transform of 2**m values, by products of matrices.

    It is the Kronecker product of smaller ones: each acts on some of the index's bits.
    """
    bits = values_n.shape[0].bit_length() - 1
    factors = [min(_MAX_BITS, bits - done) for done in range(0, bits, _MAX_BITS)]
    cube = values_n.reshape([1 << factor for factor in factors])
    for factor in factors:  # each brings the next bits to the front, and the last the first again
        matrix = jnp.asarray(linalg.hadamard(1 << factor, float), cube.dtype)
        cube = jnp.tensordot(cube, matrix, axes=(0, 0), precision="highest")
    return cube.reshape(-1) * values_n.shape[0] ** -0.5


def _power_of_two(number: int) -> int:
    """Returns the least power of two that is not less."""
    return 1 << (number - 1).bit_length()
