"""An indexed FASTA file: any stretch of it, plain or bgzip, with an index or without."""

import gzip
import os
from pathlib import Path

import numpy as np
import pysam
import pytest

from cmgems_jax.errors import InputError
from cmgems_jax.genome import files, reference

TEXT = ">1 first\nACGTACGTAC\nGTnnRY\n>chr2\nTTTTGGGGCC\n>MT\nACG\n"


@pytest.fixture
def fasta(tmp_path) -> Path:
    path = tmp_path / "a.fa"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize("has_index", [False, True])
@pytest.mark.parametrize("is_packed", [False, True])
def test_every_stretch_is_that_of_the_whole_record(fasta, has_index, is_packed):
    if is_packed:
        pysam.tabix_compress(str(fasta), f"{fasta}.gz")
        fasta = Path(f"{fasta}.gz")
    if has_index:
        pysam.faidx(str(fasta))
    before = sorted(fasta.parent.iterdir())
    with reference.opened(fasta) as genome:
        records = dict(files.read_records(fasta))
        assert genome.lengths == {name: len(bases) for name, bases in records.items()}
        contigs = dict(genome)
        assert [*contigs] == [*records] and str(genome) == str(fasta)
        for name, bases in records.items():
            for start in range(len(bases)):
                for end in range(start, len(bases) + 3):
                    np.testing.assert_array_equal(genome.fetch(name, start, end), bases[start:end])
            assert len(contigs[name]) == len(bases)
            np.testing.assert_array_equal(contigs[name][2:7], bases[2:7])
            assert not len(genome.fetch(name, 99, 100))
    assert sorted(fasta.parent.iterdir()) == before  # nothing is written beside the input


def test_names_are_exact_unless_the_prefix_is_ignored(fasta):
    asked = ("1", "chr1", "chr2", "2", "MT", "M", "chrM", "chr3")
    with reference.opened(fasta) as genome:
        assert [*map(genome.find, asked)] == ["1", None, "chr2", None, "MT", None, None, None]
        assert "is it 1? then give --ignore_chr_prefix" in genome.describe_missing("chr1")
        assert "of another assembly? Did you mean 'chr2'?" in genome.describe_missing("chr22")
    with reference.opened(fasta, ignore_chr_prefix=True) as genome:
        found = [*map(genome.find, asked)]
    assert found == ["1", "1", "chr2", "chr2", "MT", "MT", "MT", None]


def test_an_index_older_than_its_file_is_not_used(fasta, capsys):
    pysam.faidx(str(fasta))
    fasta.write_text(TEXT.replace("ACGTACGTAC\nGTnnRY", "ACGTA\nCGTAC\nGTnnR\nY"))
    index = fasta.stat().st_mtime - 10
    os.utime(f"{fasta}.fai", (index, index))
    with reference.opened(fasta) as genome:
        (_, bases), *_ = files.read_records(fasta)
        np.testing.assert_array_equal(genome.fetch("1", 0, len(bases)), bases)
    assert "older than the file; one is made for this run" in capsys.readouterr().err


def test_a_genome_that_was_cut_off_behind_its_index_is_named(fasta):
    pysam.faidx(str(fasta))
    fasta.write_text(TEXT[:10])
    now = fasta.stat().st_mtime + 10
    os.utime(f"{fasta}.fai", (now, now))
    with reference.opened(fasta) as genome, pytest.raises(InputError, match=f"{fasta}: its index"):
        for name, length in genome.lengths.items():
            genome.fetch(name, 0, length)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(TEXT.encode()), "packed by gzip, .*: gzip -dc .* | bgzip > NEW.gz"),
        (b">a x\nAC\n>b\nAC\n>a y\nGT\n", "2 records are called 'a'"),
        (b">a\nAC\nACGT\nAC\n", "cannot be indexed; the lines of a record must have one length"),
        (b"ACGT\n", "line 1: expected '>'"),
        (b"", "empty"),
    ],
    ids=["gzip", "twice", "ragged", "no_name", "empty"],
)
def test_a_file_in_which_no_place_can_be_looked_up_is_refused(tmp_path, content, message):
    path = tmp_path / "x.fa"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message), reference.opened(path):
        pass
    assert [*tmp_path.iterdir()] == [path]
