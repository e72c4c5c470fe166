"""Models of the package: named, not found by path; the same to bfloat16's last digit."""

import jax
import numpy as np
import pytest

import cmgems_jax as cm
from cmgems_jax.downstream.inference import embed
from cmgems_jax.errors import InputError
from cmgems_jax.pretraining import packaged, pretrained


@pytest.fixture
def tiny(unbroken, tmp_path, monkeypatch):
    """The run, packaged as "tiny"."""
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    model = pretrained.load_masked_lm(unbroken[0])
    packaged.write(tmp_path / "weights" / "tiny", model.config, model.params, model.step)
    return model


def test_weights_are_the_runs_to_bfloat16_and_the_config_holds_no_path(tiny, tmp_path):
    assert packaged.names() == ["tiny"]
    found = pretrained.load_masked_lm("tiny")
    assert (found.name, found.step, found.config.model) == ("tiny", tiny.step, tiny.config.model)
    for ours, theirs in zip(
        jax.tree.leaves(found.params), jax.tree.leaves(tiny.params), strict=True
    ):
        assert ours.dtype == np.float32 and ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=2**-8)
    assert jax.tree.structure(found.params) == jax.tree.structure(tiny.params)
    text = (tmp_path / "weights" / "tiny" / "config.json").read_text()
    assert "/" not in text


def test_it_is_a_model_for_python_and_for_the_commands(tiny):
    model = cm.load("tiny")
    embedding_D = model.embed("ACGTTGCAAC")[0]
    assert embedding_D.shape == (16,) and repr(model).startswith("<masked-LM 'tiny'")
    with pytest.raises(InputError, match="tiny: no ranks of 3-mers"):  # of 6-mers GRCh38's are
        model.mask("ACGTTGCAACGTTGCAACGGTT")
    assert embed.load_embedder("tiny").params.keys() == tiny.params["encoder"].keys()


def test_a_folder_of_the_name_comes_first(tiny, tmp_path):
    (tmp_path / "tiny").mkdir()
    with pytest.raises(InputError, match="tiny: no checkpoint"):
        pretrained.load_masked_lm("tiny")


def test_an_unknown_name_is_answered_with_those_there_are(tiny):
    with pytest.raises(InputError, match=r"a model of the package \(tiny\)"):
        pretrained.load_masked_lm("tinny")
