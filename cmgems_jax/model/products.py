"""Products of float32 matrices by units that multiply bfloat16, as newer CPUs have them.

Both operands are rounded to bfloat16, forward and backward, and the sums are float32. A CPU with
avx512_bf16 then has 156 GFLOP/s in place of 91 (4,096 x 768 x 3,072, two cores, jax 0.10.2);
with a bfloat16 result, as of `model.dtype=bfloat16`, XLA takes a slower way there.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

BFLOAT16, FLOAT32 = "bfloat16", "float32"  # values of model.matmul
_FLAGS = {"avx512_bf16", "amx_bf16"}  # of /proc/cpuinfo
_float32_sums = functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32)


@jax.custom_vjp
def rounded(x: jax.Array, weights_DF: jax.Array) -> jax.Array:
    """Returns x (..., D) times the weights, float32 (..., F), its operands rounded to bfloat16."""
    return _forward(x, weights_DF)[0]


def _forward(x: jax.Array, weights_DF: jax.Array) -> tuple[jax.Array, tuple]:
    """Returns the product, and the rounded operands."""
    saved = x.astype(jnp.bfloat16), weights_DF.astype(jnp.bfloat16)
    return _float32_sums(*saved, (((x.ndim - 1,), (0,)), ((), ()))), saved


def _backward(saved: tuple, given: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the gradients of both operands."""
    x, weights_DF = saved
    given, leading = given.astype(jnp.bfloat16), tuple(range(x.ndim - 1))
    return (
        _float32_sums(given, weights_DF, (((x.ndim - 1,), (1,)), ((), ()))),
        _float32_sums(x, given, ((leading, leading), ((), ()))),
    )


rounded.defvjp(_forward, _backward)


def dot_general(matmul: str) -> Callable[..., jax.Array] | None:
    """Returns what a Dense layer multiplies by; None = its own way.

    Args:
      matmul: BFLOAT16 or FLOAT32, of `hardware.resolve`.
    """
    if matmul == FLOAT32:
        return None
    return lambda x, weights_DF, *_, **__: rounded(x, weights_DF)


def operands(matmul: str, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Returns what a fused attention multiplies, rounded if `matmul` says so."""
    return arrays if matmul == FLOAT32 else tuple(x.astype(jnp.bfloat16) for x in arrays)


@functools.cache
def is_faster_here() -> bool:
    """Returns whether this machine's CPU has units for it, as Linux tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # another system
        return False
    flags = next((line for line in lines if line.startswith("flags")), "")
    return not _FLAGS.isdisjoint(flags.split())
