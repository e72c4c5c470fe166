"""Rows that are kept beside an output: whole ones, of the same inputs, by one process."""

import numpy as np
import pytest

from cmgems_jax.errors import InputError
from cmgems_jax.runtime import kept_rows

ROW = np.dtype([("number", "<i4"), ("score", "<f4")])


def rows_of(*numbers: int) -> np.ndarray:
    """Returns rows."""
    return np.array([(number, number / 2) for number in numbers], ROW)


def test_rows_come_back_after_a_break_without_the_torn_one_and_go_when_all_is_done(tmp_path):
    output = tmp_path / "out.tsv"
    with pytest.raises(KeyboardInterrupt), kept_rows.opened(output, ROW, {"a": (1,)}) as rows:
        rows.add(rows_of(1, 2))
        rows.add(rows_of(3))
        raise KeyboardInterrupt
    (folder,) = tmp_path.iterdir()
    with (folder / "rows").open("ab") as file:
        file.write(b"torn")
    with kept_rows.opened(output, ROW, {"a": (1,)}) as rows:
        assert len(rows) == 3
        np.testing.assert_array_equal(rows.read(1, 9), rows_of(2, 3))
        rows.cut(1)
        rows.add(rows_of(4))
        np.testing.assert_array_equal(rows.read(0, 9), rows_of(1, 4))
    assert not list(tmp_path.iterdir())


def test_rows_of_other_inputs_are_refused_and_stay(tmp_path):
    output = tmp_path / "out.tsv"
    with pytest.raises(RuntimeError), kept_rows.opened(output, ROW, {"a": 1, "b": 2}) as rows:
        rows.add(rows_of(1))
        raise RuntimeError
    with pytest.raises(InputError, match="of a run that was cut off, with another a, c;"):
        with kept_rows.opened(output, ROW, {"a": 2, "b": 2, "c": 1}):
            pass
    with kept_rows.opened(output, ROW, {"a": 1, "b": 2}) as rows:
        assert len(rows) == 1


def test_a_second_process_is_refused_and_nothing_is_left_where_no_row_came(tmp_path):
    output = tmp_path / "out.tsv"
    with pytest.raises(InputError, match="out.tsv: another process works on it"):
        with kept_rows.opened(output, ROW, {}), kept_rows.opened(output, ROW, {}):
            pass
    assert not list(tmp_path.iterdir())
