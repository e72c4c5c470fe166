"""Frozen features against a slow loop; the probe against scikit-learn by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from cmgems_jax.config import Config, ModelConfig, TokensConfig
from cmgems_jax.downstream.evaluation import methods
from cmgems_jax.downstream.evaluation.settings import EvaluationSettings
from cmgems_jax.downstream.finetuning import probe
from cmgems_jax.downstream.finetuning.targets import Targets
from cmgems_jax.downstream.tasks.files import Examples
from cmgems_jax.downstream.tasks.tasks import Task, TaskData
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.model import bert, heads
from cmgems_jax.pretraining.pretrained import Pretrained

CONFIG = Config(
    tokens=TokensConfig(k=3),
    model=ModelConfig(
        num_layers=2, hidden_size=16, num_heads=2, feedforward_size=32, num_positions=24
    ),
)
MODEL = bert.Encoder(CONFIG.model, CONFIG.tokens)
IDS = jnp.zeros((1, 8), jnp.int32)
ENCODER = Pretrained(CONFIG, jax.jit(MODEL.init)(jax.random.key(0), IDS)["params"], "small")


def test_features_that_no_memory_holds_are_refused_before_any_work(monkeypatch, capsys):
    """DNABERT: 31 x 768 float32 a row; the drawn rows twice, once as they are fitted."""
    many = Examples(
        np.broadcast_to(np.uint8(0), (2_000_000, 200)), np.zeros(1), np.zeros(1), "big.tsv"
    )
    few = Examples(np.zeros((10, 200), np.uint8), np.zeros(10), np.zeros(10), "few.tsv")
    data = TaskData(Task("big", "own", 2, "mcc"), many, None, few, ["0", "1"], [])
    model = Pretrained(Config(), {}, "dnabert")
    for modes, baselines, told in (
        (("probe",), False, f"probe features of 4,000,010 rows: {4_000_010 * 95_232 / 2**30:.1f}"),
        # 12 bytes for each of 4 + 16 + 64 + 200 + 200 + 200 k-mers at most.
        ((), True, f"k-mer regression of 2,000,000 rows: {2e6 * 684 * 12 / 2**30:.1f}"),
    ):
        for num_gib in (8, 999):
            sizes = {"SC_PAGE_SIZE": 2**30, "SC_PHYS_PAGES": num_gib}
            monkeypatch.setattr(methods.os, "sysconf", sizes.get)
            settings = EvaluationSettings(modes=modes, num_draws=1, baselines=baselines)
            check = functools.partial(methods.check_memory, data, [model], settings)
            if num_gib == 8:
                with pytest.raises(InputError, match=f"big.tsv: {told} GiB, but this machine has"):
                    check()
        check()
        assert f"{told} GiB of memory" in capsys.readouterr().out


def test_features_of_both_strands_are_their_mean():
    bases_NM = sequences()
    forward, reverse, both = (
        probe.features(ENCODER, rows(bases_NM), strand=strand) for strand in vocabulary.STRANDS
    )
    other = probe.features(ENCODER, rows(vocabulary.reverse_complement(bases_NM)))
    np.testing.assert_array_equal(reverse, other)
    np.testing.assert_allclose(both, (forward + other) / 2, atol=1e-6)
    assert abs(forward - other).max() > 1e-2


def rows(bases_NM: np.ndarray) -> Examples:
    """Returns sequences without labels."""
    return Examples(bases_NM, np.zeros(len(bases_NM)), np.arange(len(bases_NM)), "task.tsv")


def sequences() -> np.ndarray:
    """Returns seven sequences: of different lengths, one with an N, one of N alone."""
    bases_NM = np.random.default_rng(0).integers(0, 4, (7, 20)).astype(np.uint8)
    bases_NM[1, 12:] = bases_NM[2, 3:] = vocabulary.PADDING
    bases_NM[3, 10] = vocabulary.AMBIGUOUS
    bases_NM[4, :] = vocabulary.AMBIGUOUS
    return bases_NM


def slow_features(bases: np.ndarray) -> np.ndarray:
    """One sequence without padding, k-mer by k-mer."""
    kmers = vocabulary.tokenize(bases[bases != vocabulary.PADDING], 3)
    ids = jnp.array([[vocabulary.CLS, *kmers, vocabulary.SEP]], jnp.int32)
    states = MODEL.apply({"params": ENCODER.params}, ids, method=MODEL.all_states)
    known = [place + 1 for place, kmer in enumerate(kmers) if kmer != vocabulary.UNK]
    if not known:
        return np.zeros((5 + 16) * 16)
    picked = [np.asarray(layer)[0, known] for layer in states]
    last = [picked[-1].max(axis=0), np.asarray(states[-1])[0, 0]]
    parts = np.zeros((16, 16))  # 16 parts, 16 hidden
    for number in range(16):
        rows = [row for rank, row in enumerate(picked[-1]) if rank * 16 // len(known) == number]
        parts[number] = np.mean(rows, axis=0) if rows else 0
    return np.concatenate([*(rows.mean(axis=0) for rows in picked), *last, *parts])


def test_features_are_means_of_every_layer_and_of_the_last_maximum_cls_and_means_of_parts():
    """Batches of four on four devices: the last is filled up. float32 tolerance."""
    bases_NM = sequences()
    found = probe.features(ENCODER, rows(bases_NM), batch_size=4)
    assert found.shape == (7, (1 + 2 + 2 + 16) * 16) == (7, heads.num_features(CONFIG.model))
    assert found.dtype == np.float32
    expected = np.stack([slow_features(bases) for bases in bases_NM])
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert not found[4].any()  # no k-mer of the vocabulary


def test_long_sequences_are_refused_or_averaged_over_windows():
    bases_NM = np.random.default_rng(0).integers(0, 4, (2, 48)).astype(np.uint8)
    with pytest.raises(InputError, match=r"task\.tsv: 2 of 2 sequences are longer than 24 bases"):
        probe.features(ENCODER, rows(bases_NM))
    found = probe.features(ENCODER, rows(bases_NM), long_sequences="window")
    halves = probe.features(ENCODER, rows(np.concatenate([bases_NM[:, :24], bases_NM[:, 24:]])))
    np.testing.assert_allclose(found, (halves[:2] + halves[2:]) / 2, atol=1e-6)


def test_a_probe_is_logistic_regression_on_standardised_features_once_a_draw():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    train = (rng.normal(size=(60, 8)) * 5 + 3 + labels[:, None]).astype(np.float32)
    test = rng.normal(size=(9, 8)).astype(np.float32)
    draws = np.array([np.arange(30), np.arange(30)[::-1], np.arange(20, 50)])
    said = probe.probe(train, labels, draws, test, 2)
    assert said.shape == (3, 9, 2)
    assert said.dtype == np.float32
    for draw in (0, 2):
        rows = train[draws[draw]]
        mean, deviation = rows.mean(axis=0), rows.std(axis=0)
        model = LogisticRegression(C=0.01, max_iter=1_000)
        model.fit((rows - mean) / deviation, labels[draws[draw]])
        expected = model.predict_proba((test - mean) / deviation)
        np.testing.assert_allclose(said[draw], expected, atol=1e-4)  # lbfgs stops at 1e-4
    np.testing.assert_array_equal(said[0], said[1])  # the same rows in another order


def test_a_weight_is_a_smaller_penalty_and_folded_into_the_layer():
    """Twice the weight is logistic regression on features twice as large."""
    rng = np.random.default_rng(0)
    labels, features = rng.integers(0, 2, 60), rng.normal(size=(60, 2)).astype(np.float32)
    draws, weight_F = np.arange(60)[None], np.array([2.0, 0.0])
    targets = Targets.of("classes", 2, labels)
    kernel_1FC, bias_1C = probe.linear_layers(features, labels, draws, targets, weight_F)
    scaled = (features[:, :1] - features[:, :1].mean()) / features[:, :1].std()
    model = LogisticRegression(C=0.01, max_iter=1_000).fit(2 * scaled, labels)
    logits = features.astype(np.float64) @ kernel_1FC[0] + bias_1C[0]
    np.testing.assert_allclose(
        logits[:, 1] - logits[:, 0], model.decision_function(2 * scaled), atol=1e-4
    )
    assert not kernel_1FC[0, 1].any()


def test_a_class_that_was_not_drawn_gets_no_probability():
    train = np.eye(6, dtype=np.float32)
    labels = np.array([0, 0, 0, 2, 2, 2])
    said = probe.probe(train, labels, np.array([[0, 1, 3, 4]]), train, 3)
    np.testing.assert_array_equal(said[0, :, 1], 0)
    np.testing.assert_allclose(said.sum(axis=2), 1, atol=1e-6)
