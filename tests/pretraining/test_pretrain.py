"""The loop end to end, on a model that trains in seconds: records, switch, resume, refusals."""

import gzip
import json
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from cmgems_jax.config import CurriculumConfig, MaskingConfig, OptimizerConfig, TokensConfig
from cmgems_jax.errors import InputError
from cmgems_jax.pretraining import base_evaluation, checkpoints
from cmgems_jax.pretraining import loop as pretraining_loop
from cmgems_jax.runtime import parallel, run_log, signals
from cmgems_jax.windows import batches, dataset, synthetic_genome
from tests.helpers import lines, records, small_config, without_last_checkpoint

TRAIN_FIELDS = {
    "loss", "learning_rate", "grad_norm", "stage", "mask_budget", "masked_fraction",
    "nats_per_hidden_base", "bases_per_second", "dropped_positions", "padding",
    "windows_without_mask",
}  # fmt: skip
READ_S = 0.2  # of a batch, where reading is slow


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
    assert [record["step"] for record in evals] == [0, 3, 6, 9, 12]
    for record in train:
        assert TRAIN_FIELDS <= record.keys()
        assert 0 < record["masked_fraction"] < 0.5
    # Of 16 rows of 32 positions a record one may be nearly empty; unpacked, a quarter is padding.
    assert 0 < np.mean([record["padding"] for record in train]) < 0.1
    for record in evals:
        assert {"perplexity", "perplexity_random", "perplexity_drop", "stage"} <= record.keys()
        for name in base_evaluation.NAMES:
            assert 0.5 < record[name] < 2.5 and record["marks"] == evals[0]["marks"]
            assert 1 < record["marks"][name]["flanks"] < 1.7  # a table of few counts
    assert evals[0]["perplexity_drop"] is evals[1]["perplexity_drop"] is None


def test_the_curriculum_switches_at_the_second_evaluation_and_says_why(unbroken):
    """Two evaluations of one strategy differ by less than 90 %, so the rule must fire at step 6.

    That before the first step is none of them.
    """
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
    again = pretraining_loop.pretrain(small_config(genome), workdir)
    assert "nothing to do" in capsys.readouterr().out
    assert (workdir / "metrics.jsonl").read_bytes() == before
    jax.tree.map(np.testing.assert_array_equal, parallel.to_host(again), state)


class SlowReading(batches.prefetch):
    """Reads nothing ahead, and takes `READ_S` to read a batch."""

    def __next__(self):
        """Returns the next batch."""
        time.sleep(READ_S)
        self.waited_s += READ_S
        return super().__next__()


def test_rates_and_parts_are_of_the_wall_time_with_the_wait_for_input(
    genome, tmp_path, monkeypatch
):
    """A step cannot be faster than its reading; a second belongs to exactly one part."""
    monkeypatch.setattr(batches, "prefetch", SlowReading)
    began = time.perf_counter()
    config = small_config(genome)
    pretraining_loop.pretrain(config, tmp_path)
    wall_s = time.perf_counter() - began
    most_bases = config.batch_size * config.data.num_tokens  # of a step: k-1 fewer, and 2 markers
    rates = [record["bases_per_second"] for record in records(tmp_path, "train")]
    assert all(0 < rate <= most_bases / READ_S for rate in rates)
    (summary,) = records(tmp_path, "summary")
    parts = summary["seconds_by_part"]
    rounding_s = 0.01 * (len(parts) + 1)
    assert sum(parts.values()) == pytest.approx(summary["total_seconds"], abs=rounding_s)
    assert summary["total_seconds"] <= wall_s + rounding_s
    # The first batch is waited for before the loop is timed.
    waited_s = summary["input_wait_seconds"]
    assert 11 * READ_S <= waited_s <= parts["train"] + rounding_s
    device_s = jax.device_count() * summary["total_seconds"]
    assert summary["device_hours"] * 3600 == pytest.approx(device_s, abs=0.1)


@pytest.fixture(scope="module")
def resumed(unbroken, genome, tmp_path_factory):
    """The run resumed from step 6, the switch: its folder, the clock it resumed from, its state."""
    copy = without_last_checkpoint(unbroken[0], tmp_path_factory.mktemp("resumed"))
    clock = json.loads((checkpoint_folder(copy) / "clock" / "metadata").read_text())
    state = pretraining_loop.pretrain(small_config(genome), copy)
    return copy, clock, parallel.to_host(state)


def test_the_clock_goes_on_in_a_resumed_run(resumed):
    """The seconds are those of all twelve steps, whichever start did them."""
    workdir, kept, _ = resumed
    assert (kept["timed_steps"], kept["starts"]) == (6, 1)
    (summary,) = records(workdir, "summary")
    assert (summary["timed_steps"], summary["starts"]) == (12, 2)
    for part, seconds in kept["seconds_by_part"].items():
        assert summary["seconds_by_part"][part] >= seconds - 0.01
    assert summary["device_hours"] * 3600 > kept["device_seconds"]


@pytest.mark.parametrize(("has_clock", "timed"), [(True, (12, 2)), (False, (6, 1))])
def test_a_checkpoint_of_an_earlier_version_is_resumed(
    unbroken, genome, tmp_path, has_clock, timed
):
    """Its clock, where it has one, stands beside the metrics of steps that were not logged."""
    workdir, state = unbroken
    copy = without_last_checkpoint(workdir, tmp_path)
    folder = checkpoint_folder(copy)
    clock = json.loads((folder / "clock" / "metadata").read_text())
    (folder / "clock").rename(folder / "unlogged")
    earlier = {"metrics": [{"loss_sum": 1.0}], "seconds": 0.5}
    earlier |= {"untimed_bases": 0.0, "clock": clock} if has_clock else {}
    (folder / "unlogged" / "metadata").write_text(json.dumps(earlier))
    resumed = pretraining_loop.pretrain(small_config(genome), copy)
    jax.tree.map(np.testing.assert_array_equal, parallel.to_host(resumed), state)
    (summary,) = records(copy, "summary")
    assert (summary["timed_steps"], summary["starts"]) == timed


def test_a_checkpoint_has_the_parts_that_it_had_before_ranks_could_be_learned(unbroken):
    with ocp.StandardCheckpointer() as reader:
        state = reader.restore((checkpoint_folder(unbroken[0]) / "state").absolute())
    assert state.keys() == {"step", "params", "opt_state", "key", "curriculum"}


def checkpoint_folder(workdir: Path) -> Path:
    """Returns the folder of the checkpoint of step 6."""
    return workdir / checkpoints.FOLDER / "6"


def test_compiling_the_evaluation_is_not_charged_to_it(unbroken, genome):
    """The program stands for one that compiles in its first call."""
    workdir, _ = unbroken
    validation, calls = dataset.open_split(workdir / "data", "validation"), []

    def program(state, batch, which):
        if not calls:
            time.sleep(1.0)
        calls.append(which)
        return {"loss_sum": np.float32(1)}

    clock = run_log.Clock()
    evaluate = pretraining_loop._evaluator(small_config(genome), program, validation, clock)
    with clock("eval"):
        sums = evaluate(None, 0)
    assert clock.seconds("compile") >= 1.0 > clock.seconds("eval")
    assert sums["loss_sum"] == len(calls) - 1  # the call that compiles counts for nothing


def test_a_run_is_bound_to_its_windows_and_not_to_a_path(unbroken, genome, tmp_path, capsys):
    """The genome packed elsewhere is the same, and none is needed; another data set is refused."""
    workdir, _ = unbroken
    packed = tmp_path / "packed.fa.gz"
    packed.write_bytes(gzip.compress(genome.read_bytes()))
    for fasta in (packed, tmp_path / "gone.fa"):
        pretraining_loop.pretrain(small_config(fasta), workdir)
        assert "nothing to do" in capsys.readouterr().out
    synthetic_genome.write_genome(tmp_path / "b.fa", 40_000, seed=2)
    other = small_config(tmp_path / "b.fa")
    other.data.dir = str(dataset.prepare(other, tmp_path / "data"))
    with pytest.raises(
        InputError, match="data: not the data set that the run in .* was begun with"
    ):
        pretraining_loop.pretrain(other, workdir)


def test_a_resumed_run_equals_the_unbroken_one_bit_for_bit(unbroken, resumed):
    jax.tree.map(np.testing.assert_array_equal, resumed[2], unbroken[1])
    assert lines(resumed[0]) == lines(unbroken[0])


def test_a_run_that_lost_every_checkpoint_equals_the_unbroken_one(unbroken, genome, tmp_path):
    """From nothing but metrics of lost steps."""
    workdir, state = unbroken
    copy = without_last_checkpoint(workdir, tmp_path)
    shutil.rmtree(copy / checkpoints.FOLDER / "6")
    again = pretraining_loop.pretrain(small_config(genome), copy)
    jax.tree.map(np.testing.assert_array_equal, parallel.to_host(again), state)
    assert lines(copy) == lines(workdir)


def test_a_stop_request_in_the_last_step_comes_too_late_and_the_run_has_its_summary(
    genome, tmp_path, monkeypatch
):
    config = small_config(genome, num_steps=1, eval_every=0, checkpoint_every=1, log_every=1)
    config.optimizer.warmup_steps, config.curriculum.name = 0, "fixed"
    request = signals.StopRequest(signal="SIGTERM")
    monkeypatch.setattr(signals, "StopRequest", lambda: request)
    assert int(pretraining_loop.pretrain(config, tmp_path).step) == 1
    assert [line["step"] for line in records(tmp_path, "summary")] == [1]


def test_a_stop_request_saves_the_step_and_the_next_start_goes_on(
    unbroken, genome, tmp_path, monkeypatch, capsys
):
    """The request comes as a real signal would leave it: during the first of two logged steps.

    Both then have a line of their own; every other line is that of the unbroken run.
    """
    workdir, state = unbroken
    request = signals.StopRequest(signal="SIGTERM")
    with monkeypatch.context() as patch:
        patch.setattr(signals, "StopRequest", lambda: request)
        with pytest.raises(SystemExit) as stopped:
            pretraining_loop.pretrain(small_config(genome), tmp_path)
    assert stopped.value.code == pretraining_loop.EXIT_STOPPED
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "saved step 1 after SIGTERM; the same command resumes from it"
    assert [path.name for path in (tmp_path / checkpoints.FOLDER).iterdir()] == ["1"]
    resumed = pretraining_loop.pretrain(small_config(genome), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, parallel.to_host(resumed), state)
    first = [(line["kind"], line["step"]) for line in lines(tmp_path) if line["step"] <= 2]
    assert first == [("eval", 0), ("train", 1), ("train", 2)]
    rest, expected = (
        [line for line in lines(folder) if line["step"] > 2] for folder in (tmp_path, workdir)
    )
    assert rest == expected


@pytest.fixture
def usual_sigint():
    """SIGINT interrupts: where the tests were started in the background, it may be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("usual_sigint")
def test_before_the_first_step_a_signal_ends_the_run_at_once(genome, tmp_path, monkeypatch):
    """Nothing is saved yet, and the first evaluation of a large model takes minutes."""
    monkeypatch.setattr(
        pretraining_loop, "_evaluate", lambda *_, **__: signal.raise_signal(signal.SIGINT)
    )
    with pytest.raises(KeyboardInterrupt):
        pretraining_loop.pretrain(small_config(genome), tmp_path)


def test_a_stop_is_answered_at_once_and_a_second_signal_too(capfd):
    """From a thread, as the main one may be inside a compiled step."""

    def answer() -> str:
        """Sends a signal and returns what stands on stderr then."""
        signal.raise_signal(signal.SIGINT)
        text, deadline = "", time.monotonic() + 20
        while not text.endswith("\n") and time.monotonic() < deadline:
            text += capfd.readouterr().err
            time.sleep(0.01)
        return text

    with signals.stop_requests() as stop:
        first, second = answer(), answer()
        assert stop.signal == "SIGINT"
    assert "SIGINT: stopping after this step, and saving" in first
    assert "SIGINT: still stopping" in second and "kill -9" in second


def test_another_config_in_the_same_folder_is_refused_with_a_table(unbroken, genome):
    workdir, _ = unbroken
    config = small_config(genome, seed=5)
    config.masking.budget = 0.2
    with pytest.raises(InputError) as error:
        pretraining_loop.pretrain(config, workdir)
    assert "masking.budget: 0.15 before, 0.2 now" in str(error.value)
    assert "seed: 0 before, 5 now" in str(error.value)


def test_more_steps_in_a_runs_folder_are_refused_with_the_command_that_trains_them(
    unbroken, genome
):
    workdir, _ = unbroken
    with pytest.raises(InputError) as error:
        pretraining_loop.pretrain(small_config(genome, num_steps=24), workdir)
    assert "num_steps: 12 before, 24 now" in str(error.value)
    assert "the same command with another --workdir trains all the steps" in str(error.value)
    assert f"--init_from={workdir} it trains further from this run's weights" in str(error.value)


def test_perplexity_random_keeps_the_configs_budget_while_an_adaptive_one_grows(genome, tmp_path):
    """The same masks at each evaluation: those of a run whose budget stays."""
    settings = {"name": "fixed", "threshold": 1e9}
    records = []
    for schedule in ("constant", "adaptive"):
        chosen = CurriculumConfig(**settings, budget_schedule=schedule)
        # a rate of 0: the model stays as it is, so only the masks can change a perplexity
        still = OptimizerConfig(peak_lr=0.0, warmup_steps=0, weight_decay=0.0)
        config = small_config(genome, curriculum=chosen, optimizer=still)
        pretraining_loop.pretrain(config, tmp_path / schedule)
        log = run_log.read(tmp_path / schedule / "metrics.jsonl")
        records.append([record for record in log if record["kind"] == "eval"])
    constant, adaptive = records
    assert [record["mask_budget"] for record in adaptive] == pytest.approx(
        [0.15, 0.15, 0.15, 0.2, 0.2]
    )
    under_random = [record["perplexity_random"] for record in adaptive]
    assert under_random == [record["perplexity_random"] for record in constant]
    assert adaptive[-1]["perplexity"] != under_random[-1]


def test_a_run_killed_between_two_lines_logs_every_step_once(genome, tmp_path):
    """A checkpoint at 3 and 9 ends a line that `log_every` would not: so in every run."""
    config = small_config(genome, log_every=2, checkpoint_every=3, keep_checkpoints=9)
    pretraining_loop.pretrain(config, tmp_path / "whole")
    assert [line["step"] for line in records(tmp_path / "whole", "train")] == [
        2, 3, 4, 6, 8, 9, 10, 12,
    ]  # fmt: skip
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    for step in (6, 9, 12):
        shutil.rmtree(tmp_path / "killed" / checkpoints.FOLDER / str(step))
    pretraining_loop.pretrain(config, tmp_path / "killed", resume="must")
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")


def test_a_curriculum_that_did_not_switch_says_so_in_the_summary(genome, tmp_path, capsys):
    config = small_config(genome)
    config.curriculum.threshold = 1e-9
    pretraining_loop.pretrain(config, tmp_path)
    (summary,) = records(tmp_path, "summary")
    assert "did not switch" in summary["note"]
    assert summary["steps_by_stage"] == {"genemask": 12, "global": 0}
    assert "did not switch" in capsys.readouterr().out


def test_a_batch_that_the_devices_cannot_share_is_refused_before_any_file(genome, tmp_path):
    with pytest.raises(InputError, match="batch_size=6: expected a multiple of 4 devices"):
        pretraining_loop.pretrain(small_config(genome, batch_size=6), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bad_input_is_refused_before_any_file(tmp_path):
    with pytest.raises(InputError, match=r"missing\.fa: no such file"):
        pretraining_loop.pretrain(small_config(tmp_path / "missing.fa"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_codons_of_rna_pretrain_from_end_to_end(tmp_path):
    """k=3, stride=3, U for T: perplexity falls, and what a masked codon hides is its own bases."""
    synthetic_genome.write_genome(tmp_path / "dna.fa", 40_000, seed=1)
    lines = (tmp_path / "dna.fa").read_text().splitlines()
    rna = [line if line.startswith(">") else line.replace("T", "U") for line in lines]
    (tmp_path / "rna.fa").write_text("\n".join(rna) + "\n")
    config = small_config(tmp_path / "rna.fa", tokens=TokensConfig(k=3, stride=3, alphabet="rna"))
    pretraining_loop.pretrain(config, tmp_path / "run")
    evals = records(tmp_path / "run", "eval")
    assert evals[-1]["perplexity_random"] < evals[0]["perplexity_random"] < 4**3 * 1.5
    train = records(tmp_path / "run", "train")[-1]
    assert train["nats_per_hidden_base"] == pytest.approx(train["loss"] / 3, rel=0.2)


def test_a_run_of_bases_switches_by_nats_per_base_and_logs_them_as_its_loss(genome, tmp_path):
    config = small_config(
        genome,
        masking=MaskingConfig(objective="base"),
        curriculum=CurriculumConfig(watch="nats_per_base", threshold=0.13),
    )
    pretraining_loop.pretrain(config, tmp_path)
    for record in records(tmp_path, "train"):
        assert record["loss"] == record["nats_per_hidden_base"] < 2.5
    _, first, second, *_ = evals = records(tmp_path, "eval")
    assert all("perplexity_drop" not in record for record in evals)
    drop = first["nats_per_base"] - second["nats_per_base"]
    assert second["nats_per_base_drop"] == pytest.approx(drop, abs=1e-6)
    (switch,) = records(tmp_path, "switch")
    assert (switch["step"], switch["to"]) == (6, "global") and abs(drop) < 0.13
    assert "absolute change of nats per base" in switch["why"]
