"""What a user would pick instead of a transformer: logistic regression on k-mer counts.

And the majority class, below which nothing has been learnt.
"""

import numpy as np
import threadpoolctl
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from cmgems_jax import terminal, vocabulary
from cmgems_jax.data.task_store import Examples

MAX_K = 6
_K_WITHOUT_CHOICE = 3  # where a class has one row: no part can be held out
_NUM_FOLDS = 5
_MAX_CHOICE_ROWS = 2_000  # k is chosen on so many rows; more change it little and take long
_MAX_ITERATIONS = 1_000


def kmer_logistic(
    train: Examples,
    draws_DN: np.ndarray,
    test: Examples,
    num_classes: int,
    *,
    seed: int,
    k: int | None = None,
) -> list[tuple[np.ndarray, int]]:
    """Fits logistic regression (C=1) on the counts of 1..k-mers, once a draw.

    Every count is divided by its largest value among the drawn rows. Overlapping
    k-mers are counted; those with an ambiguous base are left out.

    Args:
      train: what is drawn from.
      draws_DN: int (D, n), rows of `train` that a draw trains on.
      test: what is predicted.
      num_classes: C.
      seed: of the folds.
      k: bases of the longest k-mer, 1 to 6. None: chosen for every draw by
        cross-validation on its rows (5 folds, accuracy, the smaller on a tie).

    Returns:
      For every draw float64 (rows of test, C) probabilities, and its k.
    """
    longest = k or MAX_K
    used, places = np.unique(draws_DN, return_inverse=True)
    train_UF = count_kmers(train.bases_NM[used], longest)
    labels_U = train.labels_N[used]
    test_NF = count_kmers(test.bases_NM, longest)
    fitted: dict[bytes, tuple[np.ndarray, int]] = {}  # GUE's draws are all of the same rows
    results = []
    # With several threads on such small vectors these wait for each other: six times slower.
    with threadpoolctl.threadpool_limits(1):
        for rows in terminal.bar(
            places.reshape(draws_DN.shape),
            desc="k-mer logistic regression",
            unit="draws",
        ):
            key = np.sort(rows).tobytes()
            if key not in fitted:
                chosen = k or _choose_k(train_UF[rows], labels_U[rows], seed)
                width = num_features(chosen)
                model = _model().fit(train_UF[rows][:, :width], labels_U[rows])
                probabilities_NC = np.zeros((test_NF.shape[0], num_classes))
                probabilities_NC[:, model.classes_] = model.predict_proba(test_NF[:, :width])
                fitted[key] = probabilities_NC, chosen
            results.append(fitted[key])
    return results


def majority(
    train: Examples, draws_DN: np.ndarray, test: Examples, num_classes: int
) -> list[np.ndarray]:
    """Predicts the class shares of the drawn rows, whatever the sequence.

    Args:
      train: what is drawn from.
      draws_DN: int (D, n), rows of `train`.
      test: what is predicted.
      num_classes: C.

    Returns:
      For every draw float64 (rows of test, C); the largest share is the majority class.
    """
    counts = (np.bincount(train.labels_N[rows], minlength=num_classes) for rows in draws_DN)
    return [np.tile(count_C / count_C.sum(), (len(test.labels_N), 1)) for count_C in counts]


def num_features(k: int) -> int:
    """Returns the number of 1-, 2-, ... k-mers."""
    return (4 ** (k + 1) - 4) // 3


def count_kmers(bases_NM: np.ndarray, longest: int) -> sparse.csr_array:
    """Returns how often every 1-, 2-, ... `longest`-mer occurs in every row.

    Args:
      bases_NM: uint8 (N, M), base codes.
      longest: bases of the longest k-mer.

    Returns:
      float64 sparse (N, num_features(longest)): the k-mers by length, then by code.
    """
    blocks = []
    for k in range(1, longest + 1):
        ids_NL = vocabulary.tokenize(bases_NM, k)
        rows, places = np.nonzero(ids_NL >= vocabulary.NUM_SPECIAL)
        codes = ids_NL[rows, places] - vocabulary.NUM_SPECIAL
        ones = np.ones(len(rows))
        blocks.append(sparse.coo_array((ones, (rows, codes)), shape=(len(bases_NM), 4**k)).tocsr())
    return sparse.hstack(blocks, format="csr")


def _model() -> Pipeline:
    """Returns what is fitted."""
    return make_pipeline(MaxAbsScaler(), LogisticRegression(C=1.0, max_iter=_MAX_ITERATIONS))


def _choose_k(features_nF: sparse.csr_array, labels_n: np.ndarray, seed: int) -> int:
    """Returns the k of the best mean accuracy over folds, the smaller on a tie."""
    if len(labels_n) > _MAX_CHOICE_ROWS:
        chosen = np.random.default_rng(seed).permutation(len(labels_n))[:_MAX_CHOICE_ROWS]
        features_nF, labels_n = features_nF[chosen], labels_n[chosen]
    num_folds = min(_NUM_FOLDS, np.unique(labels_n, return_counts=True)[1].min())
    if num_folds < 2:
        return _K_WITHOUT_CHOICE
    folds = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
    accuracies = [
        cross_val_score(_model(), features_nF[:, : num_features(k)], labels_n, cv=folds).mean()
        for k in range(1, MAX_K + 1)
    ]
    return 1 + int(np.argmax(accuracies))
