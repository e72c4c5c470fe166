"""The loop end to end, on a model that trains in seconds: records, switch, resume, refusals."""

import gzip
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from cmgems_jax import checkpoints, parallel, pretrain, run_log, signals, synthetic
from cmgems_jax.config import (
    Config,
    CurriculumConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TokensConfig,
)
from cmgems_jax.data import windows
from cmgems_jax.errors import InputError

TRAIN_FIELDS = {
    "loss", "learning_rate", "grad_norm", "stage", "mask_budget", "masked_fraction",
    "nats_per_hidden_base", "bases_per_second", "dropped_positions", "padding",
}  # fmt: skip
TIMES = {"bases_per_second", "seconds_by_part", "total_seconds"}


def small_config(fasta: Path, **changes: object) -> Config:
    """Returns 12 steps of a k=3 model with evaluations at 3, 6, 9, 12."""
    settings = {
        "num_steps": 12, "batch_size": 8, "log_every": 2, "eval_every": 3, "eval_windows": 20,
        "checkpoint_every": 6, "tokens": TokensConfig(k=3),
        "data": DataConfig(fasta=str(fasta), num_tokens=32),
        "curriculum": CurriculumConfig(threshold=0.9, threshold_kind="relative"),
        "model": ModelConfig(
            num_layers=1, hidden_size=16, num_heads=2, feedforward_size=32, num_positions=32,
            dropout=0.1, attention_dropout=0.0,
        ),
        "optimizer": OptimizerConfig(peak_lr=1e-2, warmup_steps=2),
    }  # fmt: skip
    return Config(**{**settings, **changes})


def records(workdir: Path, kind: str) -> list[dict]:
    """Returns the records of one kind."""
    return [record for record in run_log.read(workdir / "metrics.jsonl") if record["kind"] == kind]


def lines(workdir: Path) -> list[dict]:
    """Returns the metrics without what depends on the clock."""
    every = run_log.read(workdir / "metrics.jsonl")
    return [{n: v for n, v in line.items() if n not in TIMES} for line in every]


@pytest.fixture(scope="module")
def genome(tmp_path_factory) -> Path:
    """A small genome of several contigs."""
    path = tmp_path_factory.mktemp("genome") / "small.fa"
    synthetic.write_genome(path, 40_000, seed=1)
    return path


@pytest.fixture(scope="module")
def unbroken(genome, tmp_path_factory):
    """A whole run: its folder and last state."""
    workdir = tmp_path_factory.mktemp("unbroken")
    state = pretrain.pretrain(small_config(genome), workdir)
    return workdir, parallel.to_host(state)


def test_a_run_leaves_its_config_environment_metrics_curves_and_checkpoints(unbroken):
    workdir, state = unbroken
    assert int(state.step) == 12
    for name in ("config.json", "environment.json", "metrics.jsonl", "checkpoints/6/state",
                 "checkpoints/12/state"):  # fmt: skip
        assert (workdir / name).exists(), name
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((workdir / "tensorboard").glob("events*"))


def test_records_hold_every_field_once_a_step(unbroken):
    workdir, _ = unbroken
    train, evals = records(workdir, "train"), records(workdir, "eval")
    assert [record["step"] for record in train] == [2, 4, 6, 8, 10, 12]
    assert [record["step"] for record in evals] == [3, 6, 9, 12]
    for record in train:
        assert TRAIN_FIELDS <= record.keys()
        assert 0 < record["masked_fraction"] < 0.5
    # Of 16 rows of 32 positions a record one may be nearly empty; unpacked, a quarter is padding.
    assert 0 < np.mean([record["padding"] for record in train]) < 0.1
    for record in evals:
        assert {"perplexity", "perplexity_random", "perplexity_drop", "stage"} <= record.keys()
    assert evals[0]["perplexity_drop"] is None


def test_the_curriculum_switches_at_the_second_evaluation_and_says_why(unbroken):
    """Two evaluations of one strategy differ by less than 90 %, so the rule must fire at step 6."""
    workdir, _ = unbroken
    (switch,) = records(workdir, "switch")
    assert (switch["step"], switch["from"], switch["to"]) == (6, "genemask", "global")
    assert "threshold 0.9" in switch["why"]
    stages = {record["step"]: record["stage"] for record in records(workdir, "train")}
    assert (stages[6], stages[8]) == ("genemask", "global")
    (summary,) = records(workdir, "summary")
    assert summary["steps_by_stage"] == {"genemask": 6, "global": 6}
    assert {"data", "compile", "train", "eval", "checkpoint"} <= summary["seconds_by_part"].keys()


def test_the_same_command_again_does_nothing(unbroken, genome, capsys):
    workdir, state = unbroken
    before = (workdir / "metrics.jsonl").read_bytes()
    again = pretrain.pretrain(small_config(genome), workdir)
    assert "nothing to do" in capsys.readouterr().out
    assert (workdir / "metrics.jsonl").read_bytes() == before
    jax.tree.map(np.testing.assert_array_equal, parallel.to_host(again), state)


def test_a_run_is_bound_to_its_windows_and_not_to_a_path(unbroken, genome, tmp_path, capsys):
    """The genome packed elsewhere is the same, and none is needed; another data set is refused."""
    workdir, _ = unbroken
    packed = tmp_path / "packed.fa.gz"
    packed.write_bytes(gzip.compress(genome.read_bytes()))
    for fasta in (packed, tmp_path / "gone.fa"):
        pretrain.pretrain(small_config(fasta), workdir)
        assert "nothing to do" in capsys.readouterr().out
    synthetic.write_genome(tmp_path / "b.fa", 40_000, seed=2)
    other = small_config(tmp_path / "b.fa")
    other.data.dir = str(windows.prepare(other, tmp_path / "data"))
    with pytest.raises(
        InputError, match="data: not the data set that the run in .* was begun with"
    ):
        pretrain.pretrain(other, workdir)


@pytest.mark.parametrize("kept", [6, None])
def test_a_resumed_run_equals_the_unbroken_one_bit_for_bit(unbroken, genome, tmp_path, kept):
    """From step 6, which is the switch, and from nothing but metrics of lost steps."""
    workdir, state = unbroken
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    shutil.rmtree(copy / checkpoints.FOLDER / "12")
    if kept is None:
        shutil.rmtree(copy / checkpoints.FOLDER / "6")
    resumed = pretrain.pretrain(small_config(genome), copy)
    jax.tree.map(np.testing.assert_array_equal, parallel.to_host(resumed), state)
    assert lines(copy) == lines(workdir)


def test_a_stop_request_saves_the_step_and_the_next_start_goes_on(
    unbroken, genome, tmp_path, monkeypatch
):
    """The request comes as a real signal would leave it: during the first of two logged steps."""
    workdir, state = unbroken
    request = signals.StopRequest(signal="SIGTERM")
    with monkeypatch.context() as patch:
        patch.setattr(signals, "StopRequest", lambda: request)
        with pytest.raises(SystemExit) as stopped:
            pretrain.pretrain(small_config(genome), tmp_path)
    assert stopped.value.code == pretrain.EXIT_STOPPED
    assert [path.name for path in (tmp_path / checkpoints.FOLDER).iterdir()] == ["1"]
    resumed = pretrain.pretrain(small_config(genome), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, parallel.to_host(resumed), state)
    assert lines(tmp_path) == lines(workdir)


def test_another_config_in_the_same_folder_is_refused_with_a_table(unbroken, genome):
    workdir, _ = unbroken
    config = small_config(genome, seed=5)
    config.masking.budget = 0.2
    with pytest.raises(InputError) as error:
        pretrain.pretrain(config, workdir)
    assert "masking.budget: 0.15 before, 0.2 now" in str(error.value)
    assert "seed: 0 before, 5 now" in str(error.value)


def test_a_curriculum_that_did_not_switch_says_so_in_the_summary(genome, tmp_path, capsys):
    config = small_config(genome)
    config.curriculum.threshold = 1e-9
    pretrain.pretrain(config, tmp_path)
    (summary,) = records(tmp_path, "summary")
    assert "did not switch" in summary["note"]
    assert summary["steps_by_stage"] == {"genemask": 12, "global": 0}
    assert "did not switch" in capsys.readouterr().out


def test_a_batch_that_the_devices_cannot_share_is_refused_before_any_file(genome, tmp_path):
    with pytest.raises(InputError, match="batch_size=6: expected a multiple of 4 devices"):
        pretrain.pretrain(small_config(genome, batch_size=6), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bad_input_is_refused_before_any_file(tmp_path):
    with pytest.raises(InputError, match=r"missing\.fa: no such file"):
        pretrain.pretrain(small_config(tmp_path / "missing.fa"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_codons_of_rna_pretrain_from_end_to_end(tmp_path):
    """k=3, stride=3, U for T: perplexity falls, and what a masked codon hides is its own bases."""
    synthetic.write_genome(tmp_path / "dna.fa", 40_000, seed=1)
    lines = (tmp_path / "dna.fa").read_text().splitlines()
    rna = [line if line.startswith(">") else line.replace("T", "U") for line in lines]
    (tmp_path / "rna.fa").write_text("\n".join(rna) + "\n")
    config = small_config(tmp_path / "rna.fa", tokens=TokensConfig(k=3, stride=3, alphabet="rna"))
    pretrain.pretrain(config, tmp_path / "run")
    evals = records(tmp_path / "run", "eval")
    assert evals[-1]["perplexity_random"] < evals[0]["perplexity_random"] < 4**3 * 1.5
    train = records(tmp_path / "run", "train")[-1]
    assert train["nats_per_hidden_base"] == pytest.approx(train["loss"] / 3, rel=0.2)
