"""Which strand of a sequence a model reads: as it is given, the other one, or both.

Axes: B sequences, M bases, L token positions, X whatever a position has.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cmgems_jax.genome import vocabulary

Function = Callable[[dict, jax.Array], jax.Array]  # of (params, bases_BM)


def on_strand(
    function: Function,
    strand: str,
    align: Callable[[jax.Array, jax.Array], jax.Array] = lambda output, bases_BM: output,
) -> Function:
    """Returns a function read from a strand of its sequences; of both, the mean.

    Args:
      function: `(params, bases_BM) -> float (B, ...)`.
      strand: of `vocabulary.STRANDS`; of "forward" it is `function` itself.
      align: `(output, bases_BM) -> output`, turns what was made of the reverse
        complement into the order of the forward strand.
    """

    def reverse(params: dict, bases_BM: jax.Array) -> jax.Array:
        return align(function(params, vocabulary.reverse_complement(bases_BM)), bases_BM)

    def both(params: dict, bases_BM: jax.Array) -> jax.Array:
        return (function(params, bases_BM) + reverse(params, bases_BM)) / 2

    return {"forward": function, "reverse": reverse, "both": both}[strand]


def align_bases(values_BMX: jax.Array, bases_BM: jax.Array) -> jax.Array:
    """Returns (B, M, ...) of a reverse complement's bases in the order of the forward strand."""
    num_bases_B1 = (bases_BM != vocabulary.PADDING).sum(axis=1, keepdims=True, dtype=jnp.int32)
    return _reversed_positions(values_BMX, 0, num_bases_B1)


def align_tokens(values_BLX: jax.Array, ids_BL: jax.Array) -> jax.Array:
    """Returns (B, L, ...) of a reverse complement's tokens in the order of the forward strand.

    The k-mers change their order, [CLS], [SEP] and padding stay. A k-mer stands for
    the same bases on both strands where the stride divides the bases behind the first k-mer.
    """
    num_kmers_B1 = (ids_BL != vocabulary.PAD).sum(axis=1, keepdims=True, dtype=jnp.int32) - 2
    return _reversed_positions(values_BLX, 1, num_kmers_B1)


def _reversed_positions(values_BLX: jax.Array, first: int, length_B1: jax.Array) -> jax.Array:
    """Returns the values with `length_B1` positions from `first` on in reverse order."""
    shape_BL = values_BLX.shape[:2]
    position_BL = jnp.broadcast_to(jnp.arange(shape_BL[1], dtype=jnp.int32), shape_BL)
    is_turned_BL = (position_BL >= first) & (position_BL < first + length_B1)
    source_BL = jnp.where(is_turned_BL, 2 * first + length_B1 - 1 - position_BL, position_BL)
    source_BLX = source_BL.reshape(*shape_BL, *[1] * (values_BLX.ndim - 2))
    return jnp.take_along_axis(values_BLX, source_BLX, axis=1)
