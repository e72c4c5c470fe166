"""A suite from end to end: the same draws for all, resumed where stopped, honest tables."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

from cmgems_jax.downstream.evaluation import evaluate, methods, suite
from cmgems_jax.downstream.evaluation import report as evaluation_report
from cmgems_jax.downstream.evaluation.settings import EvaluationSettings
from cmgems_jax.downstream.tasks import metrics
from cmgems_jax.downstream.tasks.table import Task
from cmgems_jax.downstream.tasks.tasks import TaskData
from cmgems_jax.errors import InputError
from cmgems_jax.pretraining import pretrained
from cmgems_jax.pretraining.pretrained import Pretrained
from cmgems_jax.runtime import pictures

SHOTS, NUM_DRAWS = 4, 2
LINES = 2 * 2 + 3  # model and untrained in two modes; two regressions, majority


@pytest.fixture(scope="module")
def inputs(unbroken, tmp_path_factory) -> tuple[Path, Path]:
    """A pretraining run's folder, and a task: class 1 is rich in G and C."""
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    (folder / "task").mkdir()
    for split, num_rows in (("train", 100), ("test", 40)):
        rows = []
        for number in range(num_rows):
            share = [0.1, 0.1, 0.4, 0.4] if number % 2 else [0.4, 0.4, 0.1, 0.1]
            rows.append(f"{''.join(rng.choice(list('ATCG'), 24, p=share))}\t{number % 2}\n")
        (folder / "task" / f"{split}.tsv").write_text("sequence\tlabel\n" + "".join(rows))
    return unbroken[0], folder / "task"


def settings(task: Path, **changes: object) -> EvaluationSettings:
    """Returns a few-shot suite of one own task."""
    chosen = {"tasks": (str(task),), "shots": (SHOTS,), "num_draws": NUM_DRAWS, **changes}
    return EvaluationSettings("fewshot", **chosen)


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory) -> tuple[pd.DataFrame, Path]:
    """The suite's results and its folder."""
    run, task = inputs
    output = tmp_path_factory.mktemp("suite") / "out"
    return evaluate.evaluate([run], Path("."), output, settings(task)), output


def test_every_line_has_every_draw_and_every_metric(finished):
    results, output = finished
    assert len(results) == LINES * NUM_DRAWS
    assert set(results.draw) == set(range(NUM_DRAWS))
    assert results[["accuracy", "macro_f1", "mcc", "auroc"]].notna().all(axis=None)
    pd.testing.assert_frame_equal(pd.read_csv(output / "results.csv"), results)
    for name in ("summary.csv", "report.md", "suite.json", "environment.json"):
        assert (output / name).stat().st_size
    assert (output / "results.png").read_bytes().startswith(b"\x89PNG")


def test_the_manifest_names_the_rows_of_every_draw(finished, inputs):
    manifest = json.loads((finished[1] / "draws" / f"task_{SHOTS}.json").read_text())
    lines = (inputs[1] / "train.tsv").read_text().splitlines()
    assert len(manifest["rows"]) == NUM_DRAWS
    for rows in manifest["rows"]:
        labels = [lines[row - 1].split("\t")[1] for row in rows]
        assert sorted(labels) == ["0"] * SHOTS + ["1"] * SHOTS


def test_a_finished_suite_runs_nothing_again(finished, inputs, monkeypatch):
    results, output = finished
    monkeypatch.setattr(evaluate, "_run", None)
    again = evaluate.evaluate([inputs[0]], Path("."), output, settings(inputs[1]))
    pd.testing.assert_frame_equal(again, results)


def test_a_stopped_suite_runs_what_is_missing_and_ends_with_the_same_numbers(
    finished, inputs, tmp_path
):
    results, output = finished
    shutil.copy(output / "suite.json", tmp_path)
    kept = results[results["mode"] != methods.BASELINE]
    kept.to_csv(tmp_path / "results.csv", index=False)
    again = evaluate.evaluate([inputs[0]], Path("."), tmp_path, settings(inputs[1]))
    columns = [name for name in results if name != "seconds"]
    pd.testing.assert_frame_equal(again[columns], results[columns])


def test_the_seed_is_added_to_that_of_gues_published_recipe(monkeypatch, inputs):
    seeds = []
    monkeypatch.setattr(
        methods.finetuning_loop, "train_draws", lambda *_, seed, **__: seeds.append(seed)
    )
    task = Task("mouse/0", "gue", 2, "mcc")
    model, data = pretrained.load(inputs[0]), TaskData(task, None, None, None, [], [])
    for seed in (0, 1):
        chosen = EvaluationSettings(suite="gue", seed=seed)
        with pytest.raises(AttributeError):  # behind the training: no test rows
            methods._finetune(model, chosen, "cls", data, np.zeros((1, 4), int), 0)
    assert seeds == [42, 43]


def test_fewer_test_rows_are_the_same_for_every_line_and_said(inputs, tmp_path):
    """With 10 rows every accuracy is a multiple of a tenth."""
    chosen = settings(inputs[1], modes=("probe",), test_rows=10)
    results = evaluate.evaluate([inputs[0]], Path("."), tmp_path, chosen)
    np.testing.assert_allclose(results.accuracy, results.accuracy.round(1), atol=1e-12)
    text = (tmp_path / "report.md").read_text()
    assert "scored on 10 of 40 test rows" in text and "Strand that models read: forward." in text


def test_draws_in_groups_give_the_same_numbers_and_are_kept_as_they_come(
    finished, inputs, tmp_path
):
    """Of a suite stopped after its first group, that group's seconds are those that it took."""
    together = finished[0].iloc[:NUM_DRAWS]
    together.iloc[:1].assign(seconds=7.0).to_csv(tmp_path / "results.csv", index=False)
    chosen = settings(inputs[1], modes=("finetune",), draws_at_once=1, baselines=False)
    grouped = evaluate.evaluate([inputs[0]], Path("."), tmp_path, chosen)
    assert list(grouped.seconds == 7.0) == [True] + [False] * (NUM_DRAWS - 1)
    columns = ["model", "mode", "shots", "draw"]
    pd.testing.assert_frame_equal(grouped[columns], together[columns])
    np.testing.assert_allclose(grouped.auroc, together.auroc, atol=0.01)


def test_a_set_without_train_stays_marked_when_the_suite_goes_on_with_others(inputs, tmp_path):
    run, task = inputs
    shutil.copytree(task, tmp_path / "bare")
    (tmp_path / "bare" / "train.tsv").rename(tmp_path / "bare" / "dev.tsv")
    for folder in (tmp_path / "bare", task):
        chosen = settings(folder, modes=("probe",), baselines=False)
        evaluate.evaluate([run], Path("."), tmp_path / "out", chosen)
    sections = (tmp_path / "out" / "report.md").read_text().split("\n## ")
    marked = [text.partition(":")[0] for text in sections if "trained on dev" in text]
    assert marked == ["bare"] and any(text.startswith("task:") for text in sections)


def test_another_rate_or_head_stands_beside_the_usual_one(finished, inputs, tmp_path):
    """The folder goes on, and only the new lines are run."""
    results, output = finished
    shutil.copytree(output, tmp_path / "out")
    chosen = settings(inputs[1], modes=("finetune",), heads=("cls",), peak_lr=1e-9)
    again = evaluate.evaluate([inputs[0]], Path("."), tmp_path / "out", chosen)
    new = again[again["mode"] == "finetune, lr 1e-09"]
    assert len(again) == len(results) + len(new) and len(new) == 2 * NUM_DRAWS
    usual = again[again["mode"] == "finetune, features head"]
    assert len(usual) == len(new) and not np.allclose(new.auroc, usual.auroc)


def test_a_published_task_is_fine_tuned_as_published_unless_a_head_is_asked_for(inputs):
    models = evaluate._load([inputs[0]])
    published, own = Task("prom_core", "fewshot", 2, "accuracy"), Task("mine", "own", 2, "mcc")
    for heads, expected in (
        ((), ["finetune", "finetune, features head"]),
        (("features",), ["finetune, features head"] * 2),
    ):
        chosen = settings(inputs[1], modes=("finetune",), heads=heads, baselines=False)
        lines = methods.compared(models, [], chosen)
        asked = [methods.of_task(lines, task, chosen) for task in (published, own)]
        assert [[line.mode for line in of_task] for of_task in asked] == [[e] for e in expected]


def test_results_of_other_settings_are_refused(finished, inputs):
    with pytest.raises(InputError, match="num_draws: 2 before, 3 now"):
        evaluate.evaluate([inputs[0]], Path("."), finished[1], settings(inputs[1], num_draws=3))


def test_another_step_or_other_rows_are_refused_with_a_table(
    finished, inputs, tmp_path, monkeypatch
):
    """A copy of the same rows in another folder is the same task, and the suite goes on."""
    (run, task), (results, output) = inputs, finished
    output = shutil.copytree(output, tmp_path / "out")  # suite.json will name the other folder
    monkeypatch.setattr(evaluate, "_run", None)
    copy = tmp_path / "elsewhere" / "task"
    shutil.copytree(task, copy)
    again = evaluate.evaluate([run], Path("."), output, settings(copy))
    pd.testing.assert_frame_equal(again, results)
    text = (copy / "test.tsv").read_text().replace("\t0\n", "\t1\n", 1)
    (copy / "test.tsv").write_text(text)
    with pytest.raises(InputError, match=r"\n  rows of task, 4 shots: .*'folder': .*elsewhere"):
        evaluate.evaluate([run], Path("."), output, settings(copy))
    (model,) = evaluate._load([run])
    later = dataclasses.replace(model, step=model.step + 1)
    monkeypatch.setattr(evaluate, "_load", lambda _: [later])
    with pytest.raises(InputError, match=rf"\n  models: .*'step': {model.step}.*{later.step}"):
        evaluate.evaluate([run], Path("."), output, settings(task))


def test_bad_input_leaves_no_settings_behind(inputs, tmp_path):
    """One row is too long for the model: found before anything is written."""
    run, task = inputs
    shutil.copytree(task, tmp_path / "task")
    with (tmp_path / "task" / "test.tsv").open("a") as file:
        file.write("ACGT" * 100 + "\t1\n")
    with pytest.raises(InputError, match="give --long_sequences=truncate or window"):
        evaluate.evaluate([run], Path("."), tmp_path / "out", settings(tmp_path / "task"))
    assert not (tmp_path / "out").exists()


def test_settings_without_results_bind_nobody(inputs, tmp_path):
    models = evaluate._load([inputs[0]])
    for num_draws in (2, 3):
        chosen = settings(inputs[1], num_draws=num_draws)
        suite.check_same(tmp_path, chosen, [inputs[0]], models, [], {})
    assert json.loads((tmp_path / "suite.json").read_text())["num_draws"] == 3


def test_results_of_an_earlier_version_go_on_with_a_word(finished, inputs, tmp_path, capsys):
    """It recorded the checkpoint's path alone, and knew fewer settings."""
    shutil.copytree(finished[1], tmp_path / "out")
    path = tmp_path / "out" / "suite.json"
    new = ("models", "tasks", "metric", "sequence_column", "label_column")
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({name: saved[name] for name in saved if name not in new}))
    evaluate.evaluate([inputs[0]], Path("."), tmp_path / "out", settings(inputs[1]))
    assert "its results are taken to be of these" in capsys.readouterr().out
    assert json.loads(path.read_text()) == saved


def test_folders_named_1_and_na_are_done_once(inputs, tmp_path):
    run, task = inputs
    shutil.copytree(run, tmp_path / "1")
    shutil.copytree(task, tmp_path / "NA")
    chosen = settings(tmp_path / "NA", modes=("probe",), baselines=False)
    for _ in range(2):
        results = evaluate.evaluate([tmp_path / "1"], Path("."), tmp_path / "out", chosen)
    assert len(results) == NUM_DRAWS
    assert set(results.model) == {"1"} and set(results.task) == {"NA"}


@pytest.mark.parametrize("names", [("untrained",), ("a", "a", "a_2")])
def test_two_models_of_one_name_are_refused(names, monkeypatch):
    loaded = iter([Pretrained(None, {}, name) for name in names])
    monkeypatch.setattr(evaluate.pretrained, "load", lambda _: next(loaded))
    models = evaluate._load([Path(name) for name in names])
    with pytest.raises(InputError, match="two lines of the tables would be called"):
        evaluate._check_names([model.name for model in models])


def test_a_task_of_another_suite_is_refused_before_any_file(inputs, tmp_path):
    with pytest.raises(InputError, match="prom_cor"):
        evaluate.evaluate(
            [inputs[0]], Path("."), tmp_path / "out", settings(inputs[1], tasks=("prom_cor",))
        )
    assert not (tmp_path / "out").exists()


def test_more_shots_than_any_task_has_rows_are_refused(inputs, tmp_path):
    with pytest.raises(
        InputError, match="nothing to evaluate: .* 50 rows of class .*, expected at least 51"
    ):
        evaluate.evaluate(
            [inputs[0]], Path("."), tmp_path / "out", settings(inputs[1], shots=(51, 99))
        )
    assert not (tmp_path / "out").exists()


def test_draws_that_are_the_whole_pool_have_no_interval_and_nothing_is_bold(inputs, tmp_path):
    """50 rows a class of 50: every draw is the same, and so is every score."""
    chosen = settings(inputs[1], modes=("probe",), shots=(50,), num_draws=6)
    results = evaluate.evaluate([inputs[0]], Path("."), tmp_path, chosen)
    assert (results.overlap == 1).all()
    tables = (tmp_path / "report.md").read_text().partition("\n## ")[2]
    assert "**" not in tables and not re.search(r"\d \[", tables)
    means = pd.read_csv(tmp_path / "summary.csv")
    assert means.mcc.notna().all() and means.mcc_low.isna().all()


def test_results_of_an_earlier_version_are_reported_over_draws_alone_and_said(finished, tmp_path):
    results, output = finished
    report = (output / "report.md").read_text()
    assert re.search(r"\d\.\d+ \[.*\]", report) and "draws only" not in report
    old = results.drop(columns="overlap")
    evaluation_report.write(old, {}, tmp_path, first=results.model[0])
    report = (tmp_path / "report.md").read_text()
    assert evaluation_report.EARLIER in report and "] (draws only)" in report


def test_differences_are_paired_by_draw_and_their_interval_is_students():
    """By hand: differences .1, .2, .3 have mean .2, sd .1, and t(2) at 97.5 % is 4.3027."""
    shared = {"task": "t", "shots": 10, "metric": "mcc"}
    own, other = [0.5, 0.7, 0.9], [0.4, 0.5, 0.6]
    rows = [
        {"model": name, "mode": "probe", "draw": draw, "mcc": value, **shared}
        for name, values in (("mine", own), ("theirs", other))
        for draw, value in enumerate(values)
    ]
    (row,) = evaluation_report.differences(pd.DataFrame(rows[::-1]), "mine").to_dict("records")
    assert (row["model"], row["mode"], row["other_mode"]) == ("theirs", "probe", "probe")
    half = 4.302652 * 0.1 / np.sqrt(3)
    np.testing.assert_allclose(
        [row["difference"], row["low"], row["high"]], [0.2, 0.2 - half, 0.2 + half], rtol=1e-6
    )


def line(model: str, mode: str, mean: float, shots: int) -> pd.DataFrame:
    """Returns six draws of a line around a mean, with scores on resampled test rows."""
    rng = np.random.default_rng((len(model), len(mode), shots))
    values = mean + np.array([-0.01, 0.01, 0.0, 0.02, -0.02, 0.0])
    shape = (metrics.NUM_RESAMPLES, len(metrics.NAMES))
    rows = pd.DataFrame({"model": model, "mode": mode, "draw": range(6), "accuracy": values})
    scores = [(value + rng.normal(0, 0.002, shape)).astype(np.float32) for value in values]
    shared = {"task": "t", "shots": shots, "metric": "accuracy", "overlap": 0.0}
    return rows.assign(**shared, resampled=scores)


def test_what_is_shown_stands_in_words_and_modes_are_not_mixed():
    features = "finetune, features head"
    results = pd.concat(
        [
            line("mine", features, 0.9, 10), line("mine", features, 0.9, 100),
            line("mine", "probe", 0.8, 10), line("untrained", features, 0.9, 10),
            line("untrained", "probe", 0.85, 10), line("k-mers", methods.BASELINE, 0.7, 10),
            line("k-mers", methods.BASELINE, 0.9, 100), line("majority class", "baseline", 0.5, 10),
        ]
    )  # fmt: skip
    compared = evaluation_report.differences(results, "mine")
    pairs = set(zip(compared["mode"], compared.model, compared.other_mode, strict=True))
    expected = {(features, "mine", "probe")}
    for mode in (features, "probe"):
        expected |= {(mode, "untrained", mode), (mode, "k-mers", "baseline")}
        expected |= {(mode, "majority class", "baseline")}
    assert pairs == expected
    said = "\n".join(evaluation_report.sentences(compared, "mine"))
    number = r"0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]"
    for sentence in (
        rf"mine \({features}\) against k-mers: above on t at 10 shots by {number}; not shown on "
        r"t at 100 shots\.",
        rf"mine \({features}\) against its own probe: above on t at 10 shots by {number}\.",
        rf"mine \({features}\) against untrained: no difference is shown\.",
        rf"mine \(probe\) against untrained: below on t at 10 shots by {number}\.",
    ):
        assert re.search(sentence, said), said
    assert "majority" not in said and "Nothing is claimed" not in said
    few = evaluation_report.sentences(
        evaluation_report.differences(results[results.draw < 4], "mine"), "mine"
    )
    assert few[-1].startswith("Nothing is claimed of 4 draws")


def test_a_panel_shows_its_whole_title_and_its_numbers_apart_however_long_a_name():
    name = "human6-nano (finetune, features head, lr 5e-05)"
    values = {"task": "prom/prom_core_notata", "shots": 100, "metric": "accuracy"}
    values |= {"accuracy": 0.75, "accuracy_low": 0.711, "accuracy_high": 0.789}
    with matplotlib.rc_context(pictures.STYLE):
        figure = evaluation_report.means_figure([(name, False, values)])
        figure.draw_without_rendering()
        (axes,), width = figure.axes, figure.bbox.width
        assert axes._left_title.get_window_extent().x1 <= width
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert len(boxes) > 1
        assert all(box.x1 < other.x0 for box, other in zip(boxes, boxes[1:], strict=False))
