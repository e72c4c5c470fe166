"""One yardstick for models of several k, strides and window lengths."""

import csv
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from cmgems_jax import config as config_lib
from cmgems_jax.config import Config
from cmgems_jax.errors import InputError
from cmgems_jax.model import heads
from cmgems_jax.pretraining import base_table, checkpoints, pretrained


def save_guess(workdir: Path, like: Config, k: int, stride: int = 1) -> None:
    """Saves a model of other tokens that gives every k-mer the same probability."""
    config = config_lib.replace(like, {"tokens.k": k, "tokens.stride": stride})
    shapes = heads.param_shapes(config.model, config.tokens)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    checkpoints.save_params(workdir, params, config)


def test_models_of_any_k_are_asked_for_the_same_bases(unbroken, tmp_path):
    """A model that gives all k-mers one probability pays log 4, whatever its k and stride."""
    workdir, _ = unbroken
    data_dir = tmp_path / "data"
    shutil.copytree(workdir / "data", data_dir)
    config = pretrained.load_masked_lm(workdir).config
    guesses = [tmp_path / "k4", tmp_path / "k5_2"]
    save_guess(guesses[0], config, 4)
    save_guess(guesses[1], config, 5, stride=2)
    output = tmp_path / "bases.tsv"
    paths = [workdir, workdir / "checkpoints" / "6", *guesses]
    rows = base_table.evaluate(paths, data_dir, output, run=6, num_windows=40)
    with output.open() as file:
        written = list(csv.DictReader(file, delimiter="\t"))
    names = ["composition", "order_5", "flanks", "run", "run@6", "k4", "k5_2"]
    assert [row["model"] for row in written] == [row[0] for row in rows] == names
    assert [row["k"] for row in written[3:]] == ["3", "3", "4", "5"]
    for row in written[5:]:
        for way in ("nats_one", "nats_run"):
            assert float(row[way]) == pytest.approx(np.log(4), abs=1e-5)
    assert (
        1 < float(written[3]["nats_one"]) < 2 and written[3]["nats_one"] != written[4]["nats_one"]
    )


def test_windows_too_short_to_hide_a_run_are_refused(unbroken, tmp_path):
    workdir, _ = unbroken
    with pytest.raises(InputError, match="expected one or more, of 50 bases at least"):
        base_table.evaluate([workdir], workdir / "data", tmp_path / "a.tsv", run=40)
    assert not (tmp_path / "a.tsv").exists()
