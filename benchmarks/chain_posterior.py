"""The exact loss of masked k-mers drawn from a known Markov chain of order k-1.

The observer knows the chain's law, sees every base that a shown token covers
(unmasked, or masked but kept) and knows which tokens are corrupted, so that a
random replacement tells nothing. No model can have a lower expected loss.

A state is a (k-1)-mer and a k-mer is an edge between two states, so the posterior
probability of a token is an edge marginal of forward-backward. k-1 visible bases
in a row make the state known and so cut a window into independent stretches;
only those with hidden bases are run, all of one length at once. At a window's
ends there is no evidence, and the stationary law stands in on the left.

Axes: B windows, L token positions, N bases, G stretches, T tokens of a stretch, S =
4**(k-1) states, A the four bases. Throughout:

    ids_BL          int32, true ids: [CLS], overlapping k-mers, [SEP], [PAD]...
    corrupted_BL    int32, the ids that are shown
    masked_BL       bool, the tokens that are scored; the losses of others are 0
    probability_SA  float64, the next base after every (k-1)-mer
    stationary_S    float64, the law of the first state of a window

Losses are float64, in nats.
"""

import numpy as np

from cmgems_jax.genome import vocabulary

_MAX_FLOATS = 2**23  # of one (G, T, S) array


def kmer_length(probability_SA: np.ndarray) -> int:
    """Returns k of a chain of order k-1, from its 4**(k-1) states."""
    return (len(probability_SA).bit_length() - 1) // 2 + 1


def token_losses(
    ids_BL: np.ndarray,
    corrupted_BL: np.ndarray,
    masked_BL: np.ndarray,
    probability_SA: np.ndarray,
    stationary_S: np.ndarray,
) -> np.ndarray:
    """Returns -log P(true token | visible bases), (B, L): the least expected loss."""
    k = kmer_length(probability_SA)
    bases_BN, hidden_BN = hidden_bases(ids_BL, corrupted_BL, k)
    losses_BL = np.zeros(ids_BL.shape)
    of_length: dict[int, list[tuple[int, int]]] = {}
    for row, (bases_N, hidden_N) in enumerate(zip(bases_BN, hidden_BN, strict=True)):
        num_bases = int((bases_N != vocabulary.PADDING).sum())
        for start, stop in stretches(hidden_N[:num_bases], k):
            of_length.setdefault(stop - start, []).append((row, start))
    for length, places in of_length.items():
        num_tokens = length - k + 1
        group = max(1, _MAX_FLOATS // (num_tokens * len(stationary_S)))
        for first in range(0, len(places), group):
            row_G, start_G = np.array(places[first : first + group]).T
            place_GN = start_G[:, None] + np.arange(length)
            losses_BL[row_G[:, None], 1 + place_GN[:, :num_tokens]] = stretch_losses(
                bases_BN[row_G[:, None], place_GN],
                hidden_BN[row_G[:, None], place_GN],
                probability_SA,
                stationary_S,
            )
    return np.where(masked_BL, losses_BL, 0)


def hidden_bases(
    ids_BL: np.ndarray, corrupted_BL: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the bases behind true ids, and which of them no shown token covers.

    uint8 (B, N = L-2 + k-1), filled with `vocabulary.PADDING`; bool (B, N), False in the padding.
    """
    tokens_BT, shown_BT = ids_BL[:, 1:-1], (corrupted_BL == ids_BL)[:, 1:-1]
    if (tokens_BT == vocabulary.UNK).any():
        raise ValueError("found [UNK]: a window of a chain holds only the bases A, T, C, G")
    real_BT = tokens_BT >= vocabulary.NUM_SPECIAL
    num_tokens = tokens_BT.shape[1]
    shape = (len(ids_BL), num_tokens + k - 1)
    bases_BN = np.full(shape, vocabulary.PADDING, np.uint8)
    visible_BN = np.zeros(shape, bool)
    for offset in range(k):
        base_BT = (tokens_BT - vocabulary.NUM_SPECIAL) >> 2 * (k - 1 - offset) & 3
        part_BT = bases_BN[:, offset : offset + num_tokens]
        part_BT[real_BT] = base_BT[real_BT]
        visible_BN[:, offset : offset + num_tokens] |= shown_BT & real_BT
    return bases_BN, ~visible_BN & (bases_BN != vocabulary.PADDING)


def stretches(hidden_N: np.ndarray, k: int) -> list[tuple[int, int]]:
    """Returns [start, stop) of the stretches to run, with their k-1 visible flanks.

    Hidden bases with k-1 or more visible ones between them fall into different
    stretches, which given those are independent; flanks are cut at the ends.
    """
    place = np.flatnonzero(hidden_N)
    if not len(place):
        return []
    breaks = np.flatnonzero(np.diff(place) >= k)
    first, last = place[np.r_[0, breaks + 1]], place[np.r_[breaks, len(place) - 1]]
    starts = np.maximum(first - (k - 1), 0)
    stops = np.minimum(last + k, len(hidden_N))
    return [(int(start), int(stop)) for start, stop in zip(starts, stops, strict=True)]


def stretch_losses(
    bases_GN: np.ndarray,
    hidden_GN: np.ndarray,
    probability_SA: np.ndarray,
    stationary_S: np.ndarray,
) -> np.ndarray:
    """Returns -log P(true k-mer | visible bases), (G, N-k+1), of stretches of one length N >= k."""
    k = kmer_length(probability_SA)
    num_states = len(stationary_S)
    allowed_GNA = (bases_GN[..., None] == np.arange(4)) | hidden_GN[..., None]
    state_GT, num_tokens = _codes(bases_GN, k - 1), bases_GN.shape[1] - k + 1

    # forward_t(s) ~ P(state t = s, evidence so far); the next state is 4 (s mod S/4) + base
    state_S = np.arange(num_states)
    forward_GS = np.broadcast_to(stationary_S, (len(bases_GN), num_states))
    for offset in range(k - 1):
        base_S = state_S >> 2 * (k - 2 - offset) & 3
        forward_GS = forward_GS * allowed_GNA[:, offset, base_S]
    forward_GTS = np.empty((len(bases_GN), num_tokens, num_states))
    for token in range(num_tokens):
        forward_GS = forward_GS / forward_GS.sum(axis=1, keepdims=True)
        forward_GTS[:, token] = forward_GS
        edge_GSA = forward_GS[..., None] * probability_SA * allowed_GNA[:, None, token + k - 1]
        forward_GS = edge_GSA.reshape(-1, 4, num_states).sum(axis=1)

    # backward_t(s) ~ P(later evidence | state t = s)
    losses_GT = np.empty((len(bases_GN), num_tokens))
    every_G = np.arange(len(bases_GN))
    by_last_SA = probability_SA.reshape(4, num_states // 4, 4)
    backward_GS = np.ones((len(bases_GN), num_states))
    for token in reversed(range(num_tokens)):
        later_GSA = backward_GS.reshape(-1, 1, num_states // 4, 4)
        later_GSA = later_GSA * allowed_GNA[:, None, None, token + k - 1]
        backward_GS = (by_last_SA * later_GSA).sum(axis=-1).reshape(-1, num_states)
        state_G, base_G = state_GT[:, token], bases_GN[:, token + k - 1]
        true_G = (
            forward_GTS[every_G, token, state_G]
            * probability_SA[state_G, base_G]
            * later_GSA[every_G, 0, state_G % (num_states // 4), base_G]
        )
        evidence_G = (forward_GTS[:, token] * backward_GS).sum(axis=1)
        losses_GT[:, token] = np.log(evidence_G) - np.log(true_G)
        backward_GS /= backward_GS.max(axis=1, keepdims=True)
    return np.maximum(losses_GT, 0)  # a certain token may come out at -1e-16


def base_losses(
    bases_WN: np.ndarray, start_WS: np.ndarray, run: int, probability_SA: np.ndarray
) -> np.ndarray:
    """Returns -log P(base | all visible bases) of hidden runs, each base by its own marginal.

    Every filling of a run is tried; k-1 visible bases on either side make the rest irrelevant.

    Args:
      bases_WN: uint8 (W, N), windows of a chain.
      start_WS: int (W, S), first bases of the hidden runs, -1 = none.
      run: bases of a run, few: there are 4**run fillings.

    Returns:
      (R, run), in the order of `start_WS`.
    """
    order = kmer_length(probability_SA) - 1
    filling_FI = np.arange(4**run)[:, None] >> 2 * np.arange(run)[::-1] & 3
    row_R, slot_R = np.nonzero(start_WS >= 0)
    place_RN = start_WS[row_R, slot_R][:, None] + np.arange(-order, run + order)
    losses_RI = np.empty((len(row_R), run))
    for number, around_N in enumerate(bases_WN[row_R[:, None], place_RN].astype(np.int64)):
        word_FN = np.tile(around_N, (len(filling_FI), 1))
        word_FN[:, order : order + run] = filling_FI
        state_FT = _codes(word_FN, order)[:, :-1]
        joint_F = np.prod(probability_SA[state_FT, word_FN[:, order:]], axis=1)
        is_true_FI = filling_FI == around_N[order : order + run]
        losses_RI[number] = np.log(joint_F.sum()) - np.log((joint_F[:, None] * is_true_FI).sum(0))
    return losses_RI


def composition_losses(
    ids_BL: np.ndarray,
    corrupted_BL: np.ndarray,
    masked_BL: np.ndarray,
    share_A: np.ndarray,
    k: int,
) -> np.ndarray:
    """Returns the losses (B, L) of an observer who sees the bases but knows only their shares.

    The token costs -log of the share, in `share_A`, of each of its hidden bases.
    """
    bases_BN, hidden_BN = hidden_bases(ids_BL, corrupted_BL, k)
    cost_BN = np.where(hidden_BN, -np.log(share_A)[np.where(hidden_BN, bases_BN, 0)], 0)
    losses_BT = np.lib.stride_tricks.sliding_window_view(cost_BN, k, axis=1).sum(axis=-1)
    return np.where(masked_BL, np.pad(losses_BT, ((0, 0), (1, 1))), 0)


def unigram_losses(ids_BL: np.ndarray, masked_BL: np.ndarray, share_V: np.ndarray) -> np.ndarray:
    """Returns the losses (B, L) of an observer who knows only the shares of the k-mers, by code."""
    code_BL = np.where(masked_BL, ids_BL - vocabulary.NUM_SPECIAL, 0)
    return np.where(masked_BL, -np.log(share_V[code_BL]), 0)


def _codes(bases_GN: np.ndarray, width: int) -> np.ndarray:
    """Returns int64 (G, N - width + 1), the codes of all words of `width` bases."""
    num_words = bases_GN.shape[1] - width + 1
    code_GT = np.zeros((len(bases_GN), num_words), np.int64)
    for offset in range(width):
        code_GT = code_GT * 4 + bases_GN[:, offset : offset + num_words]
    return code_GT
