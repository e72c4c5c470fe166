"""Readers of genome files: every format gives the same bases, every bad file one clear error."""

import bz2
import gzip
import lzma
import os
import struct
from pathlib import Path

import numpy as np
import pysam
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmgems_jax.errors import InputError
from cmgems_jax.genome import fasta, vocabulary
from cmgems_jax.genome import files as genome_files

RECORDS = {"chr1": "ACGTNNacgtACGTRA", "chr2": "GGGGCCCCTTTTAAAA"}
CONTIGS = [("chr1", 0, "ACGT"), ("chr1", 6, "ACGTACGT"), ("chr1", 15, "A"),
           ("chr2", 0, "GGGGCCCCTTTTAAAA")]  # fmt: skip


def fasta_text(records: dict[str, str], width: int = 7, end: str = "\n") -> bytes:
    """Returns FASTA with lines of `width` letters."""
    lines = []
    for name, sequence in records.items():
        lines.append(f">{name} a description")
        lines += [sequence[i : i + width] for i in range(0, len(sequence), width)]
    return (end.join(lines) + end).encode()


def twobit_bytes(records: dict[str, str]) -> bytes:
    """Returns a .2bit file (UCSC's format: T C A G = 0..3, blocks of N, blocks of lower case)."""
    index_size = sum(5 + len(name) for name in records)
    offset, index, bodies = 16 + index_size, b"", b""
    for name, sequence in records.items():
        index += struct.pack("<B", len(name)) + name.encode() + struct.pack("<I", offset)
        body = struct.pack("<I", len(sequence))
        for inside in (lambda c: c in "Nn", str.islower):
            marks = [False, *map(inside, sequence), False]
            starts = [i for i in range(len(sequence)) if marks[i + 1] and not marks[i]]
            ends = [i for i in range(1, len(marks)) if marks[i] and not marks[i + 1 : i + 2][0]]
            sizes = [end - start for start, end in zip(starts, ends, strict=True)]
            body += struct.pack(f"<I{len(starts)}I{len(sizes)}I", len(starts), *starts, *sizes)
        body += struct.pack("<I", 0)
        codes = [max(0, "TCAG".find(letter)) for letter in sequence.upper()]
        codes += [0] * (-len(codes) % 4)
        body += bytes(
            a << 6 | b << 4 | c << 2 | d for a, b, c, d in zip(*[iter(codes)] * 4, strict=True)
        )
        offset += len(body)
        bodies += body
    return struct.pack("<IIII", 0x1A412743, 0, len(records), 0) + index + bodies


def write(path: Path, content: bytes) -> str:
    """Writes a file and returns its path as text."""
    path.write_bytes(content)
    return str(path)


def read(*paths: str, **arguments) -> list[tuple[str, int, str]]:
    """Returns (record, start, letters) of every contig."""
    return [
        (contig.record, contig.start, vocabulary.decode(contig.bases))
        for contig in genome_files.read_contigs(paths, **arguments)
    ]


def refusal(*paths: str) -> str:
    """Returns the message of the InputError that reading raises."""
    with pytest.raises(InputError) as error:
        read(*paths)
    return str(error.value)


@pytest.mark.parametrize("form", ["plain", "crlf", "gzip", "bgzip", "one line", "lower", "rna"])
def test_every_form_of_fasta_gives_the_same_contigs(tmp_path, form):
    text = fasta_text(RECORDS)
    path = write(tmp_path / "a.fa", text)
    if form == "crlf":
        path = write(tmp_path / "a.fa", fasta_text(RECORDS, end="\r\n"))
    elif form == "gzip":
        path = write(tmp_path / "a.fa.gz", gzip.compress(text))
    elif form == "bgzip":
        pysam.tabix_compress(path, path + ".gz")
        path += ".gz"
    elif form == "one line":
        path = write(tmp_path / "a.fa", fasta_text(RECORDS, width=1_000))
    elif form == "lower":
        path = write(
            tmp_path / "a.fa", fasta_text({name: text.lower() for name, text in RECORDS.items()})
        )
    elif form == "rna":
        path = write(
            tmp_path / "a.fa",
            fasta_text({name: text.replace("T", "U") for name, text in RECORDS.items()}),
        )
    assert read(path) == CONTIGS


def test_twobit_gives_the_same_contigs_as_fasta(tmp_path):
    """R is no letter of .2bit, so it stands as N."""
    records = {name: text.replace("R", "N") for name, text in RECORDS.items()}
    assert read(write(tmp_path / "a.2bit", twobit_bytes(records))) == CONTIGS


def test_a_twobit_record_longer_than_a_block_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(genome_files, "_CHUNK", 16)
    letters = "".join(np.random.default_rng(0).choice(list("ACGT"), 101))
    assert read(write(tmp_path / "a.2bit", twobit_bytes({"x": letters}))) == [("x", 0, letters)]
    assert read(write(tmp_path / "a.fa", fasta_text({"x": letters}))) == [("x", 0, letters)]


def test_records_are_split_at_ambiguous_letters_and_never_joined(tmp_path):
    path = write(tmp_path / "a.fa", b">x\nNNACNGTRYKMTTN\n")
    assert read(path) == [("x", 2, "AC"), ("x", 5, "GT"), ("x", 11, "TT")]


def test_the_tally_counts_what_was_read_and_what_was_dropped(tmp_path):
    one = write(tmp_path / "a.fa", fasta_text(RECORDS))
    two = write(tmp_path / "b.fa", b">x\nACGTN\n")
    tally = genome_files.Tally()
    contigs = read(one, two, min_length=5, tally=tally)
    assert [name for name, _, _ in contigs] == ["chr1", "chr2"]
    assert tally == genome_files.Tally(
        records=3, contigs=2, bases=24, ambiguous=4, dropped_pieces=3, dropped_bases=9
    )
    assert tally.ambiguous_share == 4 / 37
    assert all(type(value) is int for value in vars(tally).values())


def test_the_same_record_name_in_two_files_is_fine(tmp_path):
    paths = [write(tmp_path / name, fasta_text(RECORDS)) for name in ("a.fa", "b.fa")]
    assert read(*paths) == CONTIGS * 2


# As people have them; each stands for {"chr1": "ACGTNACGTAC", "chr2": "GGGGCC"}.
ODD = {
    "blank lines": b"\n>chr1\r\n\r\nACGTN\r\n\r\nACGTAC\r\n>chr2\r\nGGGGCC",
    "an empty record before": b">chr0\r\n\r\n>chr1\r\nACGTNACGTAC\r\n>chr2\r\nGGGGCC\r\n",
    "blanks at the ends of lines": b">chr1\nACGTN \nACGTAC\t\n>chr2\nGGGGCC \t\n",
    "blocks of letters": b">chr1\nACG TNA CGT AC\n>chr2\n  GGG\tG\vC\fC\n",
    "old Macintosh": b">chr1\rACGTN\rACGTAC\r>chr2\rGGGGCC\r",
    "a mark at the start": b"\xef\xbb\xbf>chr1\nACGTNACGTAC\n>chr2\nGGGGCC\n",
    "marks at starts of lines": b">chr1\nACGTN\n\xef\xbb\xbfACGTAC\n\xef\xbb\xbf>chr2\nGGGGCC\n",
    "no-break spaces": ">chr1\nACGTN\u00a0ACGTAC\n>chr2\nGG\u2009GGCC\n".encode(),
    "a Latin-1 description": ">chr1 M\u00fcller\nACGTNACGTAC\n>chr2\nGGGGCC\n".encode("latin-1"),
    "a Japanese description": ">chr1 \u904b\nACGTNACGTAC\n>chr2\nGGGGCC\n".encode("shift-jis"),
    "a > in a description": b">chr1 a>b >c\nACGTNACGTAC\n>chr2 ->\nGGGGCC\n",
    "a blank behind >": b"> chr1 text\nACGTNACGTAC\n>\tchr2\nGGGGCC\n",
    "a blank before >": b" >chr1 text\nACGTNACGTAC\n\t>chr2\nGGGGCC\n",
    "a description behind a tab": b">chr1\ttext\nACGTNACGTAC\n>chr2\nGGGGCC\n",
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("form", ODD)
def test_white_space_marks_and_encodings_change_neither_names_nor_bases(
    tmp_path, monkeypatch, form, packed
):
    path = write(tmp_path / "a.fa", gzip.compress(ODD[form]) if packed else ODD[form])
    for chunk in (1, 7, 1 << 20):
        monkeypatch.setattr(fasta, "_CHUNK", chunk)
        assert read(path) == [("chr1", 0, "ACGT"), ("chr1", 5, "ACGTAC"), ("chr2", 0, "GGGGCC")]
        records = {
            name: vocabulary.decode(bases) for name, bases in genome_files.read_records(path)
        }
        assert records.pop("chr0", "") == ""
        assert records == {"chr1": "ACGTNACGTAC", "chr2": "GGGGCC"}


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_bases_survive_any_white_space_between_them(tmp_path, data):
    """White space is drawn between all letters; the bases are those of the clean file."""
    space = st.text("\n\r\t \v\f\u00a0\u2028\u3000\ufeff", max_size=3)
    letters = data.draw(st.lists(st.sampled_from("ACGTNacgtu"), min_size=1, max_size=30))
    text = ">x\n" + "".join(letter + data.draw(space) for letter in letters)
    ((name, bases),) = genome_files.read_records(write(tmp_path / "a.fa", text.encode()))
    clean = "".join(letters).upper().replace("U", "T")
    assert (name, vocabulary.decode(bases)) == ("x", clean)


def test_records_without_a_name_get_one_that_is_unique_over_files_and_told(tmp_path, capsys):
    one = write(tmp_path / "a.fa", b">\nACGT\n>x\nAC\n> \nGG\n")
    two = write(tmp_path / "b.fa", b">\nTT\n")
    names = [name for name, _ in genome_files.read_records([one, two])]
    assert names == ["unnamed_1", "x", "unnamed_2", "unnamed_3"]
    assert [contig.record for contig in genome_files.read_contigs([one, two])] == names
    told = capsys.readouterr().err
    assert told.count(f"note: {one}: records without a name: 2, called unnamed_1 to unnamed_2") == 1
    assert told.count(f"note: {two}: records without a name: 1") == 1


def test_a_name_that_stands_twice_is_a_note_where_names_are_no_keys(tmp_path, capsys):
    path = write(tmp_path / "a.fa", b">x\nACGT\n>y\nAC\n>x\nGG\n")
    assert read(path) == [("x", 0, "ACGT"), ("y", 0, "AC"), ("x", 0, "GG")]
    assert f"{path}: names that stand more than once: 1 (x, ...)" in capsys.readouterr().err
    with pytest.raises(InputError, match="record 'x': a second record of this name"):
        list(genome_files.read_records([path]))


def pack(text: bytes, form: str, folder: Path) -> bytes:
    """Returns the text as gzip, as two members of it, or as bgzip."""
    if form == "bgzip":
        pysam.tabix_compress(write(folder / "plain", text), str(folder / "packed"))
        return (folder / "packed").read_bytes()
    half = len(text) // 2 if form == "two members" else len(text)
    return b"".join(gzip.compress(part) for part in (text[:half], text[half:]) if part)


@pytest.mark.parametrize("form", ["gzip", "two members", "bgzip"])
def test_zeros_behind_the_last_gzip_member_are_nothing_and_junk_is_noted(tmp_path, capsys, form):
    packed = pack(fasta_text(RECORDS), form, tmp_path)
    path = write(tmp_path / "zeros.fa.gz", packed + b"\0" * 300)
    assert read(path) == CONTIGS and not capsys.readouterr().err
    path = write(tmp_path / "junk.fa.gz", packed + b"\0\0junk")
    assert read(path) == CONTIGS
    assert capsys.readouterr().err.count(f"note: {path}: what stands behind the gzip data") == 1


def test_a_bgzip_cut_between_two_blocks_is_refused_behind_a_whole_one_too(tmp_path):
    """`cat` of a whole file and a cut one: only the last block tells."""
    whole = pack(fasta_text(RECORDS), "bgzip", tmp_path)
    path = write(tmp_path / "a.fa.gz", whole + whole[:-28])
    assert "without its end block" in refusal(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bz2.compress(b">x\nACGT\n"), "bunzip2 -k {}"),
        (lzma.compress(b">x\nACGT\n"), "unxz -k {}"),
        (bytes.fromhex("28b52ffd2400"), "unzstd {}"),
        (b"PK\x03\x04\x14\0", "unzip {}"),
        (gzip.compress(gzip.compress(b">x\nACGT\n")), "gunzip -k {}"),
        (">x\nACGT\n".encode("utf-16"), "iconv -f UTF-16 -t UTF-8 {} > NEW_FILE"),
        (b"a.fa".ljust(257, b"\0") + b"ustar".ljust(255, b"\0"), "tar -xf {}"),
    ],
    ids=["bz2", "xz", "zst", "zip", "gzip twice", "utf-16", "tar"],
)
def test_other_packings_are_named_with_the_command_that_unpacks(tmp_path, content, message):
    path = write(tmp_path / "a.fa", content)
    assert refusal(path).endswith(f"it first: {message.format(path)}")


def test_what_is_no_regular_file_is_refused_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.fa")  # opening it would wait for a writer
    assert "is a pipe, not a regular file" in refusal(str(tmp_path / "pipe.fa"))
    reading, writing = os.pipe()  # as <(...) and /dev/stdin behind |
    try:
        assert "is a pipe" in refusal(f"/dev/fd/{reading}")
    finally:
        os.close(reading)
        os.close(writing)
    assert "is a device, not a regular file" in refusal(os.devnull)


def test_a_path_may_be_text_or_a_path_and_stand_alone(tmp_path):
    path = Path(write(tmp_path / "a.fa", fasta_text(RECORDS)))
    for paths in (path, str(path), [path], [str(path)]):
        assert len(list(genome_files.read_contigs(paths))) == len(CONTIGS)
        assert len(list(genome_files.read_records(paths))) == len(RECORDS)


BAD = {
    "empty": (b"", "empty; expected FASTA records"),
    "blank": (b"\n \n\n", "empty; expected FASTA records"),
    "web page": (b"<!DOCTYPE html>\n<html><body>404</body></html>", "a web page"),
    "no record": (b"ACGTACGT\nACGT\n", "'ACGTACGT"),
    "binary": (bytes(range(256)) * 4, "binary data"),
    "fastq": (b"@read1\nACGT\n+\nIIII\n", "FASTQ"),
    "protein": (b">p53\nMEEPQSDPSVEPPLSQ\n", "record 'p53': letter 'E' at position 2"),
    "only N": (b">x\nNNNNNN\n", "no base but ambiguous letters"),
    "no sequence": (b">x\n>y\n", "no base but ambiguous letters"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, what, packed):
    content, message = BAD[what]
    name = "bad.fa.gz" if packed else "bad.fa"
    path = write(tmp_path / name, gzip.compress(content) if packed else content)
    found = refusal(path)
    assert found.startswith(f"{path}: ") and message in found


def damaged(content: bytes) -> dict[str, bytes]:
    """Returns a gzip file cut short, and one with a flipped bit near its end."""
    packed = gzip.compress(content)
    flipped = bytearray(packed)
    flipped[-6] ^= 1  # in the checksum
    return {"truncated": packed[: len(packed) // 2], "flipped": bytes(flipped)}


@pytest.mark.parametrize("how", ["truncated", "flipped"])
def test_a_damaged_gzip_names_the_last_record_that_was_read(tmp_path, how):
    letters = "".join(np.random.default_rng(0).choice(list("ACGT"), 400_000))
    content = fasta_text({f"chr{i}": letters[i::4] for i in range(4)}, width=60)
    path = write(tmp_path / "big.fa.gz", damaged(content)[how])
    found = refusal(path)
    assert "truncated or damaged" in found and "record 'chr" in found and "records in" in found


def test_a_gzip_cut_inside_its_head_is_refused_before_reading(tmp_path):
    packed = gzip.compress(fasta_text(RECORDS))
    path = write(tmp_path / "a.fa.gz", packed[:20])
    with pytest.raises(InputError, match="broken gzip"):
        genome_files.check_files([path])


def test_a_bgzip_cut_between_two_blocks_is_refused(tmp_path):
    """It unpacks without an error, with half of its bases."""
    letters = "".join(np.random.default_rng(0).choice(list("ACGT"), 150_000))
    plain = write(tmp_path / "a.fa", fasta_text({"x": letters}))
    pysam.tabix_compress(plain, plain + ".gz")
    whole = Path(plain + ".gz").read_bytes()
    first_block = int.from_bytes(whole[16:18], "little") + 1  # BSIZE, SAM specification 4.1
    assert first_block < len(whole) - 28
    for size in (first_block, len(whole) - 28):
        path = write(tmp_path / "cut.fa.gz", whole[:size])
        with pytest.raises(InputError, match="without its end block"):
            genome_files.check_files([path])


def test_a_zero_byte_never_ends_a_record_unseen(tmp_path, monkeypatch):
    """As an interrupted download leaves them; byte 21 lies in the second chunk."""
    monkeypatch.setattr(fasta, "_CHUNK", 16)
    path = write(tmp_path / "a.fa", b">x\nACGTACGTACGTACGT\n\0\0\0ACGT\n")
    assert "byte 21 is zero" in refusal(path)


@pytest.mark.parametrize("text", ["NNACGTNNNNACGTAC", "ACGT", "ACGTNNNN", "NNNNACGT", "ACGTNACGN"])
def test_splitting_does_not_depend_on_the_chunk(tmp_path, monkeypatch, text):
    path = write(tmp_path / "a.fa", f">x\n{text}\n".encode())
    whole = read(path)
    for chunk in (1, 2, 3, 4, 5):
        monkeypatch.setattr(genome_files, "_CHUNK", chunk)
        assert read(path) == whole


def test_one_file_by_two_names_is_refused(tmp_path):
    good = write(tmp_path / "a.fa", fasta_text(RECORDS))
    (tmp_path / "link.fa").symlink_to(good)
    with pytest.raises(InputError, match="named twice"):
        genome_files.check_files([good, str(tmp_path / "link.fa")])


@pytest.mark.parametrize("form", ["gzip", "bgzip", "twobit"])
def test_no_prefix_of_a_packed_file_is_read_as_if_it_were_whole(tmp_path, form):
    if form == "twobit":
        whole = twobit_bytes({"x": "ACGTNNacgt" * 4, "y": "ACGT" * 9})
    elif form == "gzip":
        whole = gzip.compress(fasta_text(RECORDS))
    else:
        plain = write(tmp_path / "a.fa", fasta_text(RECORDS))
        pysam.tabix_compress(plain, plain + ".gz")
        whole = Path(plain + ".gz").read_bytes()
    for size in range(len(whole)):
        refusal(write(tmp_path / "cut", whole[:size]))


def test_a_truncated_twobit_is_refused(tmp_path):
    content = twobit_bytes({"x": "ACGT" * 100})
    for size in (30, 60):
        path = write(tmp_path / "a.2bit", content[:size])
        assert "fetch it again" in refusal(path)


def test_missing_files_folders_and_repeats_are_refused_before_reading(tmp_path):
    good = write(tmp_path / "a.fa", fasta_text(RECORDS))
    for paths, message in (
        ([str(tmp_path / "no.fa")], "no such file"),
        ([str(tmp_path)], "is a folder"),
        ([good, good], "named twice"),
    ):
        with pytest.raises(InputError, match=message):
            genome_files.check_files(paths)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=300), packed=st.booleans(), head=st.sampled_from(
    [b"", b">", b">x\n", b"\x1f\x8b", b"\x43\x27\x41\x1a\x00\x00\x00\x00", b"@r\nAC\n+\n"]
))  # fmt: skip
def test_random_bytes_raise_nothing_but_an_input_error(tmp_path, content, packed, head):
    path = write(tmp_path / "x.fa", gzip.compress(head + content) if packed else head + content)
    try:
        read(path)
    except InputError as error:
        assert str(error).startswith(path)
    assert [file.name for file in tmp_path.iterdir()] == ["x.fa"]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.integers(0, 10_000))
def test_a_fasta_with_one_byte_changed_and_its_end_cut_raises_nothing_else(
    tmp_path, place, byte, cut
):
    content = bytearray(fasta_text(RECORDS) * 3)
    content[place % len(content)] = byte
    path = write(tmp_path / "x.fa", bytes(content[: cut % len(content)]))
    try:
        read(path)
    except InputError as error:
        assert str(error).startswith(path)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=3))
def test_a_twobit_file_with_bytes_changed_raises_nothing_else(tmp_path, changes):
    content = bytearray(twobit_bytes({"x": "ACGTNNacgt" * 4, "y": "ACGT" * 9}))
    for place, byte in changes:
        content[place % len(content)] = byte
    path = write(tmp_path / "x.2bit", bytes(content))
    try:
        read(path)
    except InputError as error:
        assert str(error).startswith(path)
    assert [file.name for file in tmp_path.iterdir()] == ["x.2bit"]


def test_sha256_is_the_files(tmp_path):
    """Of "abc", from FIPS 180-2."""
    path = write(tmp_path / "abc", b"abc")
    assert genome_files.sha256(path).startswith(
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410"
    )


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs Linux")
def test_a_file_that_cannot_be_read_is_named_with_the_reason():
    """A process's memory has no readable first byte, for root neither."""
    with pytest.raises(InputError, match=r"/proc/self/mem: cannot be read \(Input/output error\)"):
        genome_files.check_files(["/proc/self/mem"])
