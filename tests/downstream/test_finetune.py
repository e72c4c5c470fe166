"""Fine-tuning: draws side by side, batches, the choice of the epoch, long sequences, recipes."""

import dataclasses
import functools
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.metrics

from cmgems_jax.downstream.finetuning import loop as finetuning_loop
from cmgems_jax.downstream.finetuning import position_limit, probe, recipes
from cmgems_jax.downstream.finetuning import steps as draw_steps
from cmgems_jax.downstream.finetuning.recipes import Recipe
from cmgems_jax.downstream.finetuning.targets import Targets
from cmgems_jax.downstream.tasks.files import Examples
from cmgems_jax.downstream.tasks.table import Task
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.model import heads
from cmgems_jax.pretraining import optimizer
from cmgems_jax.pretraining.pretrained import Pretrained
from tests.downstream.small_task import (
    DATA,
    DRAWS,
    ENCODER,
    LOUD,
    TEST,
    TINY,
    TRAIN,
    examples,
    small_encoder,
)


def finetune(encoder: Pretrained, draws_DN: np.ndarray, recipe: Recipe, **options) -> np.ndarray:
    """Returns what every draw's classifier predicts of the test rows."""
    trained = finetuning_loop.train_draws(encoder, DATA, draws_DN, recipe, **options)
    return finetuning_loop.probabilities(trained, TEST)


@pytest.fixture(scope="module")
def side_by_side() -> np.ndarray:
    """The probabilities of five draws on four devices: two of them have two draws."""
    return finetune(ENCODER, DRAWS, TINY, seed=3)


def test_draws_side_by_side_equal_draws_one_at_a_time(side_by_side):
    """Up to float32's order of summation: six updates of 1e-3 move the logits by about 0.1."""
    assert side_by_side.shape == (5, 30, 2)
    assert side_by_side.dtype == np.float32
    alone = [finetune(ENCODER, DRAWS[[n]], TINY, seed=3, first_draw=n) for n in (0, 4)]
    np.testing.assert_allclose(side_by_side[[0, 4]], np.concatenate(alone), atol=1e-5)
    spread = side_by_side.std(axis=0).max()
    assert spread > 1e-3  # so draws do differ by far more than the tolerance


def test_all_draws_and_epochs_run_in_one_compiled_program_and_so_do_later_calls(caplog):
    """No program is compiled twice (for another placement, say), and none again."""
    recipe = dataclasses.replace(TINY, peak_lr=2e-3)  # of no other test
    for seed in (0, 1):
        with jax.log_compiles():
            finetune(ENCODER, DRAWS, recipe, seed=seed)
        compiled = [text for text in caplog.messages if text.startswith("Compiling")]
        assert len(compiled) == len(set(compiled))
        assert bool(compiled) == (seed == 0)
        caplog.clear()


def test_another_seed_gives_other_classifiers(side_by_side):
    other = finetune(ENCODER, DRAWS, TINY, seed=4)
    assert np.abs(other - side_by_side).max() > 1e-3


def test_every_epoch_shows_every_row_of_a_draw_once_in_an_order_of_its_own():
    recipe = Recipe(peak_lr=1e-3, num_epochs=3, batch_size=4)
    windows = position_limit.cut(TRAIN, ENCODER.config, "error")
    epochs = list(finetuning_loop._epochs(DRAWS, windows, recipe, 0, np.arange(5)))
    assert [rows.shape for rows in epochs] == [(5, 3, 4)] * 3
    orders = []
    for rows_DSB in epochs:
        for draw, rows in enumerate(rows_DSB.reshape(5, -1)):
            assert list(rows[10:]) == [draw_steps.NO_ROW] * 2
            assert sorted(rows[:10]) == sorted(DRAWS[draw])
            orders.append(tuple(rows[:10]))
    assert len(set(orders)) == 15


def test_max_steps_ends_the_last_epoch_early():
    recipe = Recipe(peak_lr=1e-3, num_epochs=3, batch_size=4, max_steps=5)
    windows = position_limit.cut(TRAIN, ENCODER.config, "error")
    epochs = list(finetuning_loop._epochs(DRAWS, windows, recipe, 0, np.arange(5)))
    assert [rows.shape[1] for rows in epochs] == [3, 2]
    assert recipe.num_steps(10) == 5


def slow_training(draw: int, seed: int, num_epochs: int, batch_size: int, peak_lr: float) -> dict:
    """One draw without vmap, padding or chunks: a plain loop over its rows."""
    config, rows = ENCODER.config, DRAWS[draw]
    model = heads.Classifier(config.model, config.tokens, 2)
    key = jax.random.fold_in(jax.random.key(seed), draw)
    head = model.init(jax.random.fold_in(key, 0), jnp.zeros((1, 16)), method=model.head)
    params = {"encoder": ENCODER.params, **head["params"]}
    total = num_epochs * 3
    transform = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            lambda step: peak_lr * (total - step) / total, weight_decay=0.01,
            mask=optimizer.decay_mask,
        ),
    )  # fmt: skip
    state = transform.init(params)

    ids = [[2, *vocabulary.tokenize(bases, 3), 3] for bases in TRAIN.bases_NM]
    ids_NL, truth_NC = jnp.array(ids, jnp.int32), jax.nn.one_hot(TRAIN.labels_N, 2)

    def loss(params: dict, chosen: jax.Array) -> jax.Array:
        logits = model.apply({"params": params}, ids_NL[chosen])
        return -(jax.nn.log_softmax(logits) * truth_NC[chosen]).sum(axis=1).mean()

    @jax.jit
    def update(params: dict, state: tuple, chosen: jax.Array) -> tuple:
        grads = jax.grad(loss)(params, chosen)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = transform.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for epoch in range(num_epochs):
        order = rows[np.random.default_rng((seed, draw, epoch)).permutation(len(rows))]
        for start in range(0, len(order), batch_size):
            params, state = update(params, state, order[start : start + batch_size])
    return params


def test_a_training_equals_a_plain_loop_that_has_a_last_batch_of_two_rows():
    """Ten rows in batches of four: the mean of the last is over two. float32 tolerance."""
    recipe = Recipe(peak_lr=1e-2, num_epochs=2, batch_size=4, dropout=0.0)
    trained = finetuning_loop.train_draws(ENCODER, DATA, DRAWS[:2], recipe, seed=7)
    expected = slow_training(1, 7, 2, 4, 1e-2)
    # Adam divides by the gradient's size, so tiny gradients' rounding shows: 2 % of a step.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), trained.of_draw(1), expected
    )


def test_a_separable_task_is_learnt_and_the_loss_falls():
    recipe = Recipe(peak_lr=1e-2, num_epochs=10, batch_size=8)
    draws = np.array([np.arange(60), np.arange(60)])
    trained = finetuning_loop.train_draws(ENCODER, DATA, draws, recipe, seed=0)
    assert (trained.losses_DE[:, 0] > 0.5).all()
    assert (trained.losses_DE[:, -1] < 0.1).all()
    said = finetuning_loop.probabilities(trained, TEST)
    accuracy = (said.argmax(axis=2) == TEST.labels_N).mean(axis=1)
    assert (accuracy > 0.95).all()
    np.testing.assert_allclose(said.sum(axis=2), 1, atol=1e-6)


def test_dev_keeps_each_draws_epoch_of_the_least_loss():
    """The dev labels are swapped, so that what has been learnt the least is the best."""
    recipe = Recipe(peak_lr=1e-2, num_epochs=6, batch_size=4)
    dev = examples(30, seed=2)
    dev.labels_N = 1 - dev.labels_N
    data = dataclasses.replace(DATA, dev=dev)
    trained = finetuning_loop.train_draws(ENCODER, data, DRAWS, recipe, seed=0)
    said = finetuning_loop.probabilities(trained, dev)
    losses_D = [sklearn.metrics.log_loss(dev.labels_N, said_NC) for said_NC in said]
    accuracy_D = (said.argmax(axis=2) == dev.labels_N).mean(axis=1)
    assert trained.dev_losses_DE.shape == trained.dev_scores_DE.shape == (5, 6)
    np.testing.assert_allclose(losses_D, trained.dev_losses_DE.min(axis=1), rtol=1e-5)  # float32
    assert (trained.dev_losses_DE.min(axis=1) < trained.dev_losses_DE[:, -1]).any()
    best_D = trained.dev_losses_DE.argmin(axis=1)
    np.testing.assert_allclose(accuracy_D, trained.dev_scores_DE[np.arange(5), best_D])


def test_the_later_epoch_wins_a_tie_and_a_metric_that_is_no_number_is_recorded():
    """Two draws: one's losses are 2, 1, 1 times ln 2, the other's 1, 1, 2."""
    bits = [[2, 1], [1, 1], [1, 2]]
    best = offered(bits, TINY)
    assert best.params["epoch"].tolist() == [[2, 1]]
    np.testing.assert_allclose(best.dev_losses_DE / np.log(2), np.transpose(bits))
    assert np.isnan(best.dev_scores_DE).all()


def test_a_draw_whose_patience_has_ended_takes_nothing_more_beside_others():
    """Alone the first would have ended after its second epoch, and so not have seen its third."""
    best = offered([[2, 4], [3, 3], [1, 2]], dataclasses.replace(TINY, patience=1))
    assert best.params["epoch"].tolist() == [[0, 2]]
    assert best.best_D.tolist() == [0, 2] and best.patient_D().tolist() == [False, True]


def offered(bits: list[list[float]], recipe: Recipe) -> finetuning_loop.TrainedDraws:
    """Returns two draws whose losses by epoch are those of `bits` (epochs, 2)."""
    labels_N = np.zeros(4, np.int32)
    programs = types.SimpleNamespace(
        keep_better=lambda old, new, take: {"epoch": np.where(take, new["epoch"], old["epoch"])}
    )
    task, targets = Task("t", "own", 2, "auroc"), Targets.of("classes", 2, labels_N)
    best = finetuning_loop.TrainedDraws(
        None, task, recipe, targets, "error", programs, {}, *np.zeros((3, 2, 0))
    )
    for epoch, bits_D in enumerate(bits):
        right_D = 2.0 ** -np.array(bits_D)
        said_DNC = np.tile(np.stack([right_D, 1 - right_D], axis=1)[:, None], (1, 4, 1))
        best.offer({"epoch": np.full((1, 2), epoch)}, said_DNC, labels_N)
    return best


def probed(encoder: Pretrained, long_sequences: str = "error") -> np.ndarray:
    """Returns the probe's probabilities of the test rows, of every draw."""
    features = [
        probe.features(encoder, rows, long_sequences=long_sequences) for rows in (TRAIN, TEST)
    ]
    weight_F = heads.feature_weights(encoder.config.model)
    return probe.probe(features[0], TRAIN.labels_N, DRAWS, features[1], 2, weight_F=weight_F)


@pytest.mark.parametrize(("num_positions", "how"), [(24, "error"), (11, "window")])
def test_a_features_head_starts_at_the_probes_own_predictions(num_positions, how):
    """A rate of 0 leaves it there; the scaler is folded in float32, 336 products a logit."""
    encoder = small_encoder(num_positions)
    recipe = Recipe(peak_lr=0.0, num_epochs=1, batch_size=8, head="features")
    said = finetune(encoder, DRAWS, recipe, seed=0, long_sequences=how)
    np.testing.assert_allclose(said, probed(encoder, how), atol=1e-4)
    assert said.std(axis=0).max() > 1e-2  # so draws do differ


def test_the_probe_is_a_candidate_and_patience_ends_the_training(capsys):
    """The dev labels are swapped: the less is learnt, the better. Without dev it learns."""
    recipe = Recipe(
        peak_lr=1e-3, num_epochs=6, batch_size=4, head="features", patience=2, dropout=0.0
    )
    dev = examples(30, seed=2)
    dev.labels_N = 1 - dev.labels_N
    data = dataclasses.replace(DATA, dev=dev)
    trained = finetuning_loop.train_draws(LOUD, data, DRAWS, recipe, seed=0, report_epochs=True)
    assert trained.first_epoch == 0 and trained.dev_losses_DE.shape == (5, 3)
    np.testing.assert_allclose(
        finetuning_loop.probabilities(trained, TEST), probed(LOUD), atol=1e-4
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("epoch 0 of 6: the probe, dev loss ")
    assert re.fullmatch(r"epoch 2 of 6: train loss \S+, dev loss \S+, dev accuracy \S+", lines[2])
    learned = finetuning_loop.train_draws(LOUD, DATA, DRAWS, recipe, seed=0)
    assert learned.losses_DE.shape == (5, 6)
    assert (learned.losses_DE[:, -1] < 0.8 * learned.losses_DE[:, 0]).all()
    moved = learned.of_draw(0)["encoder"]["word_embeddings"]["embedding"]
    assert np.abs(moved - LOUD.params["word_embeddings"]["embedding"]).max() > 1e-3


def test_sequences_beyond_the_positions_are_refused_with_a_count():
    with pytest.raises(InputError, match=r"small\.tsv: 60 of 60 .* longer than 12 bases"):
        finetune(small_encoder(12), DRAWS, TINY, seed=0)


def test_long_sequences_are_seen_in_windows_and_the_count_is_printed(capsys):
    position_limit._print_once.cache_clear()  # other tests have had these sequences
    recipe = dataclasses.replace(TINY, num_epochs=1)
    said = finetune(small_encoder(12), DRAWS[:1], recipe, seed=0, long_sequences="window")
    assert said.shape == (1, 30, 2)
    np.testing.assert_allclose(said.sum(axis=2), 1, atol=1e-6)
    assert "30 of 30 sequences are longer than 12 bases: seen in windows" in capsys.readouterr().out


def test_the_epochs_of_a_long_sequence_take_its_windows_in_turn():
    recipe = Recipe(peak_lr=1e-3, num_epochs=4, batch_size=3)
    windows = position_limit.SequenceWindows(
        np.zeros((5, 4)), np.array([0, 1, 4]), np.array([1, 3, 1])
    )
    epochs = finetuning_loop._epochs(np.array([[0, 1, 2]]), windows, recipe, 0, np.arange(1))
    assert [sorted(rows.ravel()) for rows in epochs] == [[0, 1, 4], [0, 2, 4], [0, 3, 4], [0, 1, 4]]


def test_truncation_keeps_the_beginning(capsys):
    config = small_encoder(12).config
    windows = position_limit.cut(TRAIN, config, "truncate")
    np.testing.assert_array_equal(windows.bases_WM, TRAIN.bases_NM[:, :12])
    assert "60 of 60 sequences are longer than 12 bases: cut off there" in capsys.readouterr().out


@pytest.mark.parametrize(("num_positions", "num_tokens"), [(12, 512), (40, 12)])
def test_windows_cover_a_sequence_and_end_with_it(num_positions, num_tokens):
    """They hold 10 k-mers, 12 bases: of the positions, those that pretraining has seen."""
    config = small_encoder(num_positions).config
    config.data.num_tokens = num_tokens
    assert position_limit.max_tokens(config, "window") == 12
    assert position_limit.max_tokens(config, "error") == num_positions
    bases = np.full((3, 30), vocabulary.PADDING, np.uint8)
    bases[0, :30], bases[1, :5], bases[2, :13] = np.arange(30) % 4, 1, np.arange(13) % 4
    windows = position_limit.cut(Examples(bases, np.zeros(3), np.arange(3), "x"), config, "window")
    assert list(windows.count_N) == [3, 1, 2]
    assert list(windows.first_N) == [0, 3, 4]
    expected = [bases[0, 0:12], bases[0, 9:21], bases[0, 18:30], bases[1, :12], bases[2, :12],
                bases[2, 1:13]]  # fmt: skip
    np.testing.assert_array_equal(windows.bases_WM, expected)
    values = np.array([[1.0], [2.0], [6.0], [5.0], [1.0], [2.0]], np.float32)
    np.testing.assert_array_equal(position_limit.mean(values, windows), [[3.0], [5.0], [1.5]])


def test_positions_that_pretraining_never_saw_are_warned_of_once(capsys):
    config = small_encoder(40).config
    config.data.num_tokens = 10
    windows = position_limit.cut(TRAIN, config, "error")
    for _ in range(2):
        position_limit.warn_of_new_positions(windows, config, source="small.tsv")
    assert capsys.readouterr().out.count("16 tokens, but the model was pretrained on 10") == 1


@pytest.mark.parametrize(
    ("shots", "expected"),
    [(10, (1e-4, 20, 5)), (100, (1e-4, 20, 5)), (500, (5e-5, 5, 15)), (1000, (5e-5, 5, 15))],
)
def test_few_shot_recipes_are_the_published_ones(shots, expected):
    recipe = recipes.fewshot_recipe(shots)
    assert (recipe.peak_lr, recipe.num_epochs, recipe.batch_size) == expected
    assert (recipe.warmup_share, recipe.weight_decay, recipe.dropout) == (0.1, 0.01, 0.1)
    assert (recipe.clip_norm, recipe.max_steps) == (1.0, 0)


@pytest.mark.parametrize(
    ("name", "epochs", "warmup", "max_steps"),
    [
        ("EMP/H3", 3, 50, 0), ("prom/prom_core_all", 4, 50, 0), ("prom/prom_core_tata", 10, 50, 0),
        ("prom/prom_300_notata", 4, 50, 0), ("prom/prom_300_tata", 10, 50, 0),
        ("splice/reconstructed", 5, 50, 0), ("virus/covid", 9, 50, 0), ("mouse/2", 5, 30, 1_000),
        ("tf/4", 3, 30, 0),
    ],
)  # fmt: skip
def test_gue_recipes_are_the_published_ones(name, epochs, warmup, max_steps):
    recipe = recipes.gue_recipe(name)
    assert (recipe.peak_lr, recipe.batch_size) == (3e-5, 32)
    assert (recipe.num_epochs, recipe.warmup_steps, recipe.max_steps) == (epochs, warmup, max_steps)


@pytest.mark.parametrize(
    ("width", "num_rows", "expected"),
    [
        (128, 20, (5e-5, 5)),
        (128, 200, (5e-4, 16)),
        (128, 20_000, (5e-5, 16)),
        (768, 20, (8.3e-6, 5)),
        (768, 200, (8.3e-5, 16)),
    ],
)
def test_the_rate_of_a_features_head_follows_width_and_rows(width, num_rows, expected):
    """5e-5 to 5e-4 and, of a hundred times the rows, a tenth (docs/tasks.md); a sixth at 768."""
    recipe = recipes.features_recipe(width, num_rows)
    assert (recipe.peak_lr, recipe.batch_size) == expected
    assert (recipe.decay, recipe.head) == ("cosine", "features")


@pytest.mark.parametrize(("num_rows", "epochs"), [(10_000, 10), (30_000, 3), (200_000, 1)])
def test_a_features_head_sees_no_more_than_so_many_rows(num_rows, epochs):
    assert recipes.features_recipe(128, num_rows).num_epochs == epochs


def test_epochs_that_are_asked_for_are_not_cut_by_a_recipes_steps():
    task = Task("mouse/0", "gue", 2, "mcc")
    chosen = {
        n: recipes.choose(task, 0, width=128, num_rows=6_478, num_epochs=n) for n in (None, 9)
    }
    assert chosen[None].num_steps(6_478) == 1_000
    assert chosen[9].num_steps(6_478) == 9 * 203


def test_a_set_without_a_published_recipe_is_named():
    with pytest.raises(InputError, match="'mine': no published recipe"):
        recipes.gue_recipe("mine")


def test_the_rate_warms_up_over_a_tenth_and_falls_to_zero():
    """20 rows, 20 epochs in batches of 5: 80 steps, 8 of warm-up."""
    recipe = recipes.fewshot_recipe(10)
    assert recipe.num_steps(20) == 80
    assert recipe.num_warmup_steps(80) == 8
    assert Recipe(1e-3, 1, 32, warmup_steps=50).num_warmup_steps(20) == 10


def test_trained_and_predicted_on_both_strands_a_sequence_and_its_other_strand_are_one():
    recipe = dataclasses.replace(TINY, num_epochs=1, reverse_complement=True, strand="both")
    trained = finetuning_loop.train_draws(ENCODER, DATA, DRAWS[:1], recipe, seed=0)
    other = dataclasses.replace(TEST, bases_NM=vocabulary.reverse_complement(TEST.bases_NM))
    found, of_other = (finetuning_loop.probabilities(trained, one) for one in (TEST, other))
    np.testing.assert_allclose(found, of_other, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=2), 1, atol=1e-5)


def test_a_step_reads_some_sequences_from_the_other_strand_as_its_key_draws():
    """Of 12 copies of one sequence, the loss tells how many: the two strands' losses differ."""
    model = heads.Classifier(ENCODER.config.model, ENCODER.config.tokens, 2)
    key = jax.random.key_data(jax.random.key(0))
    transform = optax.sgd(0.0)
    state = draw_steps.init_state(ENCODER.params, key, {}, model=model, transform=transform)
    state = state.replace(  # of ten times BERT's deviation, so that the strands differ
        params=jax.tree.map(lambda leaf: leaf * 10 if leaf.ndim > 1 else leaf, state.params)
    )
    bases_WM, label_W = jnp.asarray(TRAIN.bases_NM[:1]), jnp.zeros(1, jnp.int32)
    rows_B = jnp.zeros(12, jnp.int32)
    loss = optax.softmax_cross_entropy_with_integer_labels
    step = functools.partial(draw_steps.train_step, model=model, transform=transform, loss=loss)
    forward, reverse = (
        float(step(state, rows_B, bases, label_W)[1]) / 12
        for bases in (bases_WM, vocabulary.reverse_complement(bases_WM))
    )
    numbers = []
    for number in range(3):
        later = state.replace(step=jnp.int32(number))
        drawn = float(step(later, rows_B, bases_WM, label_W, reverse_complement=True)[1])
        numbers.append((drawn - 12 * forward) / (reverse - forward))
    np.testing.assert_allclose(numbers, np.round(numbers), atol=0.01)
    assert all(0 < number < 12 for number in numbers) and len(set(np.round(numbers))) > 1
