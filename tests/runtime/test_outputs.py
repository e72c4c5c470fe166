"""Results are whole or not there; what stood before stays until they are."""

import platform
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cmgems_jax.errors import InputError
from cmgems_jax.runtime import outputs
from tests.helpers import run_python

SCHEMA = pa.schema([("record", pa.string()), ("start", pa.int64()), ("p", pa.float32())])
ROWS = [("a", 0, 0.25), ("a", 10, 1e-9), ("b", 2**40, 0.1234567)]


def fill(path: Path) -> None:
    """Writes the rows."""
    with outputs.table(path, SCHEMA) as add:
        for row in ROWS:
            add(row)


def test_a_tsv_holds_the_rows_with_six_digits(tmp_path):
    fill(tmp_path / "out.tsv")
    expected = "record\tstart\tp\na\t0\t0.25\na\t10\t1e-09\nb\t1099511627776\t0.123457\n"
    assert (tmp_path / "out.tsv").read_text() == expected


@pytest.mark.parametrize("group", [1, 2, 100])
def test_a_parquet_file_holds_the_rows_in_groups(tmp_path, monkeypatch, group):
    monkeypatch.setattr(outputs, "_ROW_GROUP", group)
    fill(tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.schema == SCHEMA
    assert [tuple(row.values())[:2] for row in found.to_pylist()] == [row[:2] for row in ROWS]
    assert found["p"].to_pylist() == pytest.approx([row[2] for row in ROWS], rel=1e-6)  # float32
    assert pq.ParquetFile(tmp_path / "out.parquet").num_row_groups == -(-len(ROWS) // group)


@pytest.mark.parametrize("name", ["out.tsv", "out.parquet"])
def test_an_interrupted_table_leaves_the_former_one_and_nothing_else(tmp_path, name):
    fill(tmp_path / name)
    before = (tmp_path / name).read_bytes()
    with pytest.raises(KeyboardInterrupt), outputs.table(tmp_path / name, SCHEMA) as add:
        add(ROWS[0])
        raise KeyboardInterrupt
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_output_that_is_a_link_stays_one(tmp_path):
    (tmp_path / "link.tsv").symlink_to(tmp_path / "real.tsv")
    fill(tmp_path / "link.tsv")
    assert (tmp_path / "link.tsv").is_symlink() and (tmp_path / "real.tsv").exists()


def test_files_that_cannot_be_made_are_refused(tmp_path):
    (tmp_path / "folder.tsv").mkdir()
    for name, message in {
        "out.csv": "unknown kind of file '.csv'; expected a name that ends in .tsv or .parquet",
        "out": "unknown kind of file ''",
        "folder.tsv": "is a folder; give a file name in it",
        "none/out.tsv": "no folder .*none; make it first",
    }.items():
        with pytest.raises(InputError, match=message):
            outputs.check_file(tmp_path / name, outputs.TABLE_SUFFIXES)
    (tmp_path / "in.tsv").touch()
    (tmp_path / "link.tsv").symlink_to(tmp_path / "in.tsv")
    inputs = [tmp_path / "none", tmp_path / "in.tsv"]
    with pytest.raises(InputError, match="link.tsv: is an input, .*in.tsv; give another name"):
        outputs.check_file(tmp_path / "link.tsv", [".tsv"], inputs)


def test_a_place_where_nothing_can_be_made_is_an_input_error():
    with pytest.raises(InputError, match="/proc/x.tsv: cannot be written"):
        with outputs.replaced_file("/proc/x.tsv"):
            pass


def test_what_a_kill_left_does_not_make_a_folder_anothers(tmp_path):
    (tmp_path / ".a.tsv.incomplete-x").mkdir()
    outputs.check_folder(tmp_path, ["a.tsv"], [])
    (tmp_path / "b.tsv").touch()
    with pytest.raises(InputError, match=r"holds other files \(b.tsv\)"):
        outputs.check_folder(tmp_path, ["a.tsv"], [])


def test_a_folder_is_taken_when_it_is_new_empty_or_the_commands_own(tmp_path, monkeypatch):
    names, marks = ("a.tsv", "logos", "b.tsv"), ("a.tsv", "b.tsv")
    folder = tmp_path / "out"
    outputs.check_folder(folder, names, marks)
    folder.mkdir()
    outputs.check_folder(folder, names, marks)
    (folder / "a.tsv").write_text("mine")
    with pytest.raises(InputError, match=r"holds other files \(a.tsv\)"):
        outputs.check_folder(folder, names, marks)
    (folder / "b.tsv").write_text("")
    outputs.check_folder(folder, names, marks)
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"holds other files \(thesis.tex\)"):
        outputs.check_folder(folder, names, marks)
    with pytest.raises(InputError, match="is a file"):
        outputs.check_folder(folder / "a.tsv", names, marks)
    with pytest.raises(InputError, match="cannot be made in"):
        outputs.check_folder(folder / "a.tsv" / "b", names, marks)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError, match="is the current folder"):
        outputs.check_folder(Path("."), names, marks)


def test_a_folder_takes_the_place_of_the_former_one_when_it_is_whole(tmp_path):
    output = tmp_path / "deep" / "out"
    with outputs.replaced_folder(output) as folder:
        (folder / "a").write_text("1")
    with pytest.raises(KeyboardInterrupt), outputs.replaced_folder(output) as folder:
        (folder / "a").write_text("2")
        raise KeyboardInterrupt
    assert (output / "a").read_text() == "1"
    with outputs.replaced_folder(output) as folder:
        (folder / "b").write_text("3")
    assert [path.name for path in output.iterdir()] == ["b"]
    assert [path.name for path in output.parent.iterdir()] == ["out"]


def test_what_a_killed_process_left_is_removed_and_named_and_nothing_else(tmp_path, capsys):
    program = (
        "import os, pathlib, sys\nfrom cmgems_jax.runtime import outputs\n"
        "hidden = outputs.hidden_folder(pathlib.Path(sys.argv[1]))\nhidden.__enter__()\nos._exit(9)"
    )
    dead = run_python("-c", program, tmp_path / "data")
    assert dead.returncode == 9
    (left,) = tmp_path.iterdir()
    (left / "shard").write_text("half a data set")
    for name in ("elsewhere", "unknown"):
        (tmp_path / f".data.incomplete-{name}").mkdir()
    lock = tmp_path / ".data.incomplete-elsewhere" / ".lock"
    lock.write_text(f"process 1 on not_{platform.node()}")
    (tmp_path / ".database.incomplete-x").mkdir()
    with outputs.hidden_folder(tmp_path / "data") as alive:
        told = capsys.readouterr().out
        assert not left.exists() and f"removed {left}: left by process " in told
        assert "of process 1 on not_" in told and "of an unknown process" in told
        with outputs.hidden_folder(tmp_path / "data"):
            assert alive.exists() and str(alive) not in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".data.incomplete-elsewhere", ".data.incomplete-unknown", ".database.incomplete-x",
    ]  # fmt: skip
