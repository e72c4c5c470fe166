"""The planted task: balanced, reproducible, with the signal where it should be."""

import re

import numpy as np
import pytest

from cmgems_jax.downstream.tasks import synthetic as synthetic_task
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.windows import synthetic_genome


@pytest.fixture(scope="module")
def rows() -> tuple[list[str], np.ndarray]:
    """Letters and labels of 400 rows whose planted bases are all the consensus's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic_genome, "CONSERVED", 1.0)
        bases_NM, labels_N = synthetic_task.sample(400, np.random.default_rng(0))
    return [vocabulary.decode(bases_M) for bases_M in bases_NM], labels_N


def has_promoter(letters: str) -> bool:
    """True where the motifs stand at the right distance."""
    least, most = (distance - len(synthetic_task.TATA) for distance in synthetic_task.SPACING)
    pattern = f"{synthetic_task.TATA}.{{{least},{most}}}{synthetic_task.INITIATOR}"
    return re.search(pattern, letters) is not None


def test_half_of_the_rows_are_positive(rows):
    assert rows[1].mean() == 0.5


def test_exactly_the_positives_hold_the_motifs_in_order_at_the_right_distance(rows):
    found = [has_promoter(letters) for letters in rows[0]]
    np.testing.assert_array_equal(found, rows[1] == 1)


def test_half_of_the_negatives_hold_both_motifs(rows):
    negatives = [letters for letters, label in zip(*rows, strict=True) if label == 0]
    both = [synthetic_task.TATA in x and synthetic_task.INITIATOR in x for x in negatives]
    assert np.mean(both) == 0.5


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
