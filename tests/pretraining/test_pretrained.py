"""Reading an encoder from a run's checkpoint: which one, what of it, and what is refused."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from cmgems_jax.config import Config, CurriculumConfig, DataConfig, ModelConfig, TokensConfig
from cmgems_jax.errors import InputError
from cmgems_jax.pretraining import checkpoints, pretrained, steps
from cmgems_jax.runtime import parallel

CONFIG = Config(
    tokens=TokensConfig(k=3),
    data=DataConfig(num_tokens=24),
    curriculum=CurriculumConfig(name="fixed"),
    model=ModelConfig(
        num_layers=1, hidden_size=16, num_heads=2, feedforward_size=32, num_positions=24
    ),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, dict]:
    """A work folder with checkpoints of steps 5 and 12, and the encoder of step 12."""
    workdir = tmp_path_factory.mktemp("runs") / "small"
    state, _, _ = steps.make(CONFIG, np.arange(1, 65, dtype=np.int32))
    host = parallel.to_host(state)
    with checkpoints.opened(workdir, CONFIG) as manager:
        checkpoints.save(manager, host.replace(step=np.array(5, np.int32)), CONFIG)
        moved = jax.tree.map(lambda leaf: leaf + 1, host.params)
        later = host.replace(step=np.array(12, np.int32), params=moved)
        checkpoints.save(manager, later, CONFIG, wait=True)
    return workdir, moved["encoder"]


@pytest.fixture
def copy(run, tmp_path) -> Path:
    """A copy of the work folder to damage."""
    return Path(shutil.copytree(run[0], tmp_path / "copy"))


def test_the_newest_checkpoint_of_a_work_folder_gives_its_encoder(run):
    workdir, expected = run
    found = pretrained.load(workdir)
    assert (found.name, found.config) == ("small", CONFIG)
    jax.tree.map(np.testing.assert_array_equal, found.params, expected)
    assert jax.tree.structure(found.params) == jax.tree.structure(expected)
    leaves = jax.tree.leaves(found.params)
    assert {type(leaf) for leaf in leaves} == {np.ndarray}
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}


def test_a_step_can_be_asked_for(run):
    workdir, newest = run
    found = pretrained.load(workdir / "checkpoints" / "5")
    assert found.name == "small@5"
    jax.tree.map(lambda old, new: np.testing.assert_array_equal(old + 1, new), found.params, newest)


def test_folders_without_a_checkpoint_are_refused_with_what_was_expected(run, tmp_path):
    with pytest.raises(InputError, match="no such folder; expected the --workdir"):
        pretrained.load(tmp_path / "missing")
    with pytest.raises(InputError, match="no checkpoint .checkpoints/STEP. in it"):
        pretrained.load(tmp_path)
    (tmp_path / "classifier.json").write_text("{}")
    with pytest.raises(InputError, match="holds a fine-tuned classifier"):
        pretrained.load(tmp_path)


def edit(path: Path, change) -> None:
    """Changes the JSON of one item of a checkpoint."""
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_a_field_of_another_version_is_named(copy):
    edit(copy / "checkpoints/12/config/metadata", lambda values: values["model"].update(depth=2))
    with pytest.raises(InputError, match=r"unknown field 'model\.depth'"):
        pretrained.load(copy)


def test_an_array_that_is_not_the_saved_one_is_found(copy):
    name = ".params['encoder']['position_embeddings']"
    edit(copy / "checkpoints/12/checksums/metadata", lambda values: values.update({name: 1}))
    with pytest.raises(InputError, match=r"12: damaged checkpoint .*'position_embeddings'.*checks"):
        pretrained.load(copy)
    assert pretrained.load(copy / "checkpoints" / "5").name == "copy@5"


def test_shapes_that_are_not_the_configs_are_damage(copy):
    edit(
        copy / "checkpoints/12/config/metadata",
        lambda values: values["model"].update(feedforward_size=64),
    )
    with pytest.raises(InputError, match=r"damaged checkpoint .*expected float32"):
        pretrained.load(copy)


@pytest.mark.parametrize("item", ["state", "checksums", "config"])
def test_a_missing_part_is_damage(copy, item):
    shutil.rmtree(copy / "checkpoints/12" / item)
    with pytest.raises(InputError, match="damaged checkpoint"):
        pretrained.load(copy)


def test_untrained_has_the_initial_values_of_the_same_network_by_seed(run):
    workdir, expected = run
    like = pretrained.load(workdir)
    first, again, other = (pretrained.untrained(like, seed) for seed in (0, 0, 1))
    assert first.name == "untrained"
    assert jax.tree.structure(first.params) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)
    table = "position_embeddings"
    assert not np.array_equal(first.params[table], other.params[table])
    assert first.params[table].std() == pytest.approx(0.02, rel=0.2)  # 384 draws
