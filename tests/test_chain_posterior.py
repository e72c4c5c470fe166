"""The known floor: exact posteriors of masked tokens drawn from a Markov chain."""

import itertools
import math

import numpy as np
import pytest

from benchmarks import chain_posterior
from cmgems_jax.genome import vocabulary
from cmgems_jax.pretraining import base_evaluation

A, T, C, G = range(4)


def random_chain(k: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns a chain far from uniform, and a start law that need not be its stationary one."""
    num_states = 4 ** (k - 1)
    return rng.dirichlet(np.full(4, 0.5), num_states), rng.dirichlet(np.ones(num_states))


def model_input(bases: np.ndarray, k: int, length: int = 0) -> np.ndarray:
    """Returns [CLS], the k-mers, [SEP] and padding up to `length`, int32 (L,)."""
    ids = [vocabulary.CLS, *vocabulary.tokenize(np.asarray(bases, np.uint8), k), vocabulary.SEP]
    return np.array(ids + [vocabulary.PAD] * (length - len(ids)), np.int32)


def corrupt(ids: np.ndarray, positions: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids with [MASK] at token positions (1 = the first k-mer), and the mask."""
    masked = np.zeros(len(ids), bool)
    masked[positions] = True
    return np.where(masked, vocabulary.MASK, ids).astype(np.int32), masked


def losses_by_enumeration(ids, corrupted, k, probability, start_law):
    """Sums the joint probability of every filling of the hidden bases. Slow, plain Python."""
    tokens = [int(token) - 5 for token in ids if token >= 5]
    bases = [tokens[0] >> 2 * (k - 1 - i) & 3 for i in range(k)] + [t & 3 for t in tokens[1:]]
    visible = set()
    for position in range(1, len(tokens) + 1):
        if corrupted[position] == ids[position]:
            visible |= set(range(position - 1, position - 1 + k))
    hidden = [place for place in range(len(bases)) if place not in visible]
    total, matching = 0.0, np.zeros(len(tokens))
    for filling in itertools.product(range(4), repeat=len(hidden)):
        word = list(bases)
        for place, base in zip(hidden, filling, strict=True):
            word[place] = base
        state = 0
        for base in word[: k - 1]:
            state = 4 * state + base
        joint = start_law[state]
        for base in word[k - 1 :]:
            joint *= probability[state, base]
            state = (4 * state + base) % 4 ** (k - 1)
        total += joint
        for token in range(len(tokens)):
            matching[token] += joint * (word[token : token + k] == bases[token : token + k])
    return -np.log(matching / total)


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_losses_equal_those_of_enumeration(k, seed):
    rng = np.random.default_rng((k, seed))
    probability, start_law = random_chain(k, rng)
    num_bases, length = 12, 12 - k + 1 + 2 + 3
    rows = []
    while len(rows) < 6:
        ids = model_input(rng.integers(0, 4, num_bases), k, length)
        masked = (rng.random(length) < 0.6) & (ids >= vocabulary.NUM_SPECIAL)
        fate = rng.random(length)
        other = rng.integers(5, vocabulary.size(k), length)
        shown = np.where(fate < 0.6, vocabulary.MASK, np.where(fate < 0.8, other, ids))
        corrupted = np.where(masked, shown, ids).astype(np.int32)
        if chain_posterior.hidden_bases(ids[None], corrupted[None], k)[1].sum() <= 6:
            rows.append((ids, corrupted, masked))
    ids, corrupted, masked = (np.stack(part) for part in zip(*rows, strict=True))
    losses = chain_posterior.token_losses(ids, corrupted, masked, probability, start_law)
    for row in range(len(rows)):
        expected = np.zeros(length)
        tokens = losses_by_enumeration(ids[row], corrupted[row], k, probability, start_law)
        expected[1 : 1 + len(tokens)] = tokens
        expected = np.where(masked[row], expected, 0)
        # Sums of at most 4**6 products in another order: rounding of float64.
        np.testing.assert_allclose(losses[row], expected, atol=1e-9)


def test_enumeration_and_posterior_agree_at_both_ends_and_on_a_whole_hidden_window():
    rng = np.random.default_rng(0)
    probability, start_law = random_chain(3, rng)
    for hidden in ([1], [1, 2], [6], [5, 6], [1, 2, 3, 4, 5, 6]):
        ids = model_input(rng.integers(0, 4, 8), 3)
        corrupted, masked = corrupt(ids, hidden)
        losses = chain_posterior.token_losses(
            ids[None], corrupted[None], masked[None], probability, start_law
        )[0]
        expected = losses_by_enumeration(ids, corrupted, 3, probability, start_law)
        np.testing.assert_allclose(losses[hidden], expected[np.array(hidden) - 1], atol=1e-9)


STAY = np.full((4, 4), 0.1) + 0.6 * np.eye(4)  # k=2: the same base again with 0.7


@pytest.mark.parametrize(
    "bases, positions, expected",
    [
        # A ? A: the true A has 0.7 * 0.7 against 3 * 0.1 * 0.1; both tokens hold that base.
        ([C, A, A, A, C], [2, 3], {2: 0.49 / 0.52, 3: 0.49 / 0.52}),
        # A ? A with the true T: 0.1 * 0.1
        ([C, A, T, A, C], [2, 3], {2: 0.01 / 0.52, 3: 0.01 / 0.52}),
        # A ? T: A and T 0.07, C and G 0.01
        ([C, A, A, T, C], [2, 3], {2: 0.07 / 0.16, 3: 0.07 / 0.16}),
        # ? A A: no evidence on the left, a uniform law, so P(A | next A) = 0.7
        ([A, A, A], [1], {1: 0.7}),
        # A A ?: nothing on the right
        ([A, A, C], [2], {2: 0.1}),
        # A ? ? A, true A A: 0.343 of all ways from A to A in three steps, (1 + 3 * 0.6**3) / 4
        ([C, A, A, A, A, C], [2, 3, 4], {3: 0.343 / 0.412}),
    ],
)
def test_a_chain_whose_answer_is_known(bases, positions, expected):
    ids = model_input(bases, 2)
    corrupted, masked = corrupt(ids, positions)
    losses = chain_posterior.token_losses(
        ids[None], corrupted[None], masked[None], STAY, np.full(4, 0.25)
    )[0]
    for position, probability in expected.items():
        assert losses[position] == pytest.approx(-math.log(probability), abs=1e-12)


def test_a_masked_token_whose_bases_are_all_visible_costs_nothing():
    ids = model_input([A, T, C, G, A, T], 3)
    for position in range(2, len(ids) - 2):  # its two neighbours show its three bases
        corrupted, masked = corrupt(ids, [position])
        losses = chain_posterior.token_losses(
            ids[None], corrupted[None], masked[None], *random_chain(3, np.random.default_rng(1))
        )
        assert (losses == 0).all()


def test_a_kept_token_shows_its_bases_and_a_replaced_one_shows_nothing():
    rng = np.random.default_rng(2)
    chain = random_chain(3, rng)
    ids = model_input(rng.integers(0, 4, 12), 3)
    corrupted, masked = corrupt(ids, [4, 5, 6])
    replaced = np.where(np.arange(len(ids)) == 5, vocabulary.NUM_SPECIAL + 7, corrupted)
    assert replaced[5] != ids[5]
    kept = np.where(np.arange(len(ids)) == 5, ids, corrupted)
    all_masked, with_random, with_kept = (
        chain_posterior.token_losses(ids[None], shown[None], masked[None], *chain)
        for shown in (corrupted, replaced, kept)
    )
    np.testing.assert_array_equal(all_masked, with_random)
    assert all_masked.sum() > 0 and (with_kept == 0).all()


def test_stretches_part_where_the_state_is_known_and_not_before():
    def parts(places, num_bases=30, k=6):
        hidden = np.zeros(num_bases, bool)
        hidden[places] = True
        return chain_posterior.stretches(hidden, k)

    assert parts([]) == []
    assert parts([10]) == [(5, 16)]
    assert parts([10, 16]) == [(5, 16), (11, 22)]  # 5 visible bases between: the state is known
    assert parts([10, 15]) == [(5, 21)]  # 4 between: it is not
    assert parts([2, 28]) == [(0, 8), (23, 30)]


def test_a_uniform_chain_costs_ln_4_for_every_hidden_base():
    """Every hidden base that a token covers is one of four, whatever the neighbours."""
    rng = np.random.default_rng(3)
    k = 6
    ids = np.stack([model_input(rng.integers(0, 4, 60), k) for _ in range(5)])
    masked = (rng.random(ids.shape) < 0.8) & (ids >= vocabulary.NUM_SPECIAL)
    corrupted = np.where(masked, vocabulary.MASK, ids).astype(np.int32)
    uniform = np.full((4 ** (k - 1), 4), 0.25), np.full(4 ** (k - 1), 4.0 ** (1 - k))
    losses = chain_posterior.token_losses(ids, corrupted, masked, *uniform)
    share = np.full(4, 0.25)
    expected = chain_posterior.composition_losses(ids, corrupted, masked, share, k)
    np.testing.assert_allclose(losses, expected, atol=1e-9)
    assert expected.sum() > 100


def test_composition_and_unigram_levels_by_hand():
    ids = model_input([A, T, C, G], 2)  # AT TC CG
    corrupted, masked = corrupt(ids, [1, 2])  # hides A and T; C is shown by CG
    share = np.array([0.4, 0.3, 0.2, 0.1])
    composition = chain_posterior.composition_losses(
        ids[None], corrupted[None], masked[None], share, 2
    )[0]
    expected = [0, -math.log(0.4 * 0.3), -math.log(0.3), 0, 0]
    np.testing.assert_allclose(composition, expected, atol=1e-12)
    kmer_share = np.full(16, 0.05)
    kmer_share[[1, 6]] = 0.1, 0.2  # AT = 0*4+1, TC = 1*4+2
    unigram = chain_posterior.unigram_losses(ids[None], masked[None], kmer_share)[0]
    np.testing.assert_allclose(unigram, [0, -math.log(0.1), -math.log(0.2), 0, 0], atol=1e-12)


def test_no_base_but_the_four_is_accepted():
    ids = np.array([[vocabulary.CLS, vocabulary.UNK, 7, vocabulary.SEP]], np.int32)
    with pytest.raises(ValueError, match="UNK"):
        chain_posterior.hidden_bases(ids, ids, 2)


def test_a_hidden_base_costs_what_each_token_costs_that_covers_it_alone_hidden():
    """With one base hidden a token's other letters are known, so the two floors are one."""
    k, rng = 4, np.random.default_rng(0)
    probability, start_law = random_chain(k, rng)
    bases_WN = rng.integers(0, 4, (3, 24)).astype(np.uint8)
    start_WS = np.array([[6, 15], [9, -1], [12, -1]])
    found = chain_posterior.base_losses(bases_WN, start_WS, 1, probability)[:, 0]
    expected = []
    for bases_N, start_S in zip(bases_WN, start_WS, strict=True):
        for start in start_S[start_S >= 0]:
            ids = model_input(bases_N, k)
            covering = [1 + token for token in range(start - k + 1, start + 1)]
            corrupted, masked = corrupt(ids, covering)
            losses = chain_posterior.token_losses(
                ids[None], corrupted[None], masked[None], probability, start_law
            )
            np.testing.assert_allclose(losses[0, covering], losses[0, covering[0]], rtol=1e-9)
            expected.append(losses[0, covering[0]])
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_known_law_beats_the_tables_of_kmers_and_they_the_composition():
    """Exact posterior <= both flanks <= the five bases before <= shares, on its own genome."""
    rng = np.random.default_rng(1)
    probability = rng.dirichlet(np.full(4, 0.7), 4**5)
    genome = [0, 1, 2, 3, 0]
    for _ in range(60_000):
        state = sum(base * 4**place for place, base in enumerate(genome[:-6:-1]))
        genome.append(int((rng.random() > probability[state].cumsum()).sum()))
    train, test = np.array(genome[:50_000], np.uint8), np.array(genome[50_000:], np.uint8)
    sixmers = vocabulary.tokenize(train, 6) - vocabulary.NUM_SPECIAL
    bases_WN = test[: len(test) // 80 * 80].reshape(-1, 80)
    hidden = base_evaluation.hide(bases_WN, 6, 4)
    marks = hidden.marks(np.bincount(sixmers, minlength=4096))
    for name, (start_WS, run) in zip(marks, hidden.ways, strict=True):
        exact = chain_posterior.base_losses(bases_WN, start_WS, run, probability).mean()
        levels = [exact, *(marks[name][mark] for mark in ("flanks", "order_5", "composition"))]
        assert levels == sorted(levels) and levels[0] < levels[-1] - 0.1, levels
