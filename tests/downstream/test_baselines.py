"""Counts against a slow counter, probabilities against fitting one draw at a time."""

import tracemalloc

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from cmgems_jax.downstream.evaluation import baselines
from cmgems_jax.downstream.tasks.files import Examples
from cmgems_jax.downstream.tasks.tasks import Task, TaskData
from cmgems_jax.genome import vocabulary


def make_examples(count: int, seed: int, num_classes: int = 2, length: int = 60) -> Examples:
    """Random bases; class c holds more of the word of c at random places."""
    rng = np.random.default_rng(seed)
    bases_NM = rng.integers(0, 4, (count, length), np.uint8)
    labels_N = (np.arange(count) % num_classes).astype(np.int32)
    for bases_M, label in zip(bases_NM, labels_N.tolist(), strict=True):
        for start in rng.integers(0, length - 4, 3):
            bases_M[start : start + 4] = (label, (label + 1) % 4, label, (label + 2) % 4)
    return Examples(bases_NM, labels_N, np.arange(2, count + 2, dtype=np.int32), "train.tsv")


def make_task(
    num_train: int, num_test: int, num_classes: int = 2
) -> tuple[Examples, Examples, TaskData]:
    """Returns train, test, and both as a task."""
    train, test = make_examples(num_train, 0, num_classes), make_examples(num_test, 1, num_classes)
    task = Task("mine", "own", num_classes, "mcc")
    return train, test, TaskData(task, train, None, test, [], [])


def slow_counts(bases_NM: np.ndarray, longest: int) -> np.ndarray:
    """Letter by letter, with a dictionary."""
    names = [kmer for k in range(1, longest + 1) for kmer in vocabulary.kmers(k)]
    counts = np.zeros((len(bases_NM), len(names)))
    for row, bases_M in enumerate(bases_NM):
        text = "".join("ATCGN "[code] for code in bases_M)
        for place, name in enumerate(names):
            counts[row, place] = sum(text.startswith(name, start) for start in range(len(text)))
    return counts


def test_counts_equal_a_slow_counter_with_padding_and_ambiguous_bases():
    rng = np.random.default_rng(0)
    bases_NM = rng.choice(5, (6, 30), p=[0.24] * 4 + [0.04]).astype(np.uint8)
    for row, length in enumerate((30, 17, 3, 2, 1, 30)):
        bases_NM[row, length:] = vocabulary.PADDING
    bases_NM[5] = vocabulary.AMBIGUOUS
    found = baselines.count_kmers(bases_NM, 3)
    assert found.shape == (6, baselines.num_features(3)) == (6, 4 + 16 + 64)
    np.testing.assert_array_equal(found.toarray(), slow_counts(bases_NM, 3))


@pytest.mark.parametrize("num_classes", [2, 3])
def test_draws_give_what_fitting_each_alone_gives(num_classes):
    train, test, data = make_task(60, 30, num_classes)
    draws_DN = np.array([np.arange(30), np.arange(20, 50), np.arange(30)[::-1]])
    found = baselines.kmer_regression(data, draws_DN, seed=0, k=2)
    assert [k for _, k in found] == [2, 2, 2]
    for rows, (probabilities_NC, _) in zip(draws_DN, found, strict=True):
        counts = slow_counts(train.bases_NM[rows], 2)
        largest = counts.max(axis=0)
        model = LogisticRegression(C=1.0, max_iter=1_000, tol=1e-8)
        model.fit(counts / np.where(largest, largest, 1), train.labels_N[rows])
        wanted = model.predict_proba(slow_counts(test.bases_NM, 2) / np.where(largest, largest, 1))
        # Two stopping rules of one convex problem.
        np.testing.assert_allclose(probabilities_NC, wanted, atol=5e-3)
    np.testing.assert_array_equal(found[0][0], found[2][0])  # the same rows, in another order


def test_k_is_chosen_on_the_drawn_rows_and_the_signal_is_found():
    _, test, data = make_task(400, 200)
    draws_DN = np.arange(400).reshape(2, 200)
    found = baselines.kmer_regression(data, draws_DN, seed=0)
    again = baselines.kmer_regression(data, draws_DN[:1], seed=0)
    assert found[0][1] == again[0][1]
    np.testing.assert_array_equal(found[0][0], again[0][0])
    for probabilities_NC, k in found:
        assert 1 <= k <= baselines.MAX_K
        assert probabilities_NC.shape == (200, 2)
        np.testing.assert_allclose(probabilities_NC.sum(axis=1), 1, atol=1e-12)
        assert (probabilities_NC.argmax(axis=1) == test.labels_N).mean() > 0.85


def test_one_row_a_class_needs_no_folds_and_an_absent_class_is_improbable():
    _, _, data = make_task(10, 6, num_classes=3)
    ((probabilities_NC, k),) = baselines.kmer_regression(data, np.array([[0, 2]]), seed=0)
    assert k == 3 and (probabilities_NC[:, 1] == 0).all()
    np.testing.assert_allclose(probabilities_NC.sum(axis=1), 1, atol=1e-12)


def test_sequences_shorter_than_k_are_counted_as_far_as_they_go():
    _, test, data = make_task(20, 4)
    test.bases_NM[:, 2:] = vocabulary.PADDING
    ((probabilities_NC, _),) = baselines.kmer_regression(data, np.arange(20)[None], seed=0, k=5)
    assert np.isfinite(probabilities_NC).all()


def test_many_rows_are_counted_and_predicted_in_chunks_with_the_same_result(monkeypatch):
    """60 bases a row: chunks of two rows, the last of one."""
    train, _, data = make_task(31, 15)
    draws_DN = np.array([np.arange(31), np.arange(31)[::-1]])
    whole = baselines.kmer_regression(data, draws_DN, seed=0)
    counts_NF = baselines.count_kmers(train.bases_NM, 6)
    monkeypatch.setattr(baselines, "_CHUNK_BASES", 130)
    assert (baselines.count_kmers(train.bases_NM, 6) != counts_NF).nnz == 0
    for (one_NC, k), (other_NC, other_k) in zip(
        baselines.kmer_regression(data, draws_DN, seed=0), whole, strict=True
    ):
        assert k == other_k
        np.testing.assert_allclose(one_NC, other_NC, rtol=1e-12)


@pytest.mark.parametrize("k", [3, 6])
def test_counting_takes_no_more_memory_than_is_told(k):
    """Of the lists of one chunk, which come on top, a base takes about 170 bytes at k=6."""
    bases_NM = np.random.default_rng(0).integers(0, 4, (8_000, 200), np.uint8)
    list_bytes = 200 * baselines._CHUNK_BASES
    tracemalloc.start()
    counts_NF = baselines.count_kmers(bases_NM, k)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts_NF.shape == (8_000, baselines.num_features(k))
    assert peak <= baselines.num_bytes(8_000, 200, k) + list_bytes


def test_majority_says_the_shares_of_the_drawn_classes():
    _, _, data = make_task(10, 4)
    first, second = baselines.majority(data, np.array([[0, 1, 3, 5], [0, 2, 1, 3]]))
    np.testing.assert_array_equal(first, np.tile([0.25, 0.75], (4, 1)))
    np.testing.assert_array_equal(second, np.tile([0.5, 0.5], (4, 1)))
