"""Positives and negatives: from FASTA, from a task, and fewer of them."""

from pathlib import Path

import numpy as np
import pytest

from cmgems_jax.config import Config, TokensConfig
from cmgems_jax.downstream.finetuning.classifier import TrainedClassifier
from cmgems_jax.downstream.motifs import contrast
from cmgems_jax.downstream.motifs.contrast import Contrast
from cmgems_jax.downstream.tasks import labels
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary


def classifier_of(*label_names: str) -> TrainedClassifier:
    """Returns a classifier of 3-mers without parameters."""
    return TrainedClassifier(Config(tokens=TokensConfig(k=3)), {}, [*label_names], max_tokens=22)


def write_fasta(path: Path, prefix: str, sequences: list[str]) -> str:
    """Writes records prefix0, prefix1, ... and returns the path."""
    rows = (f">{prefix}{number}\n{text}\n" for number, text in enumerate(sequences))
    path.write_text("".join(rows))
    return str(path)


def test_records_of_both_sides_keep_their_names_and_are_padded(tmp_path):
    texts = ["ACGT", "ACGTACGT", "NNAC", "TTTT", "GGGGG"]
    positives = [
        write_fasta(tmp_path / "p.fa", "p", texts[:3]),
        write_fasta(tmp_path / "q.fa", "q", texts[3:]),
    ]
    negatives = [write_fasta(tmp_path / "n.fa", "n", texts[::-1])]
    found = contrast.from_fasta(positives, negatives)
    assert found.names == ["p0", "p1", "p2", "q0", "q1", "n0", "n1", "n2", "n3", "n4"]
    assert found.is_positive_N.tolist() == [True] * 5 + [False] * 5
    assert found.bases_NM.shape == (10, 8) and found.bases_NM.dtype == np.uint8
    assert [vocabulary.decode(row) for row in found.bases_NM] == texts + texts[::-1]


def test_too_few_or_no_sequences_of_a_side_are_refused(tmp_path):
    five = write_fasta(tmp_path / "p.fa", "p", ["ACGT"] * 5)
    four = write_fasta(tmp_path / "n.fa", "n", ["ACGT"] * 4)
    with pytest.raises(InputError, match="4 negatives; expected at least 5"):
        contrast.from_fasta([five], [four])
    for task, positives, negatives in (("", [five], []), ("", [], []), ("t", [five], [four])):
        with pytest.raises(InputError, match="give either --positives=FASTA and --negatives=FASTA"):
            contrast.check_sources(task, positives, negatives)
    with pytest.raises(InputError, match="named twice"):
        contrast.from_fasta([five], [five])


@pytest.fixture
def task_folder(tmp_path) -> Path:
    """A task of three classes with 6 test rows of each."""
    rows = [("ACGTACGT", "a"), ("GGGGCCCC", "b"), ("TTTTTTTT", "c")] * 6
    for name in ("train", "test"):
        lines = [
            f"{text[number % 7 :]}{text}\t{label}" for number, (text, label) in enumerate(rows)
        ]
        (tmp_path / f"{name}.tsv").write_text("\n".join(["sequence\tlabel", *lines]) + "\n")
    return tmp_path


def test_one_class_of_a_task_stands_against_all_others(task_folder):
    found = contrast.from_task(str(task_folder), task_folder, classifier_of("a", "b", "c"), 1)
    assert found.is_positive_N.tolist() == [False, True, False] * 6
    assert found.names[:2] == ["row_2", "row_3"]  # lines of the file; 1 is the header
    assert vocabulary.decode(found.bases_NM[1]) == "GGGCCCCGGGGCCCC"


def test_a_task_with_other_classes_than_the_classifiers_is_refused(task_folder):
    message = "its classes are a, b, c, the classifier's 0, 1; give the task"
    with pytest.raises(InputError, match=message):
        contrast.from_task(str(task_folder), task_folder, classifier_of("0", "1"), 1)


def test_the_label_is_found_by_its_name_and_the_last_by_default():
    classifier = classifier_of("no", "yes")
    assert contrast.find_label(classifier, "") == 1
    assert contrast.find_label(classifier, "no") == 0
    with pytest.raises(InputError, match="--label=yess: no such class.* Did you mean 'yes'"):
        contrast.find_label(classifier, "yess")
    classifier.labels = labels.NUMBERS
    with pytest.raises(InputError, match="a classifier of numbers; expected one of classes"):
        contrast.find_label(classifier, "")


def test_a_limit_draws_as_many_of_either_side_and_keeps_their_order():
    bases_NM = np.arange(60, dtype=np.uint8)[:, None] % 4
    whole = Contrast(bases_NM, np.arange(60) < 20, [f"r{row}" for row in range(60)])
    found = contrast.limit(whole, 15)
    rows = [int(name[1:]) for name in found.names]
    assert rows == sorted(set(rows)) and found.is_positive_N.tolist() == [True] * 15 + [False] * 15
    np.testing.assert_array_equal(found.bases_NM, bases_NM[rows])
    assert contrast.limit(whole, 15).names == found.names
    assert len(contrast.limit(whole, 1_000).names) == 60
