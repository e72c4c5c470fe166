"""PMI tables and count files: the round trip, and every refusal with its place."""

from pathlib import Path

import numpy as np
import pytest

from cmgems_jax.config import Config, DataConfig, PmiConfig, TokensConfig
from cmgems_jax.errors import InputError
from cmgems_jax.genome import files as genome_files
from cmgems_jax.genome import vocabulary
from cmgems_jax.pmi import counts as pmi_counts
from cmgems_jax.pmi import scores as pmi_scores
from cmgems_jax.pmi import table as pmi_table
from cmgems_jax.windows import synthetic_genome


@pytest.fixture
def table() -> pmi_table.PmiTable:
    """A table of 3-mers, two of which do not occur."""
    counts = np.random.default_rng(0).integers(1, 1_000, 64)
    counts[[7, 40]] = 0
    return pmi_table.make(pmi_counts.counts_from_kmers(counts), 3)


@pytest.fixture
def lines(table, tmp_path) -> list[str]:
    """The table's file, line by line."""
    pmi_table.write(table, tmp_path / "good.csv")
    return (tmp_path / "good.csv").read_text().splitlines()


def refusal(tmp_path: Path, lines: list[str], k: int = 3) -> str:
    """Returns the message of the InputError that reading these lines raises."""
    path = tmp_path / "bad.csv"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError) as error:
        pmi_table.read(path, k)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value)


def test_a_table_is_read_as_it_was_written_to_the_last_bit(table, tmp_path):
    pmi_table.write(table, tmp_path / "a.csv")
    again = pmi_table.read(tmp_path / "a.csv", 3)
    for name in ("count", "pmi", "npmi", "rank"):
        np.testing.assert_array_equal(getattr(again, name), getattr(table, name))


def test_lines_are_sorted_by_rank_and_absent_kmers_stand_last_without_scores(lines):
    assert lines[0] == "kmer,count,pmi,npmi,rank"
    assert [int(line.rsplit(",", 1)[1]) for line in lines[1:]] == list(range(1, 65))
    absent = [vocabulary.kmers(3)[code] for code in (7, 40)]
    assert lines[-2:] == [f"{absent[0]},0,,,63", f"{absent[1]},0,,,64"]


def test_other_columns_are_refused(tmp_path, lines):
    assert "line 1: expected the columns kmer,count,pmi" in refusal(tmp_path, ["a,b", *lines[1:]])


def test_kmers_of_another_length_are_refused(tmp_path, lines):
    assert "expected k=4" in refusal(tmp_path, lines, k=4)


def test_a_kmer_that_stands_twice_is_refused_with_its_line(tmp_path, lines):
    again = lines[3].split(",")[0]
    lines[9] = ",".join([again, *lines[9].split(",")[1:]])
    assert f"line 10: k-mer {again} stands here a second time" in refusal(tmp_path, lines)


def test_missing_kmers_are_counted_and_named(tmp_path, lines):
    found = refusal(tmp_path, lines[:-2])
    assert "2 of 64 3-mers are missing (AT" in found and "count_pmi --k=3" in found


@pytest.mark.parametrize("bad", ["nan", "inf", "high", ""])
@pytest.mark.parametrize("column", [2, 3])
def test_a_score_that_is_no_number_is_refused_with_its_line(tmp_path, lines, bad, column):
    fields = lines[5].split(",")
    fields[column] = bad
    lines[5] = ",".join(fields)
    assert f"line 6: {('pmi', 'npmi')[column - 2]} {bad!r}" in refusal(tmp_path, lines)


@pytest.mark.parametrize("bad", ["-1", "1.5", "many", "1" + 39 * "0"])
def test_a_count_that_is_no_whole_number_is_refused(tmp_path, lines, bad):
    fields = lines[5].split(",")
    fields[1] = bad
    lines[5] = ",".join(fields)
    assert f"line 6: count {bad!r}: expected a whole number" in refusal(tmp_path, lines)


def test_lines_out_of_order_are_refused(tmp_path, lines):
    lines[2], lines[3] = lines[3], lines[2]
    assert "line 3: rank 3" in refusal(tmp_path, lines)


def test_ranks_that_do_not_follow_from_the_scores_are_refused(tmp_path, lines):
    first, second = lines[1].split(","), lines[2].split(",")
    first[:4], second[:4] = second[:4], first[:4]
    lines[1], lines[2] = ",".join(first), ",".join(second)
    assert "the ranks of 2 k-mers do not follow from their npmi" in refusal(tmp_path, lines)


def test_a_line_of_too_few_fields_and_other_letters_are_refused(tmp_path, lines):
    assert "line 4: expected 5 fields, found 1" in refusal(tmp_path, [*lines[:3], "AAA"])
    lines[4] = "AAN" + lines[4][3:]
    assert "line 5: k-mer 'AAN': expected only the letters" in refusal(tmp_path, lines)


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path):
    with pytest.raises(InputError, match="is a folder; expected a PMI table|no such file"):
        pmi_table.read(tmp_path / "none.csv", 3)
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="binary.csv"):
        pmi_table.read(tmp_path / "binary.csv", 3)


def test_counts_are_read_in_any_order(tmp_path):
    counts = np.arange(1, 65)
    rows = [f"{name},{n}" for name, n in zip(vocabulary.kmers(3), counts, strict=True)]
    path = tmp_path / "counts.csv"
    path.write_text("\n".join(["kmer,count", *sorted(rows)]) + "\n")
    np.testing.assert_array_equal(pmi_table.read_counts(path), counts)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("kmer,count\n", "no k-mer"),
        ("word,n\n", "line 1: expected the columns kmer,count"),
        ("kmer,count\nAA,1\n", "line 2: k-mer 'AA' of length 2: expected 3 to 8"),
        ("kmer,count\nAAA,1\nAAAA,1\n", "line 3: k-mer 'AAAA' of length 4: expected k=3"),
        ("kmer,count\nAAA,1\n", "63 of 64 3-mers are missing (AAT, AAC, AAG, ...)"),
        ("kmer,count\nAAA,x\n", "line 2: count 'x'"),
        ("kmer,count\nAAA,1" + 400 * "0", "line 2: count '1000"),
        ("kmer,count\n" + 9_999 * "A" + ",1", "of length 9999: expected 3 to 8"),
        ("kmer,count\nAAA,1\nAAA,2\n", "line 3: k-mer AAA stands here a second time"),
    ],
)
def test_bad_counts_are_refused_with_their_line(tmp_path, content, message):
    path = tmp_path / "counts.csv"
    path.write_text(content)
    with pytest.raises(InputError) as error:
        pmi_table.read_counts(path)
    assert message in str(error.value)


def test_counts_whose_sum_does_not_fit_are_refused(tmp_path):
    """Each fits into int64, their sum wraps."""
    path = tmp_path / "counts.csv"
    rows = [f"{name},{9 * 10**18}" for name in vocabulary.kmers(3)]
    path.write_text("\n".join(["kmer,count", *rows]))
    with pytest.raises(InputError, match="add up to"):
        pmi_table.read_counts(path)


def test_the_byte_order_mark_of_a_spreadsheet_is_no_part_of_the_header(tmp_path):
    path = tmp_path / "counts.csv"
    rows = [f"{name},7" for name in vocabulary.kmers(3)]
    path.write_text("\r\n".join(["kmer,count", *rows]), encoding="utf-8-sig")
    assert pmi_table.read_counts(path).sum() == 7 * 64


def test_the_embedded_counts_are_grch38s():
    """669,128,271 windows, says the data set's description."""
    assert pmi_table.grch38_counts().sum() == 669_128_271


def test_ranks_come_from_where_the_config_says(tmp_path):
    fasta = tmp_path / "a.fa"
    synthetic_genome.write_genome(fasta, 30_000, seed=0)
    contigs = [contig.bases for contig in genome_files.read_contigs([str(fasta)])]
    for k in (4, 6):
        config = Config(
            tokens=TokensConfig(k=k), data=DataConfig(fasta=str(fasta)),
            pmi=PmiConfig(table="corpus", segmentation="full", min_count=7),
        )  # fmt: skip
        expected = pmi_scores.rank(
            pmi_scores.npmi(
                pmi_counts.count_ngrams(contigs, k), k, segmentation="full", min_count=7
            )
        )
        np.testing.assert_array_equal(pmi_table.ranks_for(config, config.fasta_paths), expected)
    table = pmi_table.make(pmi_counts.count_ngrams(contigs, 4), 4)
    pmi_table.write(table, tmp_path / "four.csv")
    config = Config(tokens=TokensConfig(k=4), pmi=PmiConfig(table=str(tmp_path / "four.csv")))
    np.testing.assert_array_equal(pmi_table.ranks_for(config, []), table.rank)
    embedded = pmi_table.ranks_for(Config(), [])
    assert embedded[vocabulary.kmer_code("CCTCCC")] == 1
