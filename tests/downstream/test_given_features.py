"""Others' embeddings: read, probed as our own are, and refused where they do not fit."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cmgems_jax.downstream.evaluation import evaluate, given_features
from cmgems_jax.downstream.evaluation.settings import EvaluationSettings
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary

NUM_ROWS, NUM_BASES = 40, 20


@pytest.fixture(scope="module")
def run(unbroken):
    """The folder of a run."""
    return unbroken[0]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A task folder, its sequences, and labels that no sequence tells."""
    folder = tmp_path_factory.mktemp("given") / "task"
    folder.mkdir()
    rng = np.random.default_rng(0)
    texts = [vocabulary.decode(codes) for codes in rng.integers(0, 4, (2 * NUM_ROWS, NUM_BASES))]
    labels = rng.integers(0, 2, len(texts))
    for name, rows in (("train", slice(NUM_ROWS)), ("test", slice(NUM_ROWS, None))):
        pairs = zip(texts[rows], labels[rows], strict=True)
        lines = "".join(f"{text}\t{label}\n" for text, label in pairs)
        (folder / f"{name}.tsv").write_text(f"sequence\tlabel\n{lines}")
    return folder, texts, labels


def save(path, texts, features_NF):
    """Writes a file of features."""
    if path.suffix == ".npz":
        np.savez(path, sequences=np.array(texts), embeddings=features_NF)
    else:
        columns = {"sequences": texts, "embeddings": [*features_NF]}
        pq.write_table(pa.table(columns), path)
    return path


def knowing(labels):
    """Returns features that hold the label, among noise."""
    noise_NF = np.random.default_rng(1).normal(0, 0.1, (len(labels), 3))
    return (noise_NF + np.eye(3)[labels]).astype(np.float32)


def settings(task, *features):
    """Returns settings of one cell."""
    return EvaluationSettings(
        tasks=(str(task),), shots=(4,), num_draws=2, modes=("probe",), features=features
    )


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_features_that_know_the_labels_win_and_are_resumed(run, task, tmp_path, suffix):
    folder, texts, labels = task
    order = np.random.default_rng(2).permutation(len(texts))  # a file has its own order
    path = save(tmp_path / f"x{suffix}", [texts[n].lower() for n in order], knowing(labels)[order])
    chosen = settings(folder, f"peer={path}")
    results = evaluate.evaluate([run], tmp_path, tmp_path / "out", chosen)
    of_peer = results[(results.model == "peer") & (results["mode"] == "probe")]
    assert len(of_peer) == 2 and (of_peer.accuracy == 1).all()
    assert (results[results.model == "run"].accuracy < 0.9).all()
    again = evaluate.evaluate([run], tmp_path, tmp_path / "out", chosen)
    assert len(again) == len(results)
    save(path, texts, -knowing(labels))
    with pytest.raises(InputError, match="features of peer"):
        evaluate.evaluate([run], tmp_path, tmp_path / "out", chosen)


def test_a_sequence_that_lacks_is_named_before_any_work(run, task, tmp_path):
    folder, texts, labels = task
    path = save(tmp_path / "x.npz", texts[:-1], knowing(labels)[:-1])
    with pytest.raises(InputError, match=rf"no vector for 1 of 40 .*row 41 .*{texts[-1]}"):
        evaluate.evaluate([run], tmp_path, tmp_path / "out", settings(folder, f"peer={path}"))
    assert not (tmp_path / "out").exists()


def test_a_name_stands_once(run, task, tmp_path):
    folder, texts, labels = task
    path = save(tmp_path / "x.npz", texts, knowing(labels))
    with pytest.raises(InputError, match="two lines of the tables would be called 'run'"):
        evaluate.evaluate([run], tmp_path, tmp_path / "out", settings(folder, f"run={path}"))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("x.npz", "expected NAME=FILE"),
        ("a=none.npz", "none.npz: no such file"),
        ("a=x.txt", "expected a file .npz or .parquet"),
        ("a=text.npz", "text.npz: .*expected 'sequences'"),
        ("a=other.npz", "other.npz: .*expected 'sequences'"),
        ("a=half.npz", "half.npz: .*expected 'sequences'"),
        ("a=array.npz", "array.npz: .*expected 'sequences'"),
        ("a=empty.npz", "empty.npz: .*expected 'sequences'"),
        ("a=flat.npz", r"2 sequences and embeddings \(2,\); expected one"),
        ("a=nan.npz", "vector of row 1 is not finite"),
        ("a=twice.npz", "rows 0 and 1 are of the same sequence .*keep one"),
    ],
)
def test_what_is_no_file_of_features_is_refused(tmp_path, monkeypatch, argument, message):
    monkeypatch.chdir(tmp_path)
    for name in ("x.txt", "text.npz"):
        (tmp_path / name).write_text("no array")
    np.savez("other.npz", ids=np.arange(2))
    save(tmp_path / "half.npz", ["ACGT", "CCGT"], np.ones((2, 1)))
    (tmp_path / "half.npz").write_bytes((tmp_path / "half.npz").read_bytes()[:200])
    np.save("array.npy", np.ones(2))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    (tmp_path / "empty.npz").touch()
    save(tmp_path / "flat.npz", ["ACGT", "CCGT"], np.ones(2))
    save(tmp_path / "nan.npz", ["ACGT", "CCGT"], np.array([[1.0], [np.nan]]))
    save(tmp_path / "twice.npz", ["ACGT", "acgt"], np.array([[1.0], [2.0]]))
    with pytest.raises(InputError, match=message):
        given_features.read(argument)
