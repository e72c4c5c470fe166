"""Attention forward and backward: ours against XLA's plain formula and jax.nn's.

    python -m benchmarks.attention --shape=8,512,8,32

Half of the rows hold two segments, as packed rows do. The three take turns.
"""

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import result
from cmgems_jax import attention, command

_SHAPE = flags.DEFINE_list("shape", ["8", "512", "8", "32"], "Rows, positions, heads, width.")
_REPEATS = flags.DEFINE_integer("repeats", 9, "Timed repeats of each.", lower_bound=1)


def plain(q: jax.Array, k: jax.Array, v: jax.Array, segment_BL: jax.Array) -> jax.Array:
    """Returns the textbook's attention, all scores at once."""
    scores_BHQL = jnp.einsum("bqhk,blhk->bhql", q, k) * q.shape[-1] ** -0.5
    is_own_BQL = segment_BL[:, :, None] == segment_BL[:, None, :]
    scores_BHQL = jnp.where(is_own_BQL[:, None], scores_BHQL, -1e9)
    return jnp.einsum("bhql,blhk->bqhk", jax.nn.softmax(scores_BHQL), v)


def library(q: jax.Array, k: jax.Array, v: jax.Array, segment_BL: jax.Array) -> jax.Array:
    """Returns jax.nn's attention."""
    is_own_BQL = segment_BL[:, :, None] == segment_BL[:, None, :]
    return jax.nn.dot_product_attention(q, k, v, mask=is_own_BQL[:, None])


def main() -> None:
    """Runs the benchmark."""
    rows, positions, heads, width = command.integers("shape", _SHAPE.value)
    rng = np.random.default_rng(0)
    shape = (rows, positions, heads, width)
    q, k, v, given = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(4))
    segment_BL = np.zeros((rows, positions), np.int32)
    segment_BL[::2, positions // 2 :] = 1
    by_heads = functools.partial(attention.attend, way=attention.BY_HEADS)
    forms = {"plain einsum": plain, "jax.nn": library, "cmgems_jax": by_heads}
    programs = {name: _with_gradients(form) for name, form in forms.items()}
    samples: dict[str, list[float]] = {name: [] for name in forms}
    for repeat in range(_REPEATS.value + 1):  # the first one compiles
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(q, k, v, segment_BL, given))
            if repeat:
                samples[name].append(1e3 * (time.perf_counter() - start))
    name = "attention_" + "x".join(_SHAPE.value)
    result.report(name, samples, unit="ms", notes={"shape": ",".join(_SHAPE.value)})


def _with_gradients(form: Callable) -> Callable:
    """Returns a program for the values and the three gradients."""

    def both(q: jax.Array, k: jax.Array, v: jax.Array, segment_BL: jax.Array, given: jax.Array):
        values, back = jax.vjp(lambda *qkv: form(*qkv, segment_BL), q, k, v)
        return values, back(given)

    return jax.jit(both)


if __name__ == "__main__":
    command.run(main)
