"""Training in a random subspace: the projection, what moves, and the dimension found."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import linalg

from cmgems_jax.downstream.evaluation import intrinsic
from cmgems_jax.downstream.evaluation.settings import IntrinsicSettings
from cmgems_jax.downstream.finetuning import loop as finetuning_loop
from cmgems_jax.downstream.finetuning import subspace
from cmgems_jax.errors import InputError
from cmgems_jax.model import heads
from cmgems_jax.pretraining import checkpoints
from tests.downstream.small_task import DATA, DRAWS, ENCODER, TEST, TINY, TRAIN


@pytest.mark.parametrize("size", [1, 2, 8, 64, 1024])
def test_the_transform_is_hadamards_matrix(size):
    values = np.random.default_rng(0).normal(size=size).astype(np.float32)
    expected = linalg.hadamard(size) @ values / np.sqrt(size)
    np.testing.assert_allclose(subspace.hadamard(jnp.asarray(values)), expected, atol=1e-5)


def test_the_projection_is_linear_and_the_same_for_the_same_key():
    key, other = jax.random.key(0), jax.random.key(1)
    one, two = (jnp.asarray(np.random.default_rng(n).normal(size=7), jnp.float32) for n in (0, 1))
    by_key, again, by_other = (subspace.sample_projection(k, 7, 1_000) for k in (key, key, other))
    both = subspace.project(2 * one - two, by_key, 1_000)
    apart = 2 * subspace.project(one, again, 1_000) - subspace.project(two, again, 1_000)
    np.testing.assert_allclose(both, apart, atol=1e-5)
    moved = subspace.project(one, by_key, 1_000)
    assert not np.allclose(moved, subspace.project(one, by_other, 1_000))


def test_the_projection_keeps_lengths_and_moves_every_parameter():
    """Its 20 columns are of length 1 and at right angles, up to the Gaussian weights' spread.

    An inner product of two columns has a standard deviation of about 1/sqrt(3000) = 0.018.
    """
    drawn = subspace.sample_projection(jax.random.key(0), 20, 3_000)
    columns = jax.vmap(lambda z: subspace.project(z, drawn, 3_000))(jnp.eye(20))
    products = np.asarray(columns @ columns.T)
    assert np.abs(products - np.eye(20)).max() < 6 * 0.025
    assert (np.abs(np.asarray(columns)).max(axis=0) > 0).all()


def test_the_projection_is_the_product_of_whole_matrices():
    """Sign, transform, permutation, weights, transform, each of all 64 numbers."""
    drawn = subspace.sample_projection(jax.random.key(0), 5, 50)
    whole = linalg.hadamard(64) / 8
    z = np.pad(np.arange(1.0, 6) * drawn.signs_d, (0, 59))
    order = jax.random.permutation(jax.random.split(jax.random.key(0), 3)[1], 64)
    expected = whole @ (np.asarray(drawn.weights_n) * (whole @ z)[order]) * np.sqrt(64 / 50)
    found = subspace.project(jnp.arange(1.0, 6), drawn, 50)
    np.testing.assert_allclose(found, expected[:50], atol=1e-5)


def test_a_subspace_begins_at_the_given_parameters():
    begun = subspace.begin(ENCODER.params, 5, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, subspace.expand(begun), ENCODER.params)
    assert subspace.expand(ENCODER.params) is ENCODER.params


def test_training_moves_the_parameters_within_the_subspace_alone():
    """Three draws of 4 dimensions: what moved is the projection of z, and z did move."""
    recipe = intrinsic.recipe_of(TINY, 4, 10_000)
    trained = finetuning_loop.train_draws(ENCODER, DATA, DRAWS[:3], recipe, seed=3)
    for draw in range(3):
        own = jax.tree.map(lambda leaf, n=draw: np.asarray(leaf[n, 0]), trained.params)
        assert own.z.shape == (4,) and (own.z != 0).all()
        start, _ = jax.flatten_util.ravel_pytree(own.start)
        moved, _ = jax.flatten_util.ravel_pytree(trained.of_draw(draw))
        expected = subspace.project(jnp.asarray(own.z), own.projection, start.size)
        np.testing.assert_allclose(moved - start, expected, atol=1e-6)
        jax.tree.map(np.testing.assert_array_equal, own.start["encoder"], ENCODER.params)


def test_more_dimensions_fit_the_training_rows_better():
    losses = {}
    for number in (1, 300):
        recipe = intrinsic.recipe_of(TINY, number, 3_000)
        trained = finetuning_loop.train_draws(ENCODER, DATA, DRAWS, recipe, seed=3)
        losses[number] = trained.losses_DE[:, -1].mean()
    assert losses[300] < losses[1]


def test_d90_is_the_fewest_dimensions_that_keep_nine_tenths():
    accuracy = {10: [0.55, 0.57], 100: [0.71, 0.75], 1000: [0.78, 0.76], intrinsic.FULL: [0.8, 0.8]}
    rows = [{"dimensions": d, "accuracy": a} for d, values in accuracy.items() for a in values]
    table = pd.DataFrame(rows)
    assert intrinsic.d90(table) == 100  # 0.73 >= 0.72
    assert intrinsic.d90(table, floor=0.5) == 1000  # 0.77 >= 0.5 + 0.9 * 0.3 = 0.77, not 0.73
    assert intrinsic.d90(table[table.dimensions != 1000], floor=0.5) is None


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A checkpoint of the small encoder, and a task's folder."""
    folder = tmp_path_factory.mktemp("dimension")
    model = heads.MaskedLM(ENCODER.config.model, ENCODER.config.tokens)
    ids, positions = jnp.zeros((1, 8), jnp.int32), jnp.zeros((1,), jnp.int32)
    params = jax.jit(model.init)(jax.random.key(0), ids, positions)["params"]
    checkpoints.save_params(folder / "run", jax.tree.map(np.asarray, params), ENCODER.config)
    (folder / "task").mkdir()
    for name, rows in (("train", TRAIN), ("test", TEST)):
        lines = ["sequence\tlabel"]
        for bases_M, label in zip(rows.bases_NM, rows.labels_N, strict=True):
            lines.append("".join("ATCG"[base] for base in bases_M) + f"\t{label}")
        (folder / "task" / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return folder / "run", folder / "task"


def test_a_sweep_writes_every_dimension_and_draw(inputs, tmp_path, capsys):
    run, task = inputs
    settings = IntrinsicSettings((2, 50), shots=10, num_draws=2)
    table = intrinsic.sweep(run, str(task), tmp_path, tmp_path / "out", settings)
    assert table.groupby("dimensions").size().to_dict() == {2: 2, 50: 2, intrinsic.FULL: 2}
    assert (tmp_path / "out" / "dimensions.png").read_bytes().startswith(b"\x89PNG")
    assert "d90 (90% of full fine-tuning's accuracy)" in capsys.readouterr().out


def test_more_dimensions_than_parameters_are_refused_before_any_training(inputs, tmp_path):
    run, task = inputs
    settings = IntrinsicSettings((10**6,), shots=10, num_draws=2)
    with pytest.raises(InputError, match="expected fewer than the .* parameters"):
        intrinsic.sweep(run, str(task), tmp_path, tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()
