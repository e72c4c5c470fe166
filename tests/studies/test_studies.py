"""Studies: every arm can run, none runs twice, a killed one ends in the same tables, no claim
without an interval; and the page of it."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cmgems_jax import config as config_lib
from cmgems_jax import config_checks
from cmgems_jax.config import STRATEGIES, Config
from cmgems_jax.downstream.evaluation import statistics
from cmgems_jax.downstream.evaluation.settings import EvaluationSettings
from cmgems_jax.errors import InputError
from cmgems_jax.masking import statistics as mask_statistics
from cmgems_jax.pmi import table as pmi_table
from cmgems_jax.pretraining import loop, run_inputs
from cmgems_jax.report import page
from cmgems_jax.runtime import outputs, parallel
from cmgems_jax.studies import arms, reuse, runs, study, study_report, study_tables
from cmgems_jax.windows import dataset, synthetic_genome
from tests.helpers import ROOT, small_config, started

ARMS = ("random", "cm_gems")
PRESET = """
import sys
sys.path.insert(0, {root!r})
from tests.helpers import small_config

def get_config():
    return small_config("none")
"""


# Intervals and corrections.


def test_with_one_seed_the_interval_is_students():
    values = np.array([[0.1, 0.3, 0.2, 0.6]])
    found = statistics.crossed(values)
    low, high = stats.t.interval(0.95, 3, values.mean(), stats.sem(values[0]))
    assert (found.mean, found.low, found.high) == pytest.approx((0.3, low, high))
    assert found.p == pytest.approx(stats.ttest_1samp(values[0], 0).pvalue)


def test_the_crossed_variance_is_that_of_the_two_way_layout():
    values = np.array([[0.0, 2.0, 4.0], [4.0, 4.0, 7.0]])
    # means: 2 and 5, 2 3 5.5, 3.5; MS_seeds = 3 * 2 * 1.5**2 = 13.5
    # MS_draws = 2 * (1.5**2 + 0.5**2 + 2**2) / 2 = 6.5; residuals -.5 .5 0 .5 -.5 0: MS = 0.5
    variance = (13.5 + 6.5 - 0.5) / 6
    freedom = 19.5**2 / (13.5**2 / 1 + 6.5**2 / 2 + 0.5**2 / 2)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(variance)
    found = statistics.crossed(values)
    assert (found.low, found.high) == pytest.approx((3.5 - half, 3.5 + half))


@pytest.mark.parametrize(("num_seeds", "least"), [(2, 0.87), (4, 0.92)])
@pytest.mark.parametrize(("of_seeds", "of_draws"), [(1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_the_interval_covers_the_truth_whatever_varies(of_seeds, of_draws, num_seeds, least):
    """Of 600 intervals; `least` is 2 binomial errors below what 3,000 gave."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(600):
        values = (
            rng.normal(0, of_seeds, (num_seeds, 1))
            + rng.normal(0, of_draws, (1, 10))
            + rng.normal(0, 0.5, (num_seeds, 10))
        )
        found = statistics.crossed(values)
        hits += found.low <= 0 <= found.high
    assert hits / 600 > least


def test_holms_correction_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.5, 0.6]) == [1.0, 1.0]
    found = statistics.holm([float("nan"), 0.02])
    assert np.isnan(found[0]) and found[1] == 0.02
    assert statistics.holm([]) == []


@pytest.mark.parametrize("num_seeds", [6, 12])
def test_the_difference_that_a_study_can_show_is_shown_by_four_of_five(num_seeds):
    true, spread = statistics.detectable(0.02, num_seeds), 0.02
    seeds_SN = np.random.default_rng(0).normal(true, spread, (20_000, num_seeds))
    shown = stats.ttest_1samp(seeds_SN, 0, axis=1).pvalue < 0.05
    assert np.mean(shown) == pytest.approx(statistics.POWER, abs=0.01)


def test_no_claim_is_made_where_the_interval_holds_zero():
    row = {"arm": "a", "reference": "b", "mode": "probe", "task": "t", "shots": 10}
    for low, high, shown, expected in (
        (-0.1, 0.3, "unclear", "no difference from b is shown"),
        (0.1, 0.3, "above", "above b on t at 10 shots"),
        (-0.3, -0.1, "below", "below b on t at 10 shots"),
    ):
        line = row | {"difference": (low + high) / 2, "low": low, "high": high, "shown": shown}
        (sentence,) = study_report.sentences(pd.DataFrame([line]), 2)
        assert expected in sentence


def test_what_is_said_of_hidden_bases_is_what_their_intervals_show():
    row = {"arm": "a", "reference": "b", "difference": 0.02}
    ways = (("nats_per_base", 0.01, "above"), ("nats_per_base_k", -0.01, "unclear"))
    lines = [row | {"metric": n, "low": low, "high": 0.03, "shown": s} for n, low, s in ways]
    own = lines[0] | {"arm": "b", "difference": 0.0, "shown": "unclear"}
    assert study_report.base_sentences(pd.DataFrame([own, *lines])) == [
        "a, hidden bases, less b: one hidden +0.020 [+0.010, +0.030] nats, it knows less; "
        "k hidden +0.020 [-0.010, +0.030] nats, not shown to differ."
    ]
    assert study_report.base_sentences(pd.DataFrame()) == []


def test_arms_without_their_reference_are_told_what_would_compare_them():
    assert "--reference=ARM compares" in study_report.sentences(pd.DataFrame(), 2)[0]
    assert study_report.sentences(pd.DataFrame(), 1) == ["One arm: nothing to compare."]


def test_few_seeds_and_few_draws_come_with_a_word_of_caution():
    assert "Nothing is claimed of 1 seed:" in study_report.caution(1, 5)[0]
    assert "Nothing is claimed of 4 draws:" in study_report.caution(6, 4)[0]
    assert study_report.caution(6, 5) == []


# Arms.


@pytest.mark.parametrize("preset", study.PRESETS)
@pytest.mark.parametrize("name", arms.STUDIES)
def test_every_arm_of_every_study_and_preset_can_run(name, preset, tmp_path):
    config = study.preset(preset, "genome.fa", None)
    made = arms.STUDIES[name].arms(config)
    names = [arm.name for arm in made]
    assert len(set(names)) == len(names)
    assert {arm.reference for arm in made} <= set(names)
    configs = [config_lib.flatten(arms.config_of(config, arm, 3)) for arm in made]
    assert len({tuple(fields.items()) for fields in configs}) == len(made)
    changed = set().union(*(arm.fields for arm in made)) | {"seed"}
    for fields in configs:  # beyond its own fields an arm is the preset
        same = set(fields) - changed
        assert all(fields[field] == config_lib.flatten(config)[field] for field in same)


def test_the_strategy_study_has_every_strategy_and_both_published_curricula():
    made = arms.STUDIES["strategy"].arms(small_config(Path("x")))
    assert {arm.name for arm in made} == {*STRATEGIES, "cm_gems", "cm_step"}


def test_fewer_steps_leave_room_for_the_curriculum_to_switch():
    config = study.preset("dnabert", "genome.fa", 100)
    config_checks.validate(config)
    assert config.num_steps == 100 and config.eval_every <= 100 // 16


def test_a_preset_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="--preset=tiny: no such file; the current folder is"):
        study.preset("tiny", "genome.fa", None)


# Masks.


def test_masks_by_position_show_as_places_masked_again_and_again(tmp_path):
    synthetic_genome.write_genome(tmp_path / "small.fa", 200_000, seed=1)
    config = small_config(tmp_path / "small.fa")
    config = config_lib.replace(config, {"tokens.k": 6, "data.num_tokens": 32})
    dataset.prepare(config, tmp_path / "data")
    ranks_V = pmi_table.ranks_for(config, [])
    found = {}
    for strategy in ("random", "global", "random_spans", "global_by_position", "random_mask"):
        fields = {"curriculum.name": "fixed", "curriculum.strategy": strategy}
        (found[strategy],) = mask_statistics.describe(
            config_lib.replace(config, fields), tmp_path / "data", ranks_V
        )
    often = {strategy: one.often_masked_positions for strategy, one in found.items()}
    assert often["global_by_position"] > 0.1
    assert often["random"] == often["random_spans"] == often["random_mask"] == 0
    chance = found["random"].mean_rank_of_all
    assert found["global"].mean_rank < 0.8 * chance
    assert abs(found["random"].mean_rank - chance) < 0.05 * chance
    assert (
        found["random_spans"].hidden_bases_per_token > 1.5 * found["random"].hidden_bases_per_token
    )
    for one in found.values():
        assert 0.05 < one.share < 0.25 and one.num_windows == 350


def test_masks_of_the_hard_strategy_are_described_at_its_own_budget(tmp_path):
    """Shares of random masks at .05, and of GLOBAL's at .3, less the overlaps."""
    synthetic_genome.write_genome(tmp_path / "small.fa", 200_000, seed=1)
    config = small_config(tmp_path / "small.fa")
    fields = {"curriculum.name": "cm_step", "curriculum.budget_schedule": "by_stage"}
    fields |= {"masking.budget": 0.05, "curriculum.hard_budget": 0.3, "data.num_tokens": 32}
    config = config_lib.replace(config, fields | {"tokens.k": 6})
    dataset.prepare(config, tmp_path / "data")
    easy, hard = mask_statistics.describe(
        config, tmp_path / "data", pmi_table.ranks_for(config, [])
    )
    assert (easy.strategy, hard.strategy) == ("random", "global")
    assert 0.03 < easy.share < 0.06 and 0.15 < hard.share < 0.3


# A small study from end to end.


@pytest.fixture(scope="module")
def inputs(genome, tmp_path_factory) -> tuple[Path, Path, Path]:
    """A genome, a task (class 1 is rich in G and C), a preset file."""
    folder = tmp_path_factory.mktemp("study_inputs")
    rng = np.random.default_rng(0)
    (folder / "task").mkdir()
    for split in ("train", "test"):
        rows = []
        for number in range(40):
            share = [0.1, 0.1, 0.4, 0.4] if number % 2 else [0.4, 0.4, 0.1, 0.1]
            rows.append(f"{''.join(rng.choice(list('ATCG'), 24, p=share))}\t{number % 2}\n")
        (folder / "task" / f"{split}.tsv").write_text("sequence\tlabel\n" + "".join(rows))
    (folder / "preset.py").write_text(PRESET.format(root=str(ROOT)))
    return genome, folder / "task", folder / "preset.py"


def small_plan(inputs: tuple[Path, Path, Path], **changes: object) -> study.Plan:
    """Two arms and two seeds."""
    fasta, task, preset = inputs
    settings = EvaluationSettings(
        "fewshot", ("probe",), (str(task),), (4,), 3, long_sequences="window"
    )
    config = study.preset(str(preset), str(fasta), None)
    chosen = {"study": "strategy", "only": ARMS, "reference": "", **changes}
    return study.make_plan(
        chosen["study"],
        "small",
        config,
        2,
        chosen["only"],
        chosen["reference"],
        settings,
        Path("."),
    )


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory) -> Path:
    """The folder of the small study."""
    output = tmp_path_factory.mktemp("study") / "out"
    study.run(small_plan(inputs), output)
    return output


def test_the_masks_of_learned_ranks_are_described_by_what_was_learned(inputs, tmp_path):
    plan = small_plan(inputs, study="difficulty", only=["rank_learned"])
    one = runs.unit(plan.arms[0], 0, arms.config_of(plan.config, plan.arms[0], 0), tmp_path)
    runs.run(one, plan.evaluation, plan.task_dir)
    learned_V = parallel.to_host(loop.pretrain(one.config, one.folder).ranks).rank_V
    begun_V = run_inputs.ranks(one.config, one.folder)
    by_learned, by_begun = (
        [dataclasses.asdict(s) for s in mask_statistics.describe(one.config, one.data_dir, ranks_V)]
        for ranks_V in (learned_V, begun_V)
    )
    kept = json.loads((one.folder / runs.DONE_NAME).read_text())["masks"]
    assert kept == by_learned != by_begun


def test_a_steps_cost_is_of_the_steps_that_were_timed_and_the_wait_is_in_it(tmp_path):
    """One resumed run; one of an older version, whose "train" left out the wait. By hand."""
    parts = {"data": 10.0, "pmi": 4.0, "compile": 20.0, "eval": 30.0, "checkpoint": 10.0}
    resumed = {
        "seconds_by_part": parts | {"setup": 2.0, "train": 98.0}, "total_seconds": 174.0,
        "input_wait_seconds": 39.0, "device_hours": 0.1, "timed_steps": 100, "starts": 2,
    }  # fmt: skip
    older = {"seconds_by_part": parts | {"train": 60.0, "input_wait": 39.0}, "total_seconds": 173.0}
    units = []
    for seed, values in enumerate((resumed, older)):
        one = runs.unit(arms.Arm("arm", {}, "arm"), seed, Config(), tmp_path)
        one.folder.mkdir(parents=True)
        record = {"kind": "summary", "step": 100, **values}
        (one.folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
        units.append(one)
    killed = runs.unit(arms.Arm("arm", {}, "arm"), 2, Config(), tmp_path)  # it told nothing
    first, second = study_tables.costs([*units, killed]).itertuples()
    # 98 steps in 98 s (the first of each start compiles), 40 s of the rest by 100 steps
    assert first.hours_for_1000 == pytest.approx((10 + (2 + 4 + 20) / 2 + 1_400) / 3600)
    assert (first.train, first.input_wait, first.device_hours) == (98, 39, 0.1)
    assert second.hours_for_1000 == pytest.approx((10 + 4 + 20 + 1_400) / 3600)
    assert (second.train, second.input_wait) == (99, 39)


def test_every_arm_seed_and_draw_is_in_the_tables(finished):
    results = pd.read_csv(finished / "results.csv")
    assert len(results) == 2 * 2 * 3
    assert set(results.arm) == set(ARMS) and set(results.seed) == {0, 1}
    baselines = pd.read_csv(finished / "baselines.csv")
    assert {"untrained", "majority class"} <= set(baselines.model)
    assert len(pd.read_csv(finished / "costs.csv")) == 4
    found = study_report.read_differences(finished / "differences.csv")
    own, other = (results[results.arm == name] for name in ("cm_gems", "random"))
    difference = (
        own.sort_values(["seed", "draw"]).mcc.to_numpy()
        - other.sort_values(["seed", "draw"]).mcc.to_numpy()
    )
    assert found.difference.iloc[0] == pytest.approx(difference.mean())
    text = (finished / "study.md").read_text()
    assert "## In words" in text and "cm_gems" in text
    assert (finished / study_report.FIGURE).read_bytes().startswith(b"\x89PNG")
    assert all(line in text for line in study_report.caution(2, 3))


def test_the_power_is_of_the_spread_over_seeds_of_the_mean_over_all_scores(finished):
    results = pd.read_csv(finished / "results.csv")
    means = results.groupby(["arm", "seed"]).mcc.mean().unstack()
    spread = (means.loc["cm_gems"] - means.loc["random"]).std()
    (row,) = pd.read_csv(finished / "power.csv").to_dict("records")
    assert (row["arm"], row["reference"], row["seeds"]) == ("cm_gems", "random", 2)
    assert row["spread"] == pytest.approx(spread)
    assert row["6 seeds"] == pytest.approx(statistics.detectable(spread, 6))
    assert row["12 seeds"] < row["6 seeds"]
    assert "## Power: the true difference" in (finished / "study.md").read_text()


def test_a_study_whose_reference_was_not_asked_for_compares_nothing():
    own = [arms.Arm(name, {}, "random_spans") for name in ("random", "genemask")]
    rows = [("probe", arm.name, seed, "mcc", seed / 10) for arm in own for seed in (0, 1)]
    results = pd.DataFrame(rows, columns=["mode", "arm", "seed", "metric", "mcc"])
    assert study_tables.power(results, own).empty
    nats = results.assign(nats_per_base=1.3, nats_per_base_k=1.3)
    assert study_tables.hidden_bases(nats, own).empty


def test_nats_of_hidden_bases_are_paired_by_seed_with_students_interval():
    seeds, rng = 6, np.random.default_rng(0)
    nats_AS = {"own": rng.normal(1.35, 0.01, seeds), "other": rng.normal(1.3, 0.01, seeds)}
    reached = pd.DataFrame(
        {"arm": arm, "seed": seed, "nats_per_base": value, "nats_per_base_k": np.nan}
        for arm, values in nats_AS.items()
        for seed, value in enumerate(values)
    )
    both = [arms.Arm(name, {}, "other") for name in nats_AS]
    own, other = study_tables.hidden_bases(reached, both).itertuples()
    less_S = nats_AS["own"] - nats_AS["other"]
    expected = stats.t.interval(0.95, seeds - 1, less_S.mean(), stats.sem(less_S))
    assert (own.low, own.high) == pytest.approx(expected)
    assert own.shown == statistics.ABOVE and own.nats == pytest.approx(nats_AS["own"].mean())
    assert other.difference == 0 and other.shown == statistics.UNCLEAR
    is_left = (reached.arm == "other") | (reached.seed < 5)  # a study under way
    few = study_tables.hidden_bases(reached[is_left], [*both, arms.Arm("third", {}, "other")])
    assert (few.shown == statistics.UNCLEAR).all() and few.seeds.tolist() == [5, 6]


def test_every_interval_covers_the_test_rows_and_two_seeds_claim_nothing(finished):
    found = study_report.read_differences(finished / "differences.csv")
    assert (found.shown == study_report.UNCLEAR).all()
    for name in ("summary", "differences", study_tables.BASELINE_SUMMARY):
        covers = set(pd.read_csv(finished / f"{name}.csv").covers)
        assert statistics.WHOLE in covers and statistics.DRAWS_ONLY not in covers
    assert "2 arms, 2 seeds," in (finished / "study.md").read_text()


def test_an_earlier_versions_table_claims_nothing(finished, tmp_path):
    """Its claims came of intervals that held neither the test rows nor what draws share."""
    found = study_report.read_differences(finished / "differences.csv").drop(columns="covers")
    found.assign(shown=study_report.ABOVE).to_csv(tmp_path / "old.csv", index=False)
    assert (study_report.read_differences(tmp_path / "old.csv").shown == study_report.UNCLEAR).all()


def test_the_page_and_the_text_mark_the_same_differences(finished, tmp_path):
    found = study_report.read_differences(finished / "differences.csv")
    found.loc[0, "shown"] = study_report.ABOVE
    table = study_report.differences_table(found)
    assert sum(cell.endswith(" *") for cell in table.to_numpy().ravel()) == 1
    assert study_report.markdown(table).count(" * |") == 1
    (axes,) = study_report.differences_figure(found).axes
    faces = [line.get_markerfacecolor() for line in axes.lines if line.get_marker() in "osD"]
    assert len(faces) == len(found) and sum(face != "none" for face in faces) == 1


def test_arms_of_a_seed_share_their_windows(finished):
    names = sorted(path.name for path in (finished / "windows").iterdir())
    assert names == ["k3_stride1_seed0", "k3_stride1_seed1"]


def test_a_finished_study_runs_nothing_again(inputs, finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("metrics.jsonl")}
    assert len(before) == 4
    study.run(small_plan(inputs), finished)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "step " not in capsys.readouterr().out.replace("steps", "")


def test_another_reference_turns_the_differences_and_runs_nothing(inputs, finished, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    before = study_report.read_differences(output / "differences.csv")
    study.run(small_plan(inputs, reference="cm_gems"), output)
    after = study_report.read_differences(output / "differences.csv")
    assert set(after.arm) == {"random"} and set(after.reference) == {"cm_gems"}
    np.testing.assert_allclose(after.difference, -before.difference)


def test_a_run_that_another_study_has_is_copied_and_not_trained_again(
    inputs, finished, tmp_path, capsys
):
    """Of the threshold study the arm at the preset's own threshold is cm_gems of the other."""
    config = study.preset(str(inputs[2]), str(inputs[0]), None)
    shared = f"threshold_{config.curriculum.threshold:g}"
    plan = small_plan(inputs, study="threshold", only=(shared,))
    output = tmp_path / "out"
    study.run(plan, output, [finished])
    told = capsys.readouterr().out
    assert told.count("the same run as") == told.count("nothing to do") == 2
    results = pd.read_csv(output / "results.csv").drop(columns=["arm", "seconds"])
    wanted = pd.read_csv(finished / "results.csv").query("arm == 'cm_gems'")
    wanted = wanted.drop(columns=["arm", "seconds"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(results, wanted)
    assert "untrained" in set(pd.read_csv(output / "baselines.csv").model)
    means = [pd.read_csv(folder / "summary.csv") for folder in (output, finished)]
    wanted = means[1].query("arm == 'cm_gems'").reset_index(drop=True)
    pd.testing.assert_frame_equal(means[0].drop(columns="arm"), wanted.drop(columns="arm"))
    masked = [pd.read_csv(folder / "masks.csv") for folder in (output, finished)]
    np.testing.assert_allclose(
        masked[0].set_index("strategy").share,
        masked[1].query("arm == 'cm_gems'").set_index("strategy").share,
    )


def test_runs_of_other_settings_are_not_taken_for_the_same(inputs, finished, tmp_path):
    plan = small_plan(inputs, study="threshold", only=())
    arm = plan.arms[0]  # half of the threshold
    other = runs.unit(arm, 0, arms.config_of(plan.config, arm, 0), tmp_path)
    assert reuse.find(other, [finished]) is None
    with pytest.raises(InputError, match="--reuse=.*: no study.json in it"):
        study.run(plan, tmp_path / "out", [tmp_path])
    fewer = dataclasses.replace(plan.evaluation, num_draws=2)
    with pytest.raises(InputError, match="evaluation.num_draws: 3 before, 2 now"):
        study.run(dataclasses.replace(plan, evaluation=fewer), tmp_path / "out", [finished])
    assert not (tmp_path / "out").exists()


def test_a_study_and_its_runs_are_known_by_their_genomes_content(inputs, tmp_path):
    """A moved genome is the same; another one under the same path is another study's."""
    fasta, task, preset = inputs
    moved, same_path = tmp_path / "moved.fa", tmp_path / "genome.fa"
    for path in (moved, same_path):
        shutil.copy(fasta, path)
    output, plan = tmp_path / "out", small_plan((same_path, task, preset))
    arm, config = plan.arms[0], arms.config_of(plan.config, plan.arms[0], 0)
    one = runs.unit(arm, 0, config, output)
    done = tmp_path / "before" / "arms" / "random_seed0"
    for folder in (output, done):
        folder.mkdir(parents=True)
    study.check_same(output, plan)
    dataset.prepare(config, one.data_dir)
    run_inputs.write(done, one.data_dir, run_inputs.ranks(config, output))
    outputs.write_json(done / "config.json", config_lib.to_dict(config))
    outputs.write_json(done / runs.DONE_NAME, {})
    same = small_plan((moved, task, preset))
    study.check_same(output, same)
    other = runs.unit(arm, 0, arms.config_of(same.config, arm, 0), tmp_path / "new")
    assert reuse.find(other, [tmp_path / "before"]) == done
    synthetic_genome.write_genome(same_path, 40_000, seed=2)
    with pytest.raises(InputError, match="contents of the input files"):
        study.check_same(output, plan)
    assert reuse.find(one, [tmp_path / "before"]) is None


def test_the_threshold_of_other_lengths_of_kmers_is_the_same_share_of_the_vocabulary():
    preset = study.preset("nano", "genome.fa", None)
    made = {arm.name: arm.fields for arm in arms.STUDIES["kmer"].arms(preset)}
    thresholds = {name: fields["curriculum.threshold"] for name, fields in made.items()}
    assert thresholds["k7"] == 4 * thresholds["k6"] == 256 * thresholds["k3"]


def test_arms_may_be_added_and_left_out_and_the_baselines_stay(inputs, finished, tmp_path):
    """Each of the two stands first in its turn, and has baselines of its own."""
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    baselines = pd.read_csv(output / "baselines.csv")
    for only in (["cm_gems"], ["random"], ARMS):
        study.run(small_plan(inputs, only=only), output)
        kept = pd.read_csv(output / "baselines.csv")
        pd.testing.assert_frame_equal(
            kept.drop(columns="seconds"), baselines.drop(columns="seconds")
        )
        page.write([output], tmp_path / "report.html")
    scores = pd.read_csv(output / "arms" / "cm_gems_seed0" / "evaluation" / "results.csv")
    twice = pd.concat([scores, baselines.assign(seconds=0.0)])
    twice.to_csv(output / "arms" / "cm_gems_seed0" / "evaluation" / "results.csv", index=False)
    study.run(small_plan(inputs), output)
    assert len(pd.read_csv(output / "baselines.csv")) == len(baselines)


def test_other_tasks_shots_or_rows_are_another_study_and_their_scores_are_not_taken(
    inputs, finished, tmp_path
):
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    more = dataclasses.replace(small_plan(inputs).evaluation, shots=(4, 8))
    other = tmp_path / "task"  # of the same name, with other rows
    shutil.copytree(inputs[1], other)
    (other / "test.tsv").write_text((inputs[1] / "train.tsv").read_text())
    fasta, _, preset = inputs
    config = study.preset(str(preset), str(fasta), None)
    asked = {"more": (more, "task, 8 shots"), "other": (more, "task, 4 shots: other rows")}
    asked["other"] = (dataclasses.replace(more, shots=(4,), tasks=(str(other),)), asked["other"][1])
    for settings, message in asked.values():
        plan = study.make_plan("strategy", "small", config, 2, ARMS, "", settings, Path("."))
        with pytest.raises(InputError, match=f"holds another study .*{message}"):
            study.run(plan, output)
    study.run(dataclasses.replace(plan, seeds=(0,)), tmp_path / "new", [finished])
    scores, before = (
        pd.read_csv(folder / "results.csv") for folder in (tmp_path / "new", finished)
    )
    assert set(scores.shots) == {4} and not np.array_equal(
        scores.query("arm == 'cm_gems'").accuracy,
        before.query("arm == 'cm_gems' and seed == 0").accuracy,
    )


def test_a_task_of_gue_is_refused_before_any_training(inputs, tmp_path):
    (tmp_path / "gue").mkdir()
    shutil.copytree(inputs[1], tmp_path / "gue" / "mouse" / "0")
    config = study.preset(str(inputs[2]), str(inputs[0]), None)
    settings = EvaluationSettings(tasks=("mouse/0",), shots=(4,))
    with pytest.raises(InputError, match="--tasks=mouse/0: of GUE; a study has few-shot"):
        study.make_plan("strategy", "small", config, 2, ARMS, "", settings, tmp_path)


def test_another_study_in_the_folder_is_refused(inputs, finished):
    with pytest.raises(InputError, match="holds another study .*study: strategy before"):
        study.run(small_plan(inputs, study="threshold", only=()), finished)


def test_an_unknown_arm_is_refused_before_anything_is_made(inputs):
    with pytest.raises(InputError, match="--arms=rnadom: the study strategy has random, genemask"):
        small_plan(inputs, only=("rnadom",))


def test_a_folder_with_other_files_is_refused(inputs, tmp_path):
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(InputError, match="holds other files"):
        study.run(small_plan(inputs), tmp_path)


def command(inputs: tuple[Path, Path, Path], output: Path):
    """Starts the small study as a user would."""
    fasta, task, preset = inputs
    return started(
        [
            *(sys.executable, "-m", "launch.study", "--study=strategy", f"--preset={preset}"),
            *(f"--fasta={fasta}", f"--tasks={task}", "--shots=4", "--draws=3", "--test_rows=0"),
            *(f"--arms={','.join(ARMS)}", f"--output={output}"),
        ],
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stderr=subprocess.STDOUT,
    )


def test_two_processes_share_the_arms_and_a_killed_one_ends_in_the_same_tables(
    inputs, finished, tmp_path
):
    """One of two is killed once its second run has begun; the other does what is left."""
    output = tmp_path / "out"
    with command(inputs, output) as one, command(inputs, output) as two:
        begun = 0
        for line in one.stdout:
            begun += line.startswith("== ")
            if begun == 2 and line.startswith("step"):
                break
        one.send_signal(signal.SIGKILL)
        told, _ = two.communicate(timeout=240)
    assert two.returncode == 0, told
    names = ("results", "summary", "differences", "masks", "baselines", "baseline_summary")
    for name in names:
        tables = [pd.read_csv(folder / f"{name}.csv") for folder in (output, finished)]
        tables = [table.drop(columns="seconds", errors="ignore") for table in tables]
        pd.testing.assert_frame_equal(*tables)


# The page.


class Page(HTMLParser):
    """Collects what a page refers to, and what it holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.references, self.ids, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        for name in ("src", "href", "xlink:href"):
            self.references += [values[name]] if name in values else []

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def made(finished, tmp_path_factory) -> Page:
    """The page of the study and of one run of it."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    page.write([finished, runs.folder(finished, "cm_gems", 0)], path)
    return Page(path.read_text())


def test_the_page_needs_no_other_file(made):
    assert made.references and all(reference.startswith("#") for reference in made.references)
    assert not {"script", "link", "img", "iframe"} & set(made.tags)
    assert {reference[1:] for reference in made.references} <= set(made.ids)


def test_sections_of_several_folders_say_whose_they_are(made):
    assert "out: Learning curves" in made.text and "cm_gems_seed0: Pretraining" in made.text


def test_ids_of_the_figures_do_not_meet(made):
    assert len(set(made.ids)) == len(made.ids)


def test_the_page_shows_every_arm_and_the_sentences(finished, made):
    # differences, scores, curves, masks, costs; the run's curves and its scores
    assert made.tags.count("figure") == 7
    for curve in ("perplexity under random masks", "nats per base, one base hidden"):
        assert curve in made.text
    for name in ARMS:
        assert name in made.text
    found = study_report.read_differences(finished / "differences.csv")
    of_bases = study_report.base_sentences(pd.read_csv(finished / "hidden_bases.csv"))
    for sentence in study_report.sentences(found, len(ARMS)) + of_bases:
        assert sentence in re.sub(r"\s+", " ", made.text)


def test_text_of_the_figures_takes_the_pages_colour(finished, tmp_path):
    page.write([finished], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "currentColor" in text and "#010203" not in text
    assert "prefers-color-scheme: dark" in text


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected a folder of launch.study"):
        page.write([tmp_path], tmp_path / "report.html")
    with pytest.raises(InputError, match="none: no such folder"):
        page.write([tmp_path / "none"], tmp_path / "report.html")
    outputs.write_json(tmp_path / "suite.json", {})
    with pytest.raises(InputError, match="no task is evaluated yet"):
        page.write([tmp_path], tmp_path / "report.html")


def test_a_run_whose_table_of_pmi_has_moved_has_its_masks_on_the_page(finished, tmp_path):
    run = shutil.copytree(runs.folder(finished, "cm_gems", 0), tmp_path / "run")
    about = json.loads((run / "config.json").read_text())
    about["pmi"]["table"] = str(tmp_path / "pmi.csv")
    outputs.write_json(run / "config.json", about)
    page.write([run], tmp_path / "report.html")
    assert "Masks by stage" in (tmp_path / "report.html").read_text()
    about["masking"]["ranks"] = "learned"  # since its start: what is recorded is of PMI
    outputs.write_json(run / "config.json", about)
    page.write([run], tmp_path / "report.html")
    assert "Masks by stage" not in (tmp_path / "report.html").read_text()


def test_processes_take_the_gpus_that_they_may_see(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(InputError, match="--processes=2: CUDA_VISIBLE_DEVICES=3 names 1"):
        with study.other_processes(2, tmp_path, []):
            pass
    with study.other_processes(1, tmp_path, []):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


def test_a_study_that_is_not_done_has_a_page_of_what_is(inputs, finished, tmp_path):
    """Of two seeds, the last arm's second is missing: it is compared over the first alone."""
    output = tmp_path / "out"
    output.mkdir()
    study.check_same(output, small_plan(inputs))
    with pytest.raises(InputError, match="no run of the study is done yet"):
        page.write([output], tmp_path / "report.html")
    shutil.copytree(finished, output, dirs_exist_ok=True)
    num_runs = len(list(output.glob("arms/*")))
    about = json.loads((output / study.NAME).read_text())
    other = {"other" if name != "random" else name: arm for name, arm in about["arms"].items()}
    other["other"] = other["other"] | {"name": "other"}
    # Asked for since study.md was written: more seeds, or another arm.
    for change, done in (({"seeds": [*range(6)]}, "4 of 12"), ({"arms": other}, "2 of 4")):
        (output / study.NAME).write_text(json.dumps(about | change))
        page.write([output], tmp_path / "more.html")
        text = re.sub(r"\s+", " ", Page((tmp_path / "more.html").read_text()).text)
        assert f"{done} runs are done" in text
        assert "Nothing is claimed of 2 seeds" in text
    (output / study.NAME).write_text(json.dumps(about))
    for path in [*output.glob("*.csv"), output / "study.md"]:
        path.unlink()
    last = sorted(output.glob("arms/*_seed1/unit.json"))[-1]
    last.unlink()
    page.write([output], tmp_path / "report.html")
    text = re.sub(r"\s+", " ", Page((tmp_path / "report.html").read_text()).text)
    assert f"{num_runs - 1} of {num_runs} runs are done" in text
    for path in output.glob(f"arms/{last.parent.name.removesuffix('_seed1')}_seed*/unit.json"):
        path.unlink()  # none of that arm is
    page.write([output], tmp_path / "one.html")
    text = re.sub(r"\s+", " ", Page((tmp_path / "one.html").read_text()).text)
    assert f"{num_runs - 2} of {num_runs} runs are done" in text
    assert "Nothing is claimed of" in text
