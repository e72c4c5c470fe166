"""The planted task: balanced, reproducible, with the signal where it should be."""

import numpy as np
import pytest

from cmgems_jax.downstream.tasks import synthetic as synthetic_task
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.windows import synthetic_genome


@pytest.fixture(scope="module")
def rows() -> tuple[list[str], np.ndarray]:
    """Letters and labels of 400 rows whose copies are the repeat's, letter by letter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic_genome, "DIVERGED", 0.0)
        bases_NM, labels_N = synthetic_task.sample(400, np.random.default_rng(0))
    return [vocabulary.decode(bases_M) for bases_M in bases_NM], labels_N


def test_half_of_the_rows_are_positive(rows):
    assert rows[1].mean() == 0.5


def test_exactly_the_positives_hold_a_piece_of_the_repeat(rows):
    repeat = vocabulary.decode(synthetic_genome.repeat())
    held = [any(row[start : start + 40] in repeat for start in range(21)) for row in rows[0]]
    np.testing.assert_array_equal(held, rows[1] == 1)


def test_counts_of_bases_tell_nothing(rows):
    """The letters of the copies are the same in both classes, but shuffled in one."""
    counts_N3 = np.array([[row.count(base) for base in "ACG"] for row in rows[0]])
    gap_3 = np.abs(counts_N3[rows[1] == 1].mean(axis=0) - counts_N3[rows[1] == 0].mean(axis=0))
    error_3 = counts_N3.std(axis=0) * np.sqrt(4 / len(rows[1]))
    assert (gap_3 < 3.5 * error_3).all()


def test_the_same_seed_writes_the_same_files(tmp_path):
    for name in ("a", "b"):
        synthetic_task.write(tmp_path / name, num_train=20, num_test=10, seed=3)
    for split, num_rows in (("train", 20), ("test", 10)):
        text = (tmp_path / "a" / f"{split}.tsv").read_text()
        assert text == (tmp_path / "b" / f"{split}.tsv").read_text()
        assert text.startswith("sequence\tlabel\n") and text.count("\n") == num_rows + 1


def test_another_task_in_the_folder_is_left_alone(tmp_path):
    (tmp_path / "test.tsv").write_text("mine")
    with pytest.raises(InputError, match="test.tsv: holds another task"):
        synthetic_task.write(tmp_path, num_train=20, num_test=10, seed=3)
    assert [path.name for path in tmp_path.iterdir()] == ["test.tsv"]
    assert (tmp_path / "test.tsv").read_text() == "mine"
    with pytest.raises(InputError, match="test.tsv: is a file; give a folder"):
        synthetic_task.write(tmp_path / "test.tsv", num_train=20, num_test=10, seed=3)
