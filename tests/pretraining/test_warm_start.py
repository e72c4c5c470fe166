"""A run that begins with another model's parameters: `init_from`."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from cmgems_jax.config import Config, InitFromConfig
from cmgems_jax.errors import InputError
from cmgems_jax.huggingface import export, load
from cmgems_jax.model import initial_values
from cmgems_jax.pretraining import checkpoints, doctor, pretrained, warm_start
from cmgems_jax.pretraining import loop as pretraining_loop
from cmgems_jax.runtime import parallel, signals
from tests.helpers import lines, records, small_config


@pytest.fixture(scope="module")
def source(unbroken, tmp_path_factory):
    """A HuggingFace folder of the run's last weights."""
    folder = tmp_path_factory.mktemp("source") / "exported"
    export.export(unbroken[0], folder)
    return folder


def warm_config(genome, source=None, **changes) -> Config:
    """Returns a shorter run on the same windows."""
    config = small_config(genome, num_steps=8, checkpoint_every=8, **changes)
    config.init_from.path = str(source or "")
    return config


@pytest.fixture(scope="module")
def warm(genome, source, tmp_path_factory):
    """A whole run from those weights: its folder and last state."""
    workdir = tmp_path_factory.mktemp("warm") / "run"
    state = pretraining_loop.pretrain(
        warm_config(genome, source), workdir, read_source=load.load_masked_lm
    )
    return workdir, parallel.to_host(state)


def test_the_first_evaluation_is_the_sources_last_one(unbroken, warm):
    """The same windows under the same masks: only the order of sums could differ."""
    first, last = records(warm[0], "eval")[0], records(unbroken[0], "eval")[-1]
    assert (first["step"], last["step"]) == (0, 12)
    assert first["perplexity_random"] == pytest.approx(last["perplexity_random"], rel=1e-5)


def test_everything_but_the_parameters_is_new(warm):
    assert int(warm[1].step) == 8
    rates = [record["learning_rate"] for record in records(warm[0], "train")]
    # Two steps of warm-up, of which the first line has seen one, and six of decay.
    assert rates == pytest.approx([1e-2 / 2, 1e-2 * 5 / 6, 1e-2 * 3 / 6, 1e-2 / 6])
    assert records(warm[0], "train")[0]["stage"] == "genemask"  # the source had switched


def test_the_origin_is_in_the_config_the_environment_and_the_card(unbroken, source, warm, tmp_path):
    digest = warm_start.sha256(pretrained.load_masked_lm(unbroken[0]).params)
    origin = {"path": str(source), "step": 0, "sha256": digest}
    for name in ("config.json", "environment.json"):
        assert json.loads((warm[0] / name).read_text())["init_from"] == origin
    export.export(warm[0], tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"began with the parameters of `exported`, sha256 `{digest}`" in card
    assert str(source) not in card


def test_a_warm_start_resumes_bit_for_bit_without_its_source(
    genome, source, warm, tmp_path, monkeypatch
):
    """Stopped in its first step; then the source is gone, and the flag left out."""
    copy, workdir = tmp_path / "copy", tmp_path / "run"
    shutil.copytree(source, copy)
    request = signals.StopRequest(signal="SIGTERM")
    with monkeypatch.context() as patch:
        patch.setattr(signals, "StopRequest", lambda: request)
        with pytest.raises(SystemExit):
            pretraining_loop.pretrain(
                warm_config(genome, copy), workdir, read_source=load.load_masked_lm
            )
    assert checkpoints.saved_steps(workdir) == [1]
    shutil.rmtree(copy)
    state = pretraining_loop.pretrain(warm_config(genome), workdir)
    jax.tree.map(np.testing.assert_array_equal, parallel.to_host(state), warm[1])
    # Its first two steps have a line each.
    assert lines(workdir)[0] == lines(warm[0])[0] and lines(workdir)[3:] == lines(warm[0])[2:]


def test_an_import_and_a_single_checkpoint_begin_a_run_too(unbroken, source, genome, tmp_path):
    load.import_model(source, tmp_path / "imported")
    digests = []
    for path in (tmp_path / "imported", unbroken[0], unbroken[0] / checkpoints.FOLDER / "6"):
        config, model = warm_start.prepare(
            warm_config(genome, path), tmp_path / "run", load.load_masked_lm
        )
        digests.append(config.init_from.sha256)
        assert config.init_from.step == model.step
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("tokens", {"k": 4}, "tokens.k=3 there, 4 here; --config.tokens.k=3 would do"),
        ("tokens", {"alphabet": "rna"}, "tokens.alphabet=dna there, rna here"),
        (
            "model", {"num_layers": 2, "hidden_size": 32},
            "model.num_layers=1 there, 2 here, model.hidden_size=16 there, 32 here; "
            "--config.model.num_layers=1 --config.model.hidden_size=16 would do",
        ),
        ("model", {"num_positions": 16}, "model.num_positions=32 there, 16 here"),
        ("init_from", {"sha256": "0" * 64}, f"expected init_from.sha256={'0' * 64}"),
        ("init_from", {"path": "no/such"}, "no/such: no such folder"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(
    unbroken, genome, tmp_path, section, changes, message
):
    config = warm_config(genome, unbroken[0])
    setattr(config, section, dataclasses.replace(getattr(config, section), **changes))
    with pytest.raises(InputError) as error:
        warm_start.prepare(config, tmp_path / "run", pretrained.load_masked_lm)
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("rate", "is_high"), [(2e-2, True), (9e-3, False)])
def test_a_rate_as_high_as_the_sources_is_noted_with_a_lower_one(
    unbroken, genome, tmp_path, capsys, rate, is_high
):
    config = warm_config(genome, unbroken[0])
    config.optimizer.peak_lr = rate
    warm_start.prepare(config, tmp_path / "run", pretrained.load_masked_lm)
    assert ("--config.optimizer.peak_lr=0.001 (docs" in capsys.readouterr().err) == is_high


def test_a_run_keeps_its_origin(genome, unbroken, warm):
    """No other weights, and none where it began with initial values; the doctor says so too."""
    for workdir, config in (
        (warm[0], warm_config(genome, unbroken[0])),
        (unbroken[0], small_config(genome, init_from=InitFromConfig(str(warm[0])))),
    ):
        with pytest.raises(InputError, match=r"init_from\.path: '.*' before, '.*' now"):
            pretraining_loop.pretrain(config, workdir)
    findings = doctor.examine(warm_config(genome, unbroken[0]), warm[0])
    assert "init_from.path" in {one.name: one for one in findings}["config"].text


@pytest.mark.parametrize("kind", ["bert", "sinusoidal"])
def test_a_longer_position_table_keeps_the_old_rows_and_says_how_it_goes_on(
    unbroken, genome, capsys, kind
):
    source = pretrained.load_masked_lm(unbroken[0])
    source.config.model.position_init = kind
    config = warm_config(genome)
    initial = jax.tree.map(np.zeros_like, source.params)
    initial["encoder"]["position_embeddings"] = np.full((48, 16), 7, np.float32)
    table_ND = warm_start.params(source, initial, config)["encoder"]["position_embeddings"]
    np.testing.assert_array_equal(table_ND[:32], source.params["encoder"]["position_embeddings"])
    rest_ND, text = initial["encoder"]["position_embeddings"][32:], "initial values"
    if kind == "sinusoidal":
        whole_ND = initial_values.positions(source.config.model)(jax.random.key(0), (48, 16))
        rest_ND, text = whole_ND[32:], "the source's sinusoids"
    np.testing.assert_array_equal(table_ND[32:], rest_ND)
    assert f"positions 32 to 47 are new: {text}" in capsys.readouterr().out
