"""What tables of 6-mers know of hidden bases: the marks that a model must beat.

Made of the training windows' counts, with add-one. Runs of bases are hidden at a time, so a
table's view of a base is that of the nearest visible five bases, by a chain of 6-mers that is
summed over the hidden ones between. Axes: W windows, N bases, S runs of a window, I bases of a
run, X the 4**5 contexts, A the four letters.
"""

import numpy as np

ORDER = 5  # bases of a context
MARKS = ("composition", "order_5", "flanks")
_CONTEXTS = 4**ORDER


def marks(
    bases_WN: np.ndarray, start_WS: np.ndarray, run: int, sixmers_V: np.ndarray
) -> dict[str, float]:
    """Returns the mean -log probability of the hidden bases, nats, by mark.

    composition: the bases' shares. order_5: given the five visible bases before the run.
    flanks: given those behind it too, p(b) ~ p(b | before) * p(b | behind) / p(b).

    Args:
      bases_WN: uint8.
      start_WS: int, first base of each hidden run, -1 = none; five bases stand at either side.
      run: bases hidden at a time.
      sixmers_V: int64 (4096,), counts by code.
    """
    row_R, slot_R = np.nonzero(start_WS >= 0)
    if not len(row_R):
        return dict.fromkeys(MARKS, float("nan"))
    start_R = start_WS[row_R, slot_R]
    true_RI = bases_WN[row_R[:, None], start_R[:, None] + np.arange(run)]
    share_A, before_IXA, behind_IXA = tables(sixmers_V, run)
    log_before_RIA = np.log(before_IXA[:, _context(bases_WN, row_R, start_R - ORDER)])
    log_behind_RIA = np.log(behind_IXA[::-1, _context(bases_WN, row_R, start_R + run)])
    log_before_RIA, log_behind_RIA = (
        np.moveaxis(x, 0, 1) for x in (log_before_RIA, log_behind_RIA)
    )
    scores = (
        np.broadcast_to(np.log(share_A), log_before_RIA.shape),
        log_before_RIA,
        log_before_RIA + log_behind_RIA - np.log(share_A),
    )
    return {name: _nats(score, true_RI) for name, score in zip(MARKS, scores, strict=True)}


def tables(sixmers_V: np.ndarray, run: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the shares of the letters, (A,), and the tables before and behind, (I, X, A).

    Entry i is of a base with i hidden ones between it and the visible five.
    """
    counts_XA = sixmers_V.reshape(_CONTEXTS, 4) + 1.0
    counts_AX = sixmers_V.reshape(4, _CONTEXTS) + 1.0
    code_X1, letter_A = np.arange(_CONTEXTS)[:, None], np.arange(4)
    share_A = counts_AX.sum(axis=1) / counts_AX.sum()
    before_IXA = _chain(counts_XA, (code_X1 * 4 + letter_A) % _CONTEXTS, run)
    behind_IXA = _chain(counts_AX.T, code_X1 // 4 + letter_A * (_CONTEXTS // 4), run)
    return share_A, before_IXA, behind_IXA


def _chain(counts_XA: np.ndarray, next_XA: np.ndarray, run: int) -> np.ndarray:
    """Returns (I, X, A): the letter after i steps of a chain that goes from context to context."""
    step_XA = counts_XA / counts_XA.sum(axis=1, keepdims=True)
    tables = [step_XA]
    for _ in range(run - 1):
        tables.append((step_XA[..., None] * tables[-1][next_XA]).sum(axis=1))
    return np.stack(tables)


def _context(bases_WN: np.ndarray, row_R: np.ndarray, start_R: np.ndarray) -> np.ndarray:
    """Returns the codes of the five bases from `start_R` on, int (R,)."""
    context_R5 = bases_WN[row_R[:, None], start_R[:, None] + np.arange(ORDER)].astype(int)
    return context_R5 @ 4 ** np.arange(ORDER)[::-1]


def _nats(score_RIA: np.ndarray, true_RI: np.ndarray) -> float:
    """Returns the mean -log probability of the true letters from unnormalised log scores."""
    total_RI = np.log(np.exp(score_RIA).sum(axis=2))
    return float((total_RI - np.take_along_axis(score_RIA, true_RI[..., None], 2)[..., 0]).mean())
