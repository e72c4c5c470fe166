"""One classifier on a whole train split: what is written, what is held out, what is refused."""

import dataclasses
import json
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmgems_jax.config import Config, CurriculumConfig, DataConfig, ModelConfig, TokensConfig
from cmgems_jax.downstream.finetuning import classifier, train_classifier
from cmgems_jax.downstream.finetuning import loop as finetuning_loop
from cmgems_jax.downstream.finetuning import steps as draw_steps
from cmgems_jax.downstream.finetuning.settings import FinetuneSettings
from cmgems_jax.downstream.inference import predict
from cmgems_jax.downstream.tasks import tasks
from cmgems_jax.downstream.tasks.files import Examples
from cmgems_jax.downstream.tasks.tasks import Task, TaskData
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.model import heads
from cmgems_jax.pretraining import checkpoints, steps

CONFIG = Config(
    tokens=TokensConfig(k=3),
    data=DataConfig(num_tokens=24),
    curriculum=CurriculumConfig(name="fixed"),
    model=ModelConfig(
        num_layers=1, hidden_size=16, num_heads=2, feedforward_size=32, num_positions=24,
        dropout=0.0, attention_dropout=0.0,
    ),
)  # fmt: skip
SETTINGS = FinetuneSettings(head="cls", peak_lr=1e-2, num_epochs=4, batch_size=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The work folder of a pretraining run of no steps."""
    workdir = tmp_path_factory.mktemp("runs") / "small"
    state, _, _ = steps.make(CONFIG, np.arange(1, 65, dtype=np.int32))
    with checkpoints.opened(workdir, CONFIG) as manager:
        checkpoints.save(manager, state, CONFIG, wait=True)
    return workdir


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    """A task whose classes, rich and poor in A, are easy to tell apart."""
    folder = tmp_path_factory.mktemp("tasks") / "easy"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, num_rows in (("train", 60), ("test", 30)):
        lines = ["sequence\tlabel"]
        for row in range(num_rows):
            shares = [0.7, 0.1, 0.1, 0.1] if row % 2 else [0.1, 0.1, 0.1, 0.7]
            bases = rng.choice(4, 16, p=shares).astype(np.uint8)
            lines.append(f"{vocabulary.decode(bases)}\t{('poor', 'rich')[row % 2]}")
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def test_a_folder_of_text_becomes_a_classifier_whose_scores_can_be_had_again(
    run, task, tmp_path, capsys
):
    output = tmp_path / "made"
    scores = train_classifier.train_classifier(run, str(task), tmp_path, output, SETTINGS)
    assert scores["accuracy"] > 0.9
    printed = capsys.readouterr().out
    assert "6 of 60 train rows, a tenth of every class, held out to choose the epoch" in printed
    assert "kept epoch 4 of 4: dev loss " in printed and "still improving" in printed
    record = json.loads((output / "metrics.json").read_text())
    assert record["rows"] == {"train": 54, "dev": 6, "test": 30}
    assert record["test"] == scores
    assert len(record["losses"]) == len(record["dev_mcc"]) == 4
    assert record["losses"][-1] < record["losses"][0]
    assert record["dev_losses"][record["epoch_kept"] - 1] == min(record["dev_losses"])

    loaded = classifier.load_classifier(output)
    assert (loaded.config, loaded.max_tokens) == (CONFIG, 16)
    assert sorted(loaded.label_names) == ["poor", "rich"]
    test = tasks.load(str(task), tmp_path, k=3).test
    rows = [[2, *vocabulary.tokenize(bases, 3), 3] for bases in test.bases_NM]
    model = heads.Classifier(CONFIG.model, CONFIG.tokens, 2)
    logits = jax.jit(model.apply)({"params": loaded.params}, jnp.array(rows, jnp.int32))
    assert float((np.argmax(logits, axis=1) == test.labels_N).mean()) == scores["accuracy"]
    saved = json.loads((output / "classifier.json").read_text())
    assert (saved["task"], saved["source"]) == ("easy", str(run))
    assert saved["recipe"]["peak_lr"] == 1e-2


def test_an_own_task_gets_a_features_head_whose_scores_can_be_had_again(
    run, task, tmp_path, capsys
):
    """The rate is so small that the probe, the start, is as good as any epoch."""
    output = tmp_path / "made"
    settings = FinetuneSettings(peak_lr=1e-6, num_epochs=3)
    scores = train_classifier.train_classifier(run, str(task), tmp_path, output, settings)
    lines = capsys.readouterr().out.splitlines()
    epochs = [line.partition(":")[0] for line in lines if line.startswith("epoch ")]
    assert epochs == [f"epoch {epoch} of 3" for epoch in range(4)]
    record = json.loads((output / "metrics.json").read_text())
    assert record["first_dev_epoch"] == 0 and len(record["dev_losses"]) == 4
    loaded = classifier.load_classifier(output)
    assert loaded.head == "features" == json.loads((output / "classifier.json").read_text())["head"]
    assert sorted(loaded.params) == ["classifier", "encoder"]
    test = tasks.load(str(task), tmp_path, k=3).test
    logits = jax.jit(predict.logits_function(loaded))(loaded.params, test.bases_NM)
    right_N = np.asarray(logits).argmax(axis=1) == test.labels_N
    assert right_N.mean() == scores["accuracy"] > 0.8


def test_the_held_out_tenth_has_every_class_and_one_row_alone_is_trained_on(capsys):
    """4 % positives: of 200 rows 8, a tenth of which is one, and of the 192 others 19."""
    labels_N = np.repeat(np.arange(3, dtype=np.int32), (192, 8, 1))
    rows = Examples(np.zeros((201, 9), np.uint8), labels_N, np.arange(201), "x")
    data = TaskData(Task("mine", "own", 3, "mcc"), rows, None, rows, ["a", "b", "c"], [])
    for seed in range(4):
        split = train_classifier._with_dev(data, seed)
        train, dev = split.train, split.dev
        assert np.bincount(dev.labels_N, minlength=3).tolist() == [19, 1, 0]
        assert np.bincount(train.labels_N, minlength=3).tolist() == [173, 7, 1]
        assert sorted([*train.rows_N, *dev.rows_N]) == list(range(201))
    assert data.notes[-1].startswith("the held-out tenth has no row of class c: ")
    data.train = rows.take(np.array([0, 199, 200]))
    with pytest.raises(InputError, match="one row per class, so none can be held out"):
        train_classifier._with_dev(data, 0)


@pytest.mark.parametrize(("num_chunks", "is_kept"), [(4, True), (0, False)])
def test_an_interrupted_training_keeps_its_best_epoch_or_says_that_nothing_was_kept(
    num_chunks, is_kept, run, task, tmp_path, capsys, monkeypatch
):
    """An epoch is 7 steps: in chunks of 3, the second epoch begins with the fourth chunk."""
    monkeypatch.setattr(finetuning_loop, "_CHUNK_STEPS", 3)
    asked, make = [], draw_steps.make

    def make_interrupted(*arguments):
        programs = make(*arguments)

        def train(*values):
            asked.append(1)
            if len(asked) > num_chunks:
                signal.raise_signal(signal.SIGINT)
            return programs.train(*values)

        return programs._replace(train=train)

    monkeypatch.setattr(draw_steps, "make", make_interrupted)
    output = tmp_path / "made"
    with pytest.raises(KeyboardInterrupt):
        train_classifier.train_classifier(run, str(task), tmp_path, output, SETTINGS)
    assert len(asked) == num_chunks + 1
    assert (output / "classifier.json").exists() == (output / "metrics.json").exists()
    printed = capsys.readouterr().out
    assert ("SIGINT ended the training" in printed) == is_kept == (output / "metrics.json").exists()
    assert ("SIGINT in the first epoch: nothing was kept" in printed) == (not is_kept)


def test_a_folder_of_other_files_or_one_that_cannot_be_made_is_refused_at_once(run, task, tmp_path):
    (tmp_path / "file").touch()
    for output, message in {
        run: "holds other files",
        task: "holds other files",
        tmp_path / "file" / "made": "cannot be made in",
    }.items():
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(InputError, match=f"--output={output}: {message}"):
            train_classifier.train_classifier(run, str(task), tmp_path, output, SETTINGS)
        assert sorted(tmp_path.rglob("*")) == before


def test_bad_input_makes_no_folder(run, tmp_path):
    with pytest.raises(InputError):
        train_classifier.train_classifier(
            run, "no_such_task", tmp_path, tmp_path / "made", SETTINGS
        )
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("suite", "name", "expected"),
    [
        ("fewshot", "prom_core", (1e-4, 20, 5)),
        ("gue", "mouse/2", (3e-5, 5, 32)),
        ("own", "mine", (5e-5, 10, 5)),
    ],
)
def test_the_recipe_is_the_tasks_but_for_what_is_changed(suite, name, expected):
    labels = np.repeat(np.arange(2, dtype=np.int32), 10)
    rows = Examples(np.zeros((20, 9), np.uint8), labels, labels, "x")
    data = TaskData(Task(name, suite, 2, "mcc"), rows, None, rows, ["a", "b"], [])
    recipe = train_classifier._recipe(data, FinetuneSettings(), 128)
    assert (recipe.peak_lr, recipe.num_epochs, recipe.batch_size) == expected
    changed = train_classifier._recipe(data, FinetuneSettings(num_epochs=1), 128)
    assert changed == dataclasses.replace(recipe, num_epochs=1, max_steps=0)
