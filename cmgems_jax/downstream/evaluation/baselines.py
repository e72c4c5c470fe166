"""What a user would pick instead of a transformer: logistic, or ridge, regression on k-mer counts.

And the majority class, below which nothing has been learnt.
"""

import numpy as np
import threadpoolctl
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from cmgems_jax import terminal
from cmgems_jax.downstream.finetuning import probe
from cmgems_jax.downstream.tasks import labels
from cmgems_jax.downstream.tasks.tasks import TaskData
from cmgems_jax.genome import vocabulary

MAX_K = 6
_K_WITHOUT_CHOICE = 3  # where a class has one row: no part can be held out
_NUM_FOLDS = 5
_MAX_CHOICE_ROWS = 2_000  # k is chosen on so many rows; more change it little and take long
_MAX_ITERATIONS = 1_000
_CHUNK_BASES = 1 << 18  # of which the k-mers are listed at a time


def kmer_regression(
    data: TaskData, draws_DN: np.ndarray, *, seed: int, k: int | None = None
) -> list[tuple[np.ndarray, int]]:
    """Fits logistic regression (C=1) on the counts of 1..k-mers, once per draw.

    Of several labels per row each has its own; numbers have ridge regression with the penalty of
    the least leave-one-out error. Every count is divided by its largest value among the drawn
    rows. Overlapping k-mers are counted; those with an ambiguous base are left out. Of the test
    rows, some thousands are counted at a time; for the drawn rows see `num_bytes`.

    Args:
      draws_DN: int (D, n), rows of train that a draw trains on; test is predicted.
      seed: of the folds.
      k: bases of the longest k-mer, 1 to 6. None: chosen for every draw by
        cross-validation on its rows (5 folds, accuracy, the smaller on a tie; of several labels
        and of numbers the squared error).

    Returns:
      For every draw float64 (rows of test, C) probabilities, or numbers, and its k.
    """
    train, kind = data.train, data.task.labels
    # GUE's draws are all of the same rows, and are fitted once.
    unique_DN, index_D = np.unique(np.sort(draws_DN), axis=0, return_inverse=True)
    fitted: list[tuple[Pipeline, int]] = []
    # With several threads on such small vectors these wait for each other: six times slower.
    with threadpoolctl.threadpool_limits(1):
        for rows in terminal.bar(unique_DN, desc="k-mer regression", unit="draws"):
            bases_nM, labels_n = train.bases_NM[rows], train.labels_N[rows]
            chosen = k or _choose_k(bases_nM, labels_n, seed, kind)
            fitted.append((_model(kind).fit(count_kmers(bases_nM, chosen), labels_n), chosen))
        predicted_DNC = _predict(fitted, data.test.bases_NM, data.task.num_classes, kind)
    return [(predicted_DNC[draw], fitted[draw][1]) for draw in index_D]


def majority(data: TaskData, draws_DN: np.ndarray) -> list[np.ndarray]:
    """Predicts the class shares of the drawn rows, whatever the sequence.

    Returns float64 (rows of test, C) for every draw (D, n); the largest share is the majority's.
    """
    num_rows, num_classes = len(data.test.labels_N), data.task.num_classes
    counts = (np.bincount(data.train.labels_N[rows], minlength=num_classes) for rows in draws_DN)
    return [np.tile(count_C / count_C.sum(), (num_rows, 1)) for count_C in counts]


def num_features(k: int) -> int:
    """Returns the number of 1-, 2-, ... k-mers."""
    return (4 ** (k + 1) - 4) // 3


def count_kmers(bases_NM: np.ndarray, longest: int) -> sparse.csr_array:
    """Returns how often every 1-, 2-, ... `longest`-mer occurs in every row.

    Returns float64 sparse (N, num_features(longest)): the k-mers by length, then by code.
    """
    num_rows, chunk_rows = len(bases_NM), _chunk_rows(bases_NM)
    most = num_rows * _most_kmers(bases_NM.shape[1], longest)
    index_type = _index_type(most)
    values, columns = np.empty(most), np.empty(most, index_type)  # what stays empty costs nothing
    ends_N = np.zeros(num_rows + 1, index_type)
    filled = 0
    for start in range(0, num_rows, chunk_rows):
        chunk_NM = bases_NM[start : start + chunk_rows]
        blocks = []
        for k in range(1, longest + 1):
            ids_NL = vocabulary.tokenize(chunk_NM, k)
            rows, positions = np.nonzero(ids_NL >= vocabulary.NUM_SPECIAL)
            codes = ids_NL[rows, positions] - vocabulary.NUM_SPECIAL
            ones, shape = np.ones(len(rows), np.float32), (len(chunk_NM), 4**k)
            blocks.append(sparse.coo_array((ones, (rows, codes)), shape=shape).tocsr())
        chunk_CF = sparse.hstack(blocks, format="csr")
        end = filled + chunk_CF.nnz
        values[filled:end], columns[filled:end] = chunk_CF.data, chunk_CF.indices
        ends_N[start + 1 : start + 1 + len(chunk_NM)] = filled + chunk_CF.indptr[1:]
        filled = end
    counted = values[:filled], columns[:filled], ends_N
    return sparse.csr_array(counted, shape=(num_rows, num_features(longest)))


def num_bytes(num_rows: int, num_bases: int, k: int = MAX_K) -> int:
    """Returns the memory that the counts of `num_rows` rows of `num_bases` take at most."""
    most = num_rows * _most_kmers(num_bases, k)
    return most * (np.dtype(np.float64).itemsize + np.dtype(_index_type(most)).itemsize)


def _most_kmers(num_bases: int, longest: int) -> int:
    """Returns how many different 1-, 2-, ... `longest`-mers a row can have."""
    return sum(min(4**k, num_bases) for k in range(1, longest + 1))


def _index_type(most: int) -> type[np.signedinteger]:
    """Returns the type that numbers so many entries of a sparse array."""
    return np.int32 if most < 2**31 else np.int64


def _chunk_rows(bases_NM: np.ndarray) -> int:
    """Returns how many rows are counted at a time."""
    return max(1, _CHUNK_BASES // bases_NM.shape[1])


def _predict(
    fitted: list[tuple[Pipeline, int]], bases_NM: np.ndarray, num_classes: int, kind: str
) -> np.ndarray:
    """Returns every model's predictions (D, N, C), a chunk of the rows at a time."""
    longest = max(k for _, k in fitted)
    predicted_DNC = np.zeros((len(fitted), len(bases_NM), num_classes))
    for start in range(0, len(bases_NM), _chunk_rows(bases_NM)):
        rows = slice(start, start + _chunk_rows(bases_NM))
        counts_NF = count_kmers(bases_NM[rows], longest)
        for predicted_NC, (model, k) in zip(predicted_DNC, fitted, strict=True):
            chosen_NF = counts_NF[:, : num_features(k)].copy()  # the model scales it in place
            classes = model.classes_ if kind == labels.CLASSES else slice(None)
            predicted_NC[rows, classes] = _outputs(model, chosen_NF, kind)
    return predicted_DNC


def _outputs(model: Pipeline, counts_NF: sparse.csr_array, kind: str) -> np.ndarray:
    """Returns the probabilities, or numbers, of a fitted model: (N, C)."""
    if kind == labels.NUMBERS:
        return model.predict(counts_NF).reshape(counts_NF.shape[0], -1)
    return model.predict_proba(counts_NF)


def _model(kind: str) -> Pipeline:
    """Returns what is fitted; what it is given is scaled in place."""
    regression = LogisticRegression(C=1.0, max_iter=_MAX_ITERATIONS)
    if kind == labels.MULTILABEL:
        regression = OneVsRestClassifier(regression)
    elif kind == labels.NUMBERS:
        regression = probe.ridge()
    return make_pipeline(MaxAbsScaler(copy=False), regression)


def _choose_k(bases_nM: np.ndarray, labels_n: np.ndarray, seed: int, kind: str) -> int:
    """Returns the k of the best mean score over folds, the smaller on a tie."""
    if len(labels_n) > _MAX_CHOICE_ROWS:
        chosen = np.random.default_rng(seed).permutation(len(labels_n))[:_MAX_CHOICE_ROWS]
        bases_nM, labels_n = bases_nM[chosen], labels_n[chosen]
    strata_n = labels.strata(labels_n)
    num_folds = min(_NUM_FOLDS, np.unique(strata_n, return_counts=True)[1].min())
    if num_folds < 2:
        return _K_WITHOUT_CHOICE
    features_nF = count_kmers(bases_nM, MAX_K)
    splits = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
    folds = list(splits.split(strata_n, strata_n))

    def nearness(model: Pipeline, counts_NF: sparse.csr_array, true_NC: np.ndarray) -> float:
        return -float(((_outputs(model, counts_NF, kind) - true_NC) ** 2).mean())

    scoring = None if kind == labels.CLASSES else nearness  # None: accuracy
    scores = [
        cross_val_score(
            _model(kind), features_nF[:, : num_features(k)], labels_n, cv=folds, scoring=scoring
        ).mean()
        for k in range(1, MAX_K + 1)
    ]
    return 1 + int(np.argmax(scores))
