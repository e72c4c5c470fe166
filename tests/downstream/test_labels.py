"""Labels beside classes: numbers, several labels per row; from the file to a prediction."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from cmgems_jax.downstream.evaluation import baselines, evaluate
from cmgems_jax.downstream.evaluation.settings import EvaluationSettings
from cmgems_jax.downstream.finetuning import classifier, probe
from cmgems_jax.downstream.finetuning import loop as finetuning_loop
from cmgems_jax.downstream.finetuning.recipes import Recipe
from cmgems_jax.downstream.inference import predict
from cmgems_jax.downstream.tasks import labels, metrics, tasks
from cmgems_jax.downstream.tasks.settings import TaskSettings
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.model import heads
from tests.downstream.small_task import LOUD

DNA = ("ACGTACGTAA", "CCGTACGTAC", "GCGTACGTAG", "TCGTACGTAT")


def load(folder: Path, cells: list[str], header: str = "label", **asked: str) -> tasks.TaskData:
    """Returns a task whose train and test hold these cells, of one or several columns."""
    folder.mkdir(exist_ok=True)
    rows = "".join(f"{DNA[n % 4]}\t{cell}\n" for n, cell in enumerate(cells))
    for split in ("train", "test"):
        (folder / f"{split}.tsv").write_text(f"sequence\t{header}\n{rows}")
    return tasks.load(folder, folder.parent, TaskSettings(**asked), k=3)


TWO = {"label_column": "a,b", "header": "a\tb"}


@pytest.mark.parametrize(
    ("cells", "options", "kind", "names", "values"),
    [
        (["1", "0.5", "-2e-1"], {}, "numbers", ["label"], [[1], [0.5], [-0.2]]),
        (["3", "7", "4"], {"labels": "numbers"}, "numbers", ["label"], [[3], [7], [4]]),
        (["1;2.5", "0;3"], {}, "numbers", ["label_1", "label_2"], [[1, 2.5], [0, 3]]),
        (["1\t2.5", "0\t3"], TWO, "numbers", ["a", "b"], [[1, 2.5], [0, 3]]),
        (["1\t0", "1\t1"], TWO, "multilabel", ["a", "b"], [[1, 0], [1, 1]]),
        (
            ["x;y", "", "y"], {"labels": "multilabel"}, "multilabel", ["x", "y"],
            [[1, 1], [0, 0], [0, 1]],
        ),
        (["2.5 kb", "3.5 kb"], {}, "classes", ["2.5 kb", "3.5 kb"], [0, 1]),
        (["1.0", "0.0"], {}, "classes", ["0", "1"], [1, 0]),
    ],
)  # fmt: skip
def test_a_file_says_what_its_labels_are_where_that_is_plain(
    cells, options, kind, names, values, tmp_path
):
    data = load(tmp_path / "task", cells, **options)
    assert (data.task.labels, data.label_names) == (kind, names)
    assert data.task.metric == metrics.MAIN[kind] and data.task.num_classes == len(names)
    np.testing.assert_array_equal(data.test.labels_N, np.array(values, data.test.labels_N.dtype))


@pytest.mark.parametrize(
    ("cells", "options", "message"),
    [
        (["1.5", "high", "2"], {}, r"train.tsv: row 3: 'high' is no number, others are"),
        (["1.5", "nan"], {}, r"row 3: 'nan' is no number"),
        (["1,5", "2"], {"labels": "numbers"}, r"row 2: '1,5' is no number.* as 2.4"),
        (["1.5;2", "1"], {}, r"row 3: 1 numbers, expected 2"),
        (["1\t0", "2\t1"], TWO | {"labels": "multilabel"}, r"row 3: labels '2;1'; expected 0 or 1"),
        (["1.5", "2"], {"labels": "classes"}, r"row 2: label '1.5' is a decimal.*--labels=numbers"),
        (["", ""], {"labels": "multilabel"}, r"no row has a label"),
        (["1.5", "2"], {"metric": "mcc"}, r"--metric=mcc: .* are numbers; expected one of pearson"),
    ],
)
def test_labels_that_do_not_fit_are_named_with_their_row(cells, options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load(tmp_path / "task", cells, **options)


def test_scores_are_scipys_and_scikit_learns_with_ties_and_on_resampled_rows():
    rng = np.random.default_rng(0)
    numbers_NC = rng.normal(size=(60, 2)).round(1)
    predicted_NC = (numbers_NC + rng.normal(size=(60, 2))).round(1)
    marks_NC, share_NC = (rng.random((60, 3)) < 0.3).astype(float), rng.random((60, 3)).round(1)

    def expected(rows: np.ndarray) -> list[float]:
        true, said = numbers_NC[rows], predicted_NC[rows]
        pairs = list(zip(true.T, said.T, strict=True))
        return [
            sklearn.metrics.roc_auc_score(marks_NC[rows], share_NC[rows]),
            sklearn.metrics.average_precision_score(marks_NC[rows], share_NC[rows]),
            np.mean([scipy.stats.pearsonr(*pair)[0] for pair in pairs]),
            np.mean([scipy.stats.spearmanr(*pair)[0] for pair in pairs]),
            sklearn.metrics.r2_score(true, said),
        ]

    found = metrics.score(marks_NC, share_NC, "multilabel")
    found |= metrics.score(numbers_NC, predicted_NC, "numbers")
    np.testing.assert_allclose(list(found.values()), expected(np.arange(60)), atol=1e-12)
    resampled = {
        "multilabel": metrics.resampled(marks_NC, share_NC, "multilabel"),
        "numbers": metrics.resampled(numbers_NC, predicted_NC, "numbers"),
    }
    resamples = np.concatenate(
        [
            scores_BM[:, [metrics.NAMES.index(name) for name in metrics.OF_KIND[kind]]]
            for kind, scores_BM in resampled.items()
        ],
        axis=1,
    )
    drawn = np.random.default_rng((42, 60))
    for number in range(3):
        np.testing.assert_allclose(
            resamples[number], expected(drawn.integers(0, 60, 60)), atol=1e-6
        )


def planted(kind: str, num_train: int = 120, num_test: int = 60) -> tasks.TaskData:
    """Returns sequences of 16 bases whose labels follow from their composition."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(4), num_train + num_test)
    bases_NM = np.array([rng.choice(4, 16, p=share) for share in shares], np.uint8)
    counts_N4 = (bases_NM[:, :, None] == np.arange(4)).mean(axis=1)
    values_NC = np.stack([100 + 40 * counts_N4[:, 0], 3 * counts_N4[:, 3]], axis=1)
    if kind == labels.MULTILABEL:
        values_NC = values_NC > np.median(values_NC, axis=0)
    names = ["much_A", "much_G"]
    every = tasks.Examples(
        bases_NM, values_NC.astype(np.float32), np.arange(len(bases_NM)) + 2, "planted.tsv"
    )
    task = tasks.Task("planted", "own", 2, metrics.MAIN[kind], labels=kind)
    is_train = np.arange(len(bases_NM)) < num_train
    return tasks.TaskData(task, every.take(is_train), None, every.take(~is_train), names, [])


@pytest.mark.parametrize("kind", [labels.NUMBERS, labels.MULTILABEL])
def test_a_planted_signal_is_recovered_by_probe_kmers_and_a_trained_features_head(kind, tmp_path):
    """Of numbers the exact ones; the head starts at the probe, ends better, and predicts so."""
    data = planted(kind)
    every = np.arange(len(data.train.labels_N))[None]
    weight_F = heads.feature_weights(LOUD.config.model)
    splits = [probe.features(LOUD, rows) for rows in (data.train, data.test)]
    (probed_NC,) = probe.probe(splits[0], data.train.labels_N, every, splits[1], 2, kind, weight_F)
    ((kmers_NC, _),) = baselines.kmer_regression(data, every, seed=0, k=1)
    still = Recipe(peak_lr=0.0, num_epochs=1, batch_size=16, head="features", dropout=0.0)
    learning = dataclasses.replace(still, peak_lr=5e-4, num_epochs=10)
    start, trained = (
        finetuning_loop.train_draws(LOUD, data, every, recipe, seed=0)
        for recipe in (still, learning)
    )
    (started_NC,), (ended_NC,) = (
        finetuning_loop.probabilities(one, data.test) for one in (start, trained)
    )
    np.testing.assert_allclose(started_NC, probed_NC, rtol=1e-4, atol=1e-4)
    name = "spearman" if kind == labels.NUMBERS else "auroc"
    truth = data.test.labels_N
    scores = {
        line: metrics.score(truth, said_NC, kind)[name]
        for line, said_NC in (("k-mers", kmers_NC), ("probe", probed_NC), ("head", ended_NC))
    }
    assert min(scores.values()) > 0.8, scores
    assert trained.targets.losses(ended_NC[None], truth) < trained.targets.losses(
        probed_NC[None], truth
    )
    made = classifier.TrainedClassifier(
        LOUD.config, trained.of_draw(0), data.label_names, 16, head="features", labels=kind
    )
    classifier.save_classifier(tmp_path / "made", made, task="t", recipe={}, source="x")
    records = "".join(
        f">{number}\n{vocabulary.decode(bases)}\n"
        for number, bases in enumerate(data.test.bases_NM[:9])
    )
    (tmp_path / "x.fa").write_text(records)
    loaded = classifier.load_classifier(tmp_path / "made")
    predict.predict(loaded, [str(tmp_path / "x.fa")], tmp_path / "out.tsv")
    header, *rows = (line.split("\t") for line in (tmp_path / "out.tsv").read_text().splitlines())
    if kind == labels.NUMBERS:
        assert header == ["record", "windows", "strand", "much_A", "much_G"]
    else:
        assert header == ["record", "windows", "strand", "prediction", "p_much_A", "p_much_G"]
        chosen = [";".join(np.array(data.label_names)[row_C >= 0.5]) for row_C in ended_NC[:9]]
        assert [row[3] for row in rows] == chosen
    np.testing.assert_allclose(
        [[float(cell) for cell in row[-2:]] for row in rows], ended_NC[:9], rtol=1e-4, atol=1e-5
    )


def test_a_suite_scores_numbers_beside_ridge_regression(unbroken, tmp_path):
    """Draws are of so many rows in all; the tables name the metrics of numbers."""
    data = planted(labels.NUMBERS)
    folder = tmp_path / "planted"
    folder.mkdir()
    for split in ("train", "test"):
        rows = getattr(data, split)
        lines = [
            f"{vocabulary.decode(bases)}\t{value[0]:.3f}\n"
            for bases, value in zip(rows.bases_NM, rows.labels_N, strict=True)
        ]
        (folder / f"{split}.tsv").write_text("sequence\tlabel\n" + "".join(lines))
    settings = EvaluationSettings(
        "fewshot", tasks=(str(folder),), shots=(40,), num_draws=2, modes=("probe",)
    )
    results = evaluate.evaluate([unbroken[0]], tmp_path, tmp_path / "out", settings)
    names = [f"k-mer ridge regression, {how}" for how in ("k chosen", "k=3")]
    assert list(results.model.unique()) == ["run", "untrained", *names]
    assert "mcc" not in results and results[["pearson", "spearman", "r2"]].notna().all(axis=None)
    assert results[results.model == names[0]].pearson.min() > 0.9
    assert "planted: pearson, mean" in (tmp_path / "out" / "report.md").read_text()
