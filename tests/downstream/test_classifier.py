"""A classifier's folder: what is saved is what is loaded; damage is found."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmgems_jax.config import Config, ModelConfig, TokensConfig
from cmgems_jax.downstream.finetuning import classifier
from cmgems_jax.errors import InputError
from cmgems_jax.model import heads

CONFIG = Config(
    tokens=TokensConfig(k=3),
    model=ModelConfig(
        num_layers=1, hidden_size=16, num_heads=2, feedforward_size=32, num_positions=24
    ),
)


@pytest.fixture(params=heads.KINDS)
def saved(tmp_path, request):
    """A classifier and its folder."""
    model = heads.Classifier(CONFIG.model, CONFIG.tokens, 2, request.param)
    params = model.init(jax.random.key(0), jnp.zeros((1, 8), jnp.int32))["params"]
    params = jax.tree.map(np.asarray, params)
    made = classifier.TrainedClassifier(
        CONFIG, params, ["no", "yes"], 20, head=request.param, strand="both"
    )
    folder = tmp_path / "made" / "here"
    recipe = {"peak_lr": 1e-4}
    classifier.save_classifier(folder, made, task="own", recipe=recipe, source="runs/a")
    return made, folder


def test_a_classifier_is_loaded_as_it_was_saved(saved):
    made, folder = saved
    loaded = classifier.load_classifier(folder)
    assert (loaded.head, loaded.strand) == (made.head, "both")
    assert (loaded.config, loaded.label_names, loaded.max_tokens) == (CONFIG, ["no", "yes"], 20)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, made.params)
    assert jax.tree.leaves(loaded.params)[0].dtype == np.float32
    record = json.loads((folder / "classifier.json").read_text())
    assert (record["task"], record["source"]) == ("own", "runs/a")
    assert record["recipe"] == {"peak_lr": 1e-4}
    names = {path.name for path in folder.iterdir()}
    assert names == {"classifier.json", "classifier.safetensors"}


def test_an_earlier_versions_classifier_has_a_head_over_cls(saved):
    made, folder = saved
    path = folder / "classifier.json"
    record = json.loads(path.read_text())
    del record["head"], record["strand"]
    path.write_text(json.dumps(record))
    if made.head == heads.CLS:
        loaded = classifier.load_classifier(folder)
        assert (loaded.head, loaded.strand) == (heads.CLS, "forward")
        return
    with pytest.raises(InputError, match="not those of the config's network"):
        classifier.load_classifier(folder)


def test_a_flipped_byte_is_found(saved):
    _, folder = saved
    path = folder / "classifier.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged classifier .*not those that were saved"):
        classifier.load_classifier(folder)


def test_a_missing_or_unreadable_part_is_named(saved, tmp_path):
    _, folder = saved
    with pytest.raises(InputError, match=r"no classifier\.json in it; expected the --output of"):
        classifier.load_classifier(tmp_path)
    (folder / "classifier.safetensors").unlink()
    with pytest.raises(InputError, match="damaged classifier .FileNotFoundError"):
        classifier.load_classifier(folder)
    (folder / "classifier.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        classifier.load_classifier(folder)


def test_another_networks_arrays_are_refused(saved):
    _, folder = saved
    path = folder / "classifier.json"
    record = json.loads(path.read_text())
    record["config"]["model"]["num_layers"] = 2
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match="not those of the config's network"):
        classifier.load_classifier(folder)


def test_a_field_of_another_version_is_named(saved):
    _, folder = saved
    path = folder / "classifier.json"
    record = json.loads(path.read_text())
    record["config"]["model"]["depth"] = 2
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"unknown field 'model\.depth'"):
        classifier.load_classifier(folder)
