"""The two objectives of pretraining, as sums, so that devices and parts of a step add up.

Axes: R rows, M windows per row, W = R * M windows, N bases, L token positions, T = L - 2 k-mers,
P predicted positions of all rows together, V vocabulary, A the four letters.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from cmgems_jax.genome import vocabulary
from cmgems_jax.masking import learned_ranks
from cmgems_jax.masking.rows import MaskedBatch, Rows
from cmgems_jax.model import base_probabilities, heads

# The loss (nats); right, terms: what it gets right of how many; and what else was asked for.
Sums = tuple[jax.Array, dict[str, jax.Array]]


def nothing(num_kmers: int = 0) -> Sums:
    """Returns the sums of no term, as either loss has them; of so many k-mers besides."""
    counts = {"right": jnp.int32(0), "terms": jnp.int32(0)}
    if num_kmers:
        counts |= dict.fromkeys(("loss_V", "count_V"), jnp.zeros(num_kmers, jnp.float32))
    return jnp.float32(0), counts


def token_sums(
    params: dict,
    rows: Rows,
    dropout_keys_R: jax.Array | None,
    *,
    model: heads.MaskedLM,
    max_predictions: int,
    by_kmer: bool = False,
) -> Sums:
    """Returns the sum of the masked tokens' cross entropies, those it gets right, their number.

    With `by_kmer` also `loss_V` and `count_V`, float32: the sum, and the number, of each k-mer's.
    Nothing is dropped without `dropout_keys_R`; `max_predictions` is the room for masked tokens.
    """
    positions_P, logits_PV = _predict(params, rows, dropout_keys_R, model, max_predictions)
    targets_P = rows.ids.ravel()[positions_P]
    is_masked_P = positions_P > 0  # position 0 is a [CLS], never masked
    losses_P = optax.softmax_cross_entropy_with_integer_labels(logits_PV, targets_P)
    target_logit_P = jnp.take_along_axis(logits_PV, targets_P[:, None], axis=1)[:, 0]
    right_P = (target_logit_P >= logits_PV.max(axis=1)) & is_masked_P
    counts = _counts(right_P, is_masked_P)
    if by_kmer:
        codes_P, num_kmers = targets_P - vocabulary.NUM_SPECIAL, 4**model.tokens.k
        of_kmers = learned_ranks.sums_by_kmer(codes_P, losses_P, is_masked_P, num_kmers)
        counts |= dict(zip(("loss_V", "count_V"), of_kmers, strict=True))
    return jnp.where(is_masked_P, losses_P, 0).sum(), counts


def base_sums(
    params: dict,
    rows: Rows,
    dropout_keys_R: jax.Array | None,
    bases_RMN: jax.Array,
    masked: MaskedBatch,
    *,
    model: heads.MaskedLM,
    max_predictions: int,
) -> Sums:
    """Returns the sum of -log posterior of the hidden bases, those it gets right, their number.

    Args:
      bases_RMN: uint8, the windows.
      masked: of the objective "base", all masked tokens are [MASK]; `rows` are these, laid out.
    """
    k, stride = model.tokens.k, model.tokens.stride
    _, logits_PV = _predict(params, rows, dropout_keys_R, model, max_predictions)
    letters_PKA = base_probabilities.letter_log_probabilities(logits_PV, k)
    # The windows of a row stand in it in their order, so the P are in the order of (W, T).
    is_kmer_WT, masked_WT = (
        x.reshape(-1, x.shape[-1])[:, 1:-1]
        for x in (masked.ids >= vocabulary.NUM_SPECIAL, masked.masked)
    )
    has_room_WT = jnp.cumsum(masked_WT.ravel()).reshape(masked_WT.shape) <= max_predictions
    predicted_WT = masked_WT & has_room_WT
    log_mean_WNA = base_probabilities.mean_over_tokens(letters_PKA, predicted_WT, stride)
    cover = functools.partial(base_probabilities.covered, k=k, stride=stride)
    hidden_WN = cover(predicted_WT) & ~cover(is_kmer_WT & ~predicted_WT)
    true_WN = jnp.where(hidden_WN, bases_RMN.reshape(-1, bases_RMN.shape[-1]), 0).astype(jnp.int32)
    log_true_WN = jnp.take_along_axis(log_mean_WNA, true_WN[..., None], axis=2)[..., 0]
    right_WN = hidden_WN & (log_true_WN >= log_mean_WNA.max(axis=2))
    return -jnp.where(hidden_WN, log_true_WN, 0).sum(), _counts(right_WN, hidden_WN)


def _counts(is_right: jax.Array, is_term: jax.Array) -> dict[str, jax.Array]:
    """Returns how many terms a loss has, and how many of them are right, int32."""
    right, terms = (x.sum(dtype=jnp.int32) for x in (is_right, is_term))
    return {"right": right, "terms": terms}


def _predict(
    params: dict,
    rows: Rows,
    dropout_keys_R: jax.Array | None,
    model: heads.MaskedLM,
    max_predictions: int,
) -> tuple[jax.Array, jax.Array]:
    """Returns the first masked positions, int32 (P,), 0 where there are fewer, and their logits."""
    (first_P,) = jnp.nonzero(rows.masked.ravel(), size=max_predictions, fill_value=0)
    positions_P = first_P.astype(jnp.int32)
    logits_PV = model.apply(
        {"params": params}, rows.corrupted, positions_P, dropout_keys_R, rows.layout
    )
    return positions_P, logits_PV
