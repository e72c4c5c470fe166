"""Every form of a file gives the same rows; every bad file one clear error; draws are balanced."""

import collections
import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from cmgems_jax.downstream.tasks import files as task_files
from cmgems_jax.downstream.tasks import metrics, tasks
from cmgems_jax.downstream.tasks import table as task_table
from cmgems_jax.downstream.tasks.settings import TaskSettings
from cmgems_jax.errors import InputError
from cmgems_jax.genome import files as genome_files
from cmgems_jax.genome import vocabulary

ROWS = [("ACGTTGCA", "1"), ("GGGTTTAC", "0"), ("ACGTNACGT", "1"), ("TTTTTTTT", "0")]


def random_sequences(count: int, seed: int = 0, length: int = 12) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("ACGT"), length)) for _ in range(count)]


def table(rows, delimiter="\t", header=("sequence", "label"), end="\n", quote="") -> str:
    lines = [*([header] if header else []), *rows]
    return end.join(delimiter.join(quote + f + quote for f in line) for line in lines) + end


def kmer_text(sequence: str, k: int) -> str:
    return " ".join(sequence[i : i + k] for i in range(len(sequence) - k + 1))


def write(path: Path, content: str | bytes) -> Path:
    content = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_folder(folder: Path, **splits: list[tuple[str, str]]) -> Path:
    for split, rows in splits.items():
        write(folder / f"{split}.tsv", table(rows))
    return folder


def balanced(count: int, seed: int = 0, labels=("0", "1")) -> list[tuple[str, str]]:
    sequences = random_sequences(count * len(labels), seed)
    return [(sequence, labels[i % len(labels)]) for i, sequence in enumerate(sequences)]


def decoded(bases_NM: np.ndarray) -> list[str]:
    return [vocabulary.decode(row_M) for row_M in bases_NM]


FORMS = {
    "tsv": ("a.tsv", table(ROWS)),
    "csv": ("a.csv", table(ROWS, ",")),
    "semicolons": ("a.csv", table(ROWS, ";")),
    "gzip": ("a.tsv.gz", table(ROWS)),
    "quoted": ("a.tsv", table(ROWS, quote='"')),
    "windows": ("a.csv", "\ufeff" + table(ROWS, ",", end="\r\n")),
    "no header": ("a.tsv", table(ROWS, header=None)),
    "no end of the last line": ("a.tsv", table(ROWS).rstrip()),
    "lower case": ("a.tsv", table([(s.lower(), label) for s, label in ROWS])),
    "rna": ("a.tsv", table([(s.replace("T", "U"), label) for s, label in ROWS])),
    "other columns": (
        "a.csv",
        table([("x", label, s) for s, label in ROWS], ",", ("id", "Label", "Seq")),
    ),
    "3-mers": ("a.tsv", table([(kmer_text(s, 3), label) for s, label in ROWS])),
    "6-mers, quoted, packed": (
        "a.csv.gz",
        table([(kmer_text(s, 6), label) for s, label in ROWS], ",", quote='"'),
    ),
    "6-mers, no header": (
        "a.tsv",
        table([(kmer_text(s, 6), label) for s, label in ROWS], header=None),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_file_gives_the_same_bases_and_labels(form, tmp_path):
    name, content = FORMS[form]
    rows = task_files.read_examples(write(tmp_path / name, content), min_bases=6)
    assert decoded(rows.bases_NM) == [sequence for sequence, _ in ROWS]
    assert rows.label_texts == [label for _, label in ROWS]
    assert rows.bases_NM.dtype == np.uint8 and rows.bases_NM.shape == (4, 9)
    assert rows.bases_NM[2, 4] == vocabulary.AMBIGUOUS
    assert (rows.bases_NM[0, 8:] == vocabulary.PADDING).all()
    first = 1 if "no header" in form else 2
    assert rows.rows_N.tolist() == list(range(first, first + 4))


def test_row_numbers_count_blank_lines(tmp_path):
    content = "sequence\tlabel\n\nACGTACGT\t0\n\n\nACGTACGA\t1\n"
    rows = task_files.read_examples(write(tmp_path / "a.tsv", content))
    assert rows.rows_N.tolist() == [3, 6]


def test_a_sequence_longer_than_the_csv_module_allows_is_read(tmp_path):
    path = write(tmp_path / "a.tsv", table([("ACGT" * 50_000, "0"), ("ACGT", "1")]))
    assert task_files.read_examples(path).bases_NM.shape == (2, 200_000)


def test_semicolons_between_labels_do_not_cut_a_table_that_has_tabs(tmp_path):
    path = write(tmp_path / "a.tsv", "ACGTACGTAC\ta;b;c\nACGTACGTAC\tb\n")
    rows = task_files.read_examples(path, TaskSettings(labels="multilabel"))
    assert rows.label_texts == ["a;b;c", "b"]


HEAD = "sequence\tlabel\nACGTACGT\t0\n"  # row 3 is the bad one
BAD_FILES = {
    "missing": (None, "no such file"),
    "empty": ("", "empty"),
    "blank": ("\n \n", "empty"),
    "header only": ("sequence\tlabel\n", "no row"),
    "no sequence": (f"{HEAD}\t1\n", "row 3: no sequence"),
    "too short": (f"{HEAD}ACG\t1\n", "row 3: 3 bases, expected at least 6"),
    "no label": (f"{HEAD}ACGTACGT\t\n", "row 3: no label"),
    "protein": (f"{HEAD}ACGTLLGT\t1\n", "row 3: letter 'L'"),
    "not ascii": (f"{HEAD}ACGTÄCGT\t1\n", "row 3: letter 'Ä'"),
    "too few columns": (f"{HEAD}ACGTACGT\n", "row 3: 1 columns, expected 2"),
    "too many columns": (f"{HEAD}ACGTACGT\t1\t1\n", "row 3: 3 columns, expected 2"),
    "open quote": (f'{HEAD}"ACGTACGT\t1\n', "behind row 2: .* quotation mark"),
    "k-mers apart": (f"{HEAD}ACGTAC GGTACG GTACGA\t1\n", "row 3: k-mers 1 and 2 .*overlap"),
    "k-mers of two lengths": (f"{HEAD}ACGTAC CGTACGT\t1\n", "row 3: k-mer 2 has 7 letters"),
    "one column": ("sequence\nACGT\n", "row 1: one column"),
    "unknown columns": ("one\ttwo\nACGTACGT\t0\n", "row 1: columns 'one', 'two'"),
    "two label columns": ("sequence,label,class\nACGTACGT,0,1\n", "row 1: columns"),
    "three columns without header": ("ACGTACGT\tx\t0\n", "row 1: columns"),
    "zero bytes": (f"{HEAD}\0\0\t1\n", "zero bytes"),
    "utf-16": (HEAD.encode("utf-16"), "text in UTF-16; convert it first: iconv"),
    "truncated gzip": (gzip.compress(HEAD.encode() * 50)[:-12], "broken gzip"),
    "damaged gzip": (b"\x1f\x8b" + b"\xff" * 50, "broken gzip"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_one_line_that_names_file_and_row(case, tmp_path):
    content, message = BAD_FILES[case]
    path = tmp_path / "a.tsv"
    if content is not None:
        write(path, content)
    with pytest.raises(InputError, match=message) as caught:
        task_files.read_examples(path, min_bases=6)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_the_content_not_the_name_says_that_a_file_is_packed(tmp_path):
    text = table(ROWS).encode()
    for name, content in (("a.tsv.gz", text), ("b.tsv", gzip.compress(text))):
        (tmp_path / name).write_bytes(content)
        assert len(task_files.read_examples(tmp_path / name).label_texts) == len(ROWS)


def test_what_is_no_regular_file_is_named_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.tsv")
    for path, message in ((tmp_path, "is a folder"), (tmp_path / "pipe.tsv", "is a pipe")):
        with pytest.raises(InputError, match=message):
            task_files.read_examples(path)


@pytest.mark.parametrize("behind", [b"\0" * 600, b"junk"], ids=["zeros", "junk"])
def test_what_stands_behind_the_gzip_data_is_nothing(tmp_path, capsys, behind):
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress(table(ROWS).encode()) + behind)
    assert len(task_files.read_examples(path).label_texts) == len(ROWS)
    told = capsys.readouterr().err
    assert told.count("behind the gzip data") == (behind == b"junk")


def test_the_table_holds_five_few_shot_tasks_and_the_28_sets_of_gue():
    assert [task.name for task in task_table.FEWSHOT] == [
        "prom_core", "prom_300", "cohn_enh", "splice_40", "silencer"
    ]  # fmt: skip
    groups = collections.Counter(task.name.partition("/")[0] for task in task_table.GUE)
    assert groups == {"EMP": 10, "mouse": 5, "prom": 6, "splice": 1, "tf": 5, "virus": 1}
    assert len({task.name for task in task_table.GUE}) == 28
    assert all(task.metric in metrics.NAMES for task in (*task_table.FEWSHOT, *task_table.GUE))
    classes = {task.name: task.num_classes for task in (*task_table.FEWSHOT, *task_table.GUE)}
    unusual = {name: count for name, count in classes.items() if count != 2}
    assert unusual == {"splice_40": 3, "splice/reconstructed": 3, "virus/covid": 9}


def test_a_published_task_is_found_below_its_suite_or_directly(tmp_path):
    write_folder(tmp_path / "gue" / "mouse" / "2", train=balanced(3), test=balanced(2, 1))
    for data_dir in (tmp_path, tmp_path / "gue"):
        task = task_table.find("mouse/2", data_dir)
        assert (task.suite, task.metric, task.num_classes) == ("gue", "mcc", 2)
        assert task_table.is_present(task, data_dir)
        assert len(tasks.load(task, data_dir, k=6).train.labels_N) == 6
    assert not task_table.is_present(task_table.FEWSHOT[0], tmp_path)
    with pytest.raises(InputError, match="task prom_core: no folder .*--data_dir"):
        task_table.find("prom_core", tmp_path)


def test_any_other_name_is_the_folder_of_an_own_task(tmp_path):
    folder = write_folder(tmp_path / "mine", train=balanced(3), test=balanced(2, 1))
    for name, data_dir in ((str(folder), Path("elsewhere")), ("mine", tmp_path)):
        data = tasks.load(name, data_dir, k=6)
        assert (data.task.name, data.task.suite, data.task.num_classes) == ("mine", "own", 2)
    with pytest.raises(InputError, match="no folder prom_cor .*Did you mean 'prom_core'"):
        task_table.find("prom_cor", tmp_path)


def test_integer_labels_are_ordered_by_value_and_others_by_letter(tmp_path):
    numbers = balanced(2, labels=("10", "9", "-1"))
    data = tasks.load(write_folder(tmp_path / "a", train=numbers, test=numbers), tmp_path, k=6)
    assert data.label_names == ["-1", "9", "10"]
    assert data.train.labels_N.tolist() == [2, 1, 0] * 2 and data.train.labels_N.dtype == np.int32
    words = balanced(2, labels=("other", "enhancer"))
    data = tasks.load(write_folder(tmp_path / "b", train=words, test=words), tmp_path, k=6)
    assert data.label_names == ["enhancer", "other"] and data.test.labels_N.tolist() == [1, 0] * 2


def test_all_splits_are_padded_to_the_longest_sequence_of_the_task(tmp_path):
    folder = write_folder(
        tmp_path,
        train=balanced(3),
        dev=balanced(2, 1),
        test=[*balanced(2, 2), ("ACGT" * 5, "1")],
    )
    data = tasks.load(folder, tmp_path, k=6)
    assert {split.bases_NM.shape[1] for split in (data.train, data.dev, data.test)} == {20}
    assert decoded(data.test.bases_NM)[-1] == "ACGT" * 5
    assert data.notes == ["2 classes, rows of train/dev/test: 0: 3/2/2, 1: 3/2/3"]


def test_without_train_dev_is_trained_on_and_marked(tmp_path):
    folder = write_folder(tmp_path, dev=balanced(3), test=balanced(2, 1))
    data = tasks.load(folder, tmp_path, k=6)
    assert data.dev is None and data.train.path.endswith("dev.tsv")
    assert any("no train split: trained on dev" in note for note in data.notes)


def test_a_class_that_test_lacks_is_noted(tmp_path):
    folder = write_folder(tmp_path, train=balanced(3), test=[("ACGTACGT", "1")])
    *_, last = tasks.load(folder, tmp_path, k=6).notes
    assert last == "test has no row of class 0: AUROC is not defined"
    write_folder(folder, dev=[("ACGTACGT", "1")])
    *_, last = tasks.load(folder, tmp_path, k=6).notes
    assert last == "dev has no row of class 0: the choice of the epoch does not see it"


def test_whole_numbers_are_one_class_however_a_file_writes_them(tmp_path):
    folder = write_folder(
        tmp_path,
        train=balanced(3, labels=("0", "1")),
        dev=balanced(2, 1, labels=("00", "+1")),
        test=balanced(2, 2, labels=("0.0", "1.")),
    )
    data = tasks.load(folder, tmp_path, k=6)
    assert data.label_names == ["0", "1"]
    assert data.dev.labels_N.tolist() == data.test.labels_N.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("label", ["2.4", "-0.5", "1e-3", ".5", "2,4"])
def test_a_decimal_is_no_class(label, tmp_path):
    rows = [*balanced(3), ("ACGTACGTAA", label), ("ACGTACGTCC", label)]
    folder = write_folder(tmp_path, train=rows, test=balanced(2, 1))
    with pytest.raises(
        InputError, match=f"train.tsv: row 8: label '{label}' is a decimal .*low, high"
    ):
        tasks.load(folder, tmp_path, TaskSettings(labels="classes"), k=6)


@pytest.mark.parametrize("name", ["val.tsv", "valid.csv", "validation.tsv.gz", "Dev.tsv"])
def test_a_validation_file_is_dev_under_any_of_its_names(name, tmp_path):
    folder = write_folder(tmp_path / "task", train=balanced(3), test=balanced(2, 1))
    write(folder / name, table(balanced(2, 2)))
    data = tasks.load(folder, tmp_path, k=6)
    assert decoded(data.dev.bases_NM) == [sequence for sequence, _ in balanced(2, 2)]
    write(folder / "dev.csv", table(balanced(2, 2), ","))
    with pytest.raises(InputError, match="; keep one of them"):
        tasks.load(folder, tmp_path, k=6)


def test_files_that_are_passed_over_are_named(tmp_path):
    folder = write_folder(tmp_path, train=balanced(3), test=balanced(2, 1))
    for name in ("dev_10.tsv", "more.tsv", ".hidden"):
        (folder / name).write_text("")
    assert tasks.load(folder, tmp_path, k=6).notes[0] == "files passed over: dev_10.tsv, more.tsv"
    (folder / "test.tsv").rename(folder / "test.txt")
    with pytest.raises(InputError, match="no file for test; .*there are dev_10.*, test.txt"):
        tasks.load(folder, tmp_path, k=6)


def test_columns_of_other_names_can_be_given_and_the_metric_too(tmp_path):
    header = ("sequence", "score", "Probe DNA", "bound")
    rows = [("TTTTTTTT", "0.5", sequence, label) for sequence, label in balanced(3)]
    for split in ("train", "test"):
        write(tmp_path / "task" / f"{split}.tsv", table(rows, header=header))
    settings = TaskSettings(sequence_column="Probe DNA", label_column="bound", metric="auroc")
    data = tasks.load("task", tmp_path, settings, k=6)
    assert decoded(data.train.bases_NM) == [sequence for sequence, _ in balanced(3)]
    assert data.train.labels_N.tolist() == [0, 1] * 3 and data.task.metric == "auroc"
    first = tasks.load("task", tmp_path, TaskSettings(label_column="bound"), k=6).train
    assert set(decoded(first.bases_NM)) == {"TTTTTTTT"}
    message = "columns 'sequence', 'score', .* one 'label', .*--sequence_column and --label_column"
    with pytest.raises(InputError, match=message):
        tasks.load("task", tmp_path, k=6)


def test_two_folders_of_one_name_are_not_one_task(tmp_path):
    for place in ("one", "two"):
        write_folder(tmp_path / place / "mine", train=balanced(3), test=balanced(2, 1))
    names = [str(tmp_path / place / "mine") for place in ("one", "two")]
    assert [task.name for task in task_table.find_all([names[0], names[0]], tmp_path)] == ["mine"]
    with pytest.raises(InputError, match="one/mine and .*two/mine: both are called 'mine'"):
        task_table.find_all(names, tmp_path)


def test_folders_and_labels_that_do_not_fit_are_one_line_errors(tmp_path):
    good = balanced(3)
    cases = {
        "no file for test": {"train": good},
        r"no file for train \(or dev\)": {"test": good},
        "only the label '1'": {"train": [("ACGTACGT", "1")], "test": good},
        "test.tsv: row 3: label '7' is not in train": {
            "train": good, "test": [("ACGTACGT", "1"), ("ACGTACGT", "7")]
        },
        "200 labels in 200 rows; expected classes, or --labels=numbers": {
            "train": [(s, str(i)) for i, s in enumerate(random_sequences(200))], "test": good
        },
    }  # fmt: skip
    for number, (message, splits) in enumerate(cases.items()):
        folder = write_folder(tmp_path / str(number), **splits)
        with pytest.raises(InputError, match=message) as caught:
            tasks.load(folder, tmp_path, k=6)
        assert "\n" not in str(caught.value)
    both = write_folder(tmp_path / "both", train=good, test=good)
    write(both / "train.csv.gz", table(good, ","))
    with pytest.raises(InputError, match="both train.csv.gz and train.tsv"):
        tasks.load(both, tmp_path, k=6)
    three = balanced(3, labels=("0", "1", "2"))
    write_folder(tmp_path / "fewshot" / "prom_core", train=three, test=three)
    with pytest.raises(InputError, match="3 classes .*expected 2 in task prom_core"):
        tasks.load("prom_core", tmp_path, k=6)


def test_repeats_and_overlaps_are_counted_and_dropped_on_demand(tmp_path):
    one, two, three, four = random_sequences(4)
    folder = write_folder(
        tmp_path,
        train=[(one, "0"), (two, "1"), (one, "0"), (one.lower(), "1"), (three, "1"), (four, "0")],
        test=[(three, "1"), (three, "1"), ("ACGTACGT", "0")],
    )
    data = tasks.load(folder, tmp_path, k=6)
    assert "2 of 6 rows of train.tsv repeat an earlier one, 1 of them under another label" in (
        data.notes
    )
    assert "2 of 3 test rows are in train.tsv; --dedupe leaves them out there" in data.notes
    assert len(data.train.labels_N) == 6
    data = tasks.load(folder, tmp_path, TaskSettings(dedupe=True), k=6)
    assert decoded(data.train.bases_NM) == [one, two, four]
    assert data.train.rows_N.tolist() == [2, 3, 7]
    assert data.notes[-1] == "dropped 3 rows of train.tsv for that"


def write_fewshot(folder: Path, rows_per_class: dict[int, int]) -> Path:
    """Returns a folder with train_N files that hold so many rows of both classes."""
    for number, count in rows_per_class.items():
        write(folder / f"train_{number}.tsv.gz", table(balanced(count, seed=number)))
    write(folder / "test.tsv.gz", table(balanced(5, seed=99)))
    return folder


def test_the_smallest_file_with_ten_times_the_shots_is_drawn_from_else_the_largest(tmp_path):
    # train_2 is ten draws pooled, as two of the published sets are; the others are single draws.
    folder = write_fewshot(tmp_path, {2: 20, 5: 5, 30: 30})
    for shots, name in {1: "train_2", 2: "train_2", 3: "train_30", 20: "train_30"}.items():
        data = tasks.load(folder, tmp_path, k=6, shots=shots)
        assert Path(data.train.path).name == f"{name}.tsv.gz", shots
        assert any("nearly the same rows" in note for note in data.notes) == (shots == 20)
    assert tasks.load(folder, tmp_path, k=6).train.path.endswith("train_30.tsv.gz")
    with pytest.raises(tasks.TooFewRows, match="30 rows of class 0, expected at least 31"):
        tasks.load(folder, tmp_path, k=6, shots=31)


def test_a_pooled_file_gives_n_rows_per_class_not_ten_n(tmp_path):
    data = tasks.load(write_fewshot(tmp_path, {10: 100}), tmp_path, k=6, shots=10)
    draws_DN = tasks.draw_shots(data.train.labels_N, 10, 10, seed=0)
    assert draws_DN.shape == (10, 20) and draws_DN.dtype == np.int32
    assert (np.sort(data.train.labels_N[draws_DN], axis=1) == [0] * 10 + [1] * 10).all()


@pytest.mark.parametrize("num_classes", [2, 3])
def test_draws_are_balanced_without_a_row_twice_and_even_over_rows(num_classes):
    labels_N = np.random.default_rng(0).permutation(np.repeat(np.arange(num_classes), 40))
    draws_DN = tasks.draw_shots(labels_N, 10, 400, seed=3)
    for rows in draws_DN:
        assert len(set(rows.tolist())) == 10 * num_classes
        assert np.bincount(labels_N[rows]).tolist() == [10] * num_classes
    # Each row is in a draw with probability 1/4: 100 of 400, standard deviation 8.7.
    counts_N = np.bincount(draws_DN.ravel(), minlength=len(labels_N))
    assert abs(counts_N - 100).max() < 5 * 8.7


def test_a_draw_depends_on_seed_and_number_only():
    labels_N = np.tile([0, 1], 50)
    ten = tasks.draw_shots(labels_N, 5, 10, seed=1)
    np.testing.assert_array_equal(ten[:3], tasks.draw_shots(labels_N, 5, 3, seed=1))
    assert (ten != tasks.draw_shots(labels_N, 5, 10, seed=2)).any()
    more = tasks.draw_shots(labels_N, 9, 10, seed=1)
    assert all(set(few) <= set(many) for few, many in zip(ten.tolist(), more.tolist(), strict=True))
    with pytest.raises(ValueError, match="51 shots of 50 rows"):
        tasks.draw_shots(labels_N, 51, 1, seed=0)


def test_the_manifest_names_the_lines_of_the_file(tmp_path):
    folder = write_fewshot(tmp_path / "task", {10: 30})
    data = tasks.load(folder, tmp_path, TaskSettings(dedupe=True), k=6, shots=3)
    draws_DN = tasks.draw_shots(data.train.labels_N, 3, 2, seed=0)
    tasks.write_manifest(tmp_path / "draws.json", data, draws_DN)
    manifest = json.loads((tmp_path / "draws.json").read_text())
    assert manifest["sha256"] == genome_files.sha256(manifest["file"])
    lines = gzip.decompress(Path(manifest["file"]).read_bytes()).decode().splitlines()
    for rows, named in zip(draws_DN, manifest["rows"], strict=True):
        drawn = [lines[number - 1].split("\t") for number in named]
        assert decoded(data.train.bases_NM[rows]) == [sequence for sequence, _ in drawn]
        assert data.train.labels_N[rows].tolist() == [int(label) for _, label in drawn]
