"""Scores of variants: those of a slow reader, in the records' order, whole or resumed."""

import gzip
from pathlib import Path

import jax
import numpy as np
import pysam
import pytest

from cmgems_jax.downstream.finetuning.classifier import save_classifier
from cmgems_jax.downstream.inference import score_variants, variants, vcf
from cmgems_jax.downstream.inference.settings import ScoreSettings
from cmgems_jax.downstream.inference.variants import Allele, Scorer
from cmgems_jax.errors import InputError
from cmgems_jax.genome import reference, vocabulary
from cmgems_jax.pretraining import pretrained
from tests.downstream.random_classifier import make_classifier, slow_logits
from tests.downstream.random_masked_lm import other_strand, save, slow_log_posterior
from tests.masking.slow_masking import LETTERS

WINDOW = 22  # bases: 20 3-mers
SMALL = ScoreSettings(batch_size=8)


def random_text(length: int, seed: int) -> str:
    """Returns letters."""
    return "".join(np.random.default_rng(seed).choice(list(LETTERS), length))


CHR1 = random_text(90, 1)
GENOME = {"chr1": CHR1, "chr2": random_text(40, 2) + "N" + random_text(40, 3), "chrM": CHR1[:14]}


def write_fasta(path: Path, records: dict[str, str]) -> Path:
    """Writes records in lines of 60."""
    lines = (
        f">{name} text\n" + "".join(f"{text[i : i + 60]}\n" for i in range(0, len(text), 60))
        for name, text in records.items()
    )
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A pretraining run of a random model."""
    save(tmp_path_factory.mktemp("variants") / "run")
    return tmp_path_factory.getbasetemp() / "variants0" / "run"


@pytest.fixture
def fasta(tmp_path) -> Path:
    return write_fasta(tmp_path / "genome.fa", GENOME)


def slow_score(model, text: str, position: int, alt: str, window: int = WINDOW) -> float | None:
    """Returns the mean over the strands of log p(alt) - log p(ref); None where there is none."""
    k, scores = model.config.tokens.k, []
    for strand in (text, other_strand(text)):
        place = position if strand is text else len(text) - 1 - position
        letters = (strand[place], alt if strand is text else other_strand(alt))
        start = max(0, min(place - window // 2, len(text) - window))
        seen = strand[start : start + window]
        covered = (len(seen) - k) // model.config.tokens.stride * model.config.tokens.stride
        if not k - 1 <= place - start <= covered or "N" in seen:
            return None
        log_p = slow_log_posterior(model, seen, place - start)
        scores.append(log_p[letters[1]] - log_p[letters[0]])
    return float(np.mean(scores))


@pytest.mark.parametrize("k, stride", [(3, 1), (4, 2)])
def test_scores_are_those_of_a_slow_reader_and_of_either_strand(k, stride, tmp_path):
    """One base in three of every contig: its ends, a letter N, and one shorter than a window."""
    model = save(tmp_path / "run", k, stride)
    window = vocabulary.num_bases(20, k, stride)
    sites = [(name, place) for name, text in GENOME.items() for place in range(0, len(text), 3)]
    alleles, turned, expected = [], [], []
    for name, place in sites:
        ref = GENOME[name][place]
        alt = LETTERS[(LETTERS.find(ref) + 1) % 4]
        code = [vocabulary.encode(letter)[0] for letter in (ref, alt)]
        alleles.append(Allele(name, place, *map(int, code)))
        other = [int(vocabulary.reverse_complement(one[None])[0]) for one in code]
        turned.append(Allele(name, len(GENOME[name]) - 1 - place, *other))
        expected.append(slow_score(model, GENOME[name], place, alt, window))
    rows = score(model, write_fasta(tmp_path / "a.fa", GENOME), alleles)
    is_scored = np.array([value is not None for value in expected])
    np.testing.assert_array_equal(rows["reason"] == variants.SCORED, is_scored)
    assert {*rows["reason"].tolist()} == {0, variants.CONTIG_END, variants.AMBIGUOUS}
    # float32 logits, and their logs
    np.testing.assert_allclose(
        rows["score"][is_scored], [value for value in expected if value is not None], atol=2e-4
    )
    assert np.isnan(rows["score"][~is_scored]).all() and rows["score"][is_scored].std() > 0.1
    reverse = {name: other_strand(text) for name, text in GENOME.items()}
    again = score(model, write_fasta(tmp_path / "b.fa", reverse), turned)
    np.testing.assert_array_equal(again["reason"], rows["reason"])
    np.testing.assert_allclose(again["score"], rows["score"], atol=1e-5)


def score(model, fasta: Path, alleles: list[Allele], classifier=None) -> np.ndarray:
    """Returns the rows of a scorer."""
    with reference.opened(fasta) as genome:
        return Scorer(model, genome, SMALL, classifier).score(alleles)


def test_one_strand_is_scored_alone_where_asked(run, fasta, tmp_path):
    model, scores = pretrained.load_masked_lm(run), {}
    with reference.opened(fasta) as genome:
        for strand in ("forward", "reverse", "both"):
            scorer = Scorer(model, genome, ScoreSettings(strand=strand, batch_size=8))
            scores[strand] = scorer.log_posteriors([("chr1", 30), ("chr1", 50)])
    mean = (scores["forward"] + scores["reverse"]) / 2
    np.testing.assert_allclose(scores["both"], mean, atol=1e-5)
    log_p = slow_log_posterior(model, CHR1[30 - 11 : 30 + 11], 11)
    np.testing.assert_allclose(scores["forward"][0], [log_p[a] for a in LETTERS], atol=1e-4)


HEADER = """##fileformat=VCFv4.2
##contig=<ID=chr1>
##INFO=<ID=AC,Number=A,Type=Integer,Description="count">
##INFO=<ID=CMGEMS_LLR,Number=A,Type=Float,Description="of an earlier scoring">
##FORMAT=<ID=GT,Number=1,Type=String,Description="genotype">
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tS1
"""


def others(ref: str) -> str:
    """Returns the other three letters."""
    return LETTERS.replace(ref, "")


def records_of() -> list[tuple]:
    """Returns CHROM, POS, ID, REF, ALT, INFO and the reason of each allele."""
    at = CHR1.__getitem__
    a, b, c = (others(at(place)) for place in (30, 40, 50))
    return [
        ("chr1", 2, "end", at(1), others(at(1))[0], ".", ["contig_end"]),
        ("chr1", 31, "snv", at(30).lower(), a[0], "CMGEMS_LLR=7;AC=3", ["scored"]),
        ("chr1", 41, "many", at(40), f"{b[0]},{b[1]},*", "AC=1,2,3", ["scored"] * 2 + ["not_snv"]),
        ("chr1", 50, "long", CHR1[49:51], f"{at(49)}{c[0]},{at(49)}", ".", ["scored", "not_snv"]),
        ("chr1", 60, "none", at(59), ".", ".", []),
        ("chr1", 61, "insertion", at(60), f"{at(60)}A,<DEL>", ".", ["not_snv"] * 2),
        ("chr2", 36, "by_n", GENOME["chr2"][35], others(GENOME["chr2"][35])[0], ".", ["ambiguous"]),
    ]


def write_vcf(path: Path, records: list[tuple]) -> str:
    """Writes a VCF."""
    lines = [
        f"{chrom}\t{pos}\t{name}\t{ref}\t{alt}\t.\tPASS\t{info}\tGT\t0/1\n"
        for chrom, pos, name, ref, alt, info, _ in records
    ]
    path.write_text(HEADER + "".join(lines))
    return str(path)


def test_a_vcf_comes_back_with_scores_its_records_as_they_were(run, fasta, tmp_path):
    source = write_vcf(tmp_path / "x.vcf", records_of())
    output = tmp_path / "out.vcf.gz"
    counts = score_variants.score_variants(run, fasta, output, vcf_path=source, settings=SMALL)
    assert counts.tolist() == [4, 4, 0, 0, 1, 1]
    with pysam.VariantFile(str(output)) as file:
        assert "CMGEMS_REASON" in file.header.info and file.header.info["CMGEMS_LLR"].number == "A"
        assert "earlier" not in str(file.header) and '##cmgems_jax=<Model="run"' in str(file.header)
        found = list(file)
        assert [record.id for record in file.fetch("chr1", 30, 45)] == ["snv", "many"]  # indexed
    before = list(pysam.VariantFile(source))
    model = pretrained.load_masked_lm(run)
    for record, old, (*_, reasons) in zip(found, before, records_of(), strict=True):
        for name in ("chrom", "pos", "id", "ref", "alts"):
            assert getattr(record, name) == getattr(old, name)
        assert record.samples["S1"]["GT"] == old.samples["S1"]["GT"]
        assert record.filter.keys() == ["PASS"]
        assert record.info.get("AC") == old.info.get("AC")
        assert list(record.info.get("CMGEMS_REASON", ())) == reasons
        for alt, reason, value in zip(
            record.alts or (), reasons, record.info.get("CMGEMS_LLR", ()), strict=True
        ):
            if reason == "scored":  # six digits
                place = record.start + len(alt) - 1
                expected = slow_score(model, GENOME[record.chrom], place, alt[-1])
                assert value == pytest.approx(expected, abs=3e-4)
            else:
                assert value is None


def test_a_table_has_one_line_per_allele_and_says_the_same(run, fasta, tmp_path):
    source, output = write_vcf(tmp_path / "x.vcf", records_of()), tmp_path / "out.tsv"
    bgzip = str(tmp_path / "x.vcf.gz")
    pysam.tabix_compress(source, bgzip)
    score_variants.score_variants(run, fasta, output, vcf_path=bgzip, settings=SMALL)
    header, *lines = [line.split("\t") for line in output.read_text().splitlines()]
    assert header == ["chrom", "pos", "id", "ref", "alt", "score", "reason"]
    assert [line[-1] for line in lines] == [name for *_, names in records_of() for name in names]
    assert [line[2:5] for line in lines[3:5]] == [
        ["many", CHR1[40], others(CHR1[40])[1]], ["many", CHR1[40], "*"],
    ]  # fmt: skip
    assert all((line[5] == ".") == (line[6] != "scored") for line in lines)


def test_what_the_genome_contradicts_is_named_by_its_line_and_left_out_when_told(
    run, fasta, tmp_path
):
    wrong = ("chr1", 20, "wrong", others(CHR1[19])[0], CHR1[19], ".", ["ref_mismatch"])
    absent = ("7", 20, "absent", "A", "C", ".", ["no_contig"])
    source = write_vcf(tmp_path / "x.vcf", [records_of()[1], wrong, absent])
    call = {"vcf_path": source, "settings": SMALL}
    message = rf"x.vcf: line 8: REF {wrong[3]} at chr1:20, but .* has {CHR1[19]} there"
    with pytest.raises(InputError, match=f"{message}.*; 2 of 3 records do not fit"):
        score_variants.score_variants(run, fasta, tmp_path / "out.tsv", **call)
    assert {path.name for path in tmp_path.iterdir()} == {"genome.fa", "x.vcf"}
    call["settings"] = ScoreSettings(skip_mismatches=True, batch_size=8)
    counts = score_variants.score_variants(run, fasta, tmp_path / "out.tsv", **call)
    assert counts.tolist() == [1, 0, 1, 1, 0, 0]


def test_1_and_chr1_are_one_contig_only_when_told(run, fasta, tmp_path):
    records = [("1", *records_of()[1][1:]), ("MT", 9, "m", CHR1[8], others(CHR1[8])[0], ".", [])]
    source = write_vcf(tmp_path / "x.vcf", records)
    with pytest.raises(InputError, match=r"contig '1' is not in .*give --ignore_chr_prefix"):
        score_variants.score_variants(run, fasta, tmp_path / "out.tsv", vcf_path=source)
    settings = ScoreSettings(ignore_chr_prefix=True, batch_size=8)
    output = tmp_path / "out.vcf.gz"
    counts = score_variants.score_variants(run, fasta, output, vcf_path=source, settings=settings)
    assert counts[0] == 2
    assert [record.chrom for record in pysam.VariantFile(str(output))] == ["1", "MT"]  # as written


def test_records_out_of_order_keep_it_and_have_no_index(run, fasta, tmp_path, capsys):
    records = records_of()[::-1]
    source, output = write_vcf(tmp_path / "x.vcf", records), tmp_path / "out.vcf.gz"
    score_variants.score_variants(run, fasta, output, vcf_path=source, settings=SMALL)
    found = [record.id for record in pysam.VariantFile(str(output))]
    assert found == [record[2] for record in records]
    assert "no index was made" in capsys.readouterr().out
    assert not (tmp_path / "out.vcf.gz.tbi").exists()


def test_a_scoring_that_was_cut_off_resumes_and_ends_as_if_it_had_not(
    run, fasta, tmp_path, monkeypatch, capsys
):
    bed = tmp_path / "x.bed"
    bed.write_text("chr1\t20\t40\tpeak\n")
    call = {"bed_path": str(bed), "settings": SMALL}
    score_variants.score_variants(run, fasta, tmp_path / "whole.tsv", **call)
    monkeypatch.setattr(score_variants, "_CHUNK_BATCHES", 2)  # 16 alleles of 60
    score_part, parts = Scorer.score, []

    def breaking(scorer, alleles):
        parts.append(len(alleles))
        if len(parts) == 3:
            raise KeyboardInterrupt
        return score_part(scorer, alleles)

    monkeypatch.setattr(Scorer, "score", breaking)
    with pytest.raises(KeyboardInterrupt):
        score_variants.score_variants(run, fasta, tmp_path / "out.tsv", **call)
    assert not (tmp_path / "out.tsv").exists()
    with pytest.raises(InputError, match=r"keeps rows of a run .* another flags; give the same"):
        score_variants.score_variants(
            run, fasta, tmp_path / "out.tsv", bed_path=str(bed),
            settings=ScoreSettings(strand="forward"),
        )  # fmt: skip
    content = fasta.read_bytes()
    fasta.write_bytes(content.translate(bytes.maketrans(b"ACGT", b"TGCA")))  # of the same lengths
    with pytest.raises(InputError, match=r"keeps rows of a run .* another fasta"):
        score_variants.score_variants(run, fasta, tmp_path / "out.tsv", **call)
    fasta.write_bytes(content)
    score_variants.score_variants(run, fasta, tmp_path / "out.tsv", **call)
    assert "resumed: 32 of 60 alleles were scored before" in capsys.readouterr().out
    assert parts == [16, 16, 16, 16, 12]
    assert (tmp_path / "out.tsv").read_bytes() == (tmp_path / "whole.tsv").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_regions_have_all_three_substitutions_and_a_map(run, fasta, tmp_path):
    bed = tmp_path / "x.bed"
    bed.write_text("track name=x\nchr1\t30\t36\tpeak\nchr2\t39\t41\n")
    output = tmp_path / "out.tsv"
    score_variants.score_variants(run, fasta, output, bed_path=str(bed), settings=SMALL)
    lines = [line.split("\t") for line in output.read_text().splitlines()[1:]]
    assert [line[:5] for line in lines[:18]] == [
        ["chr1", str(place + 1), "peak", CHR1[place], alt]
        for place in range(30, 36)
        for alt in "ACGT"
        if alt != CHR1[place]
    ]
    expected = slow_score(pretrained.load_masked_lm(run), CHR1, 35, lines[17][4])
    assert float(lines[17][5]) == pytest.approx(expected, abs=3e-4)
    assert [line[3:] for line in lines[-1:]] == [["N", "N", ".", "ambiguous"]]
    assert len(lines) == 18 + 3 + 1
    assert (tmp_path / "out.chr1_30_36.png").read_bytes()[:4] == b"\x89PNG"


def test_a_classifier_tells_what_the_allele_changes_in_its_probabilities(run, fasta, tmp_path):
    classifier = make_classifier(num_classes=3, max_tokens=17)  # 17 bases
    save_classifier(tmp_path / "fine", classifier, task="t", recipe={}, source="run")
    source, output = write_vcf(tmp_path / "x.vcf", records_of()), tmp_path / "out.vcf.gz"
    score_variants.score_variants(
        run, fasta, output, vcf_path=source, classifier=tmp_path / "fine", settings=SMALL
    )
    record = next(one for one in pysam.VariantFile(str(output)) if one.id == "snv")
    position, alt = record.start, record.alts[0]

    def shares(strand: str, place: int, letter: str) -> np.ndarray:
        start = place - 17 // 2
        seen = strand[start:place] + letter + strand[place + 1 : start + 17]
        return np.asarray(jax.nn.softmax(slow_logits(classifier, vocabulary.encode(seen))))

    back, place = other_strand(CHR1), len(CHR1) - 1 - position
    expected = (
        shares(CHR1, position, alt) - shares(CHR1, position, CHR1[position])
        + shares(back, place, other_strand(alt)) - shares(back, place, back[place])
    ) / 2  # fmt: skip
    found = [record.info[f"CMGEMS_CHANGE_class{number}"][0] for number in range(3)]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize(
    ("ref", "alt", "expected"),
    [
        ("A", "T", (0, 0, 1)),
        ("ca", "ta", (0, 2, 1)),
        ("CAG", "CAC", (2, 3, 2)),
        ("A", "A", None),
        ("AC", "GT", None),
        ("A", "AT", None),
        ("A", "*", None),
        ("A", "N", None),
        ("R", "A", None),
    ],
)
def test_a_substitution_is_one_known_letter_for_another(ref, alt, expected):
    assert vcf.substitution(ref, alt) == expected


@pytest.mark.parametrize(
    ("text", "call", "message"),
    [
        ("", {}, "give one of --vcf=FILE and --bed=REGIONS"),
        (">x\nA\n", {"vcf_path": "x"}, "x: cannot be read as VCF or BCF"),
        (f"{HEADER}no\n", {"vcf_path": "x"}, "x: line 7: no record of VCF .*POS \\(a number\\)"),
        (gzip.compress(HEADER.encode()), {"vcf_path": "x"}, "x: packed by gzip, .* > NEW.gz"),
        (
            f"{HEADER}chr1\t30\tid\xe8\t{CHR1[29]}\tA\t.\t.\t.\n".encode("latin-1"),
            {"vcf_path": "x"},
            "x: line 7: not UTF-8; convert the file: iconv",
        ),
        ("chr1\t3\t9\n", {"bed_path": "o.tsv"}, "--output=o.tsv: is an input, o.tsv"),
        ("chr1\t30\n", {"bed_path": "x"}, "x: line 1: .*expected contig, start .* and end"),
        ("chr1\t30\t91\n", {"bed_path": "x"}, "x: line 1: 30 to 91: expected start < end <= 90"),
        ("1\t3\t9\n", {"bed_path": "x"}, "x: line 1: contig '1' is not in"),
        ("#\n", {"bed_path": "x"}, "x: no region"),
        ("", {"bed_path": "x", "output": "o.vcf.gz"}, "unknown kind of file"),
        (
            "chr1\t3\t9\n",
            {"bed_path": "x", "settings": ScoreSettings(window=4)},
            "--window=4: expected 5 bases or more",
        ),
    ],
)
def test_bad_input_is_refused_before_the_long_work(
    run, fasta, tmp_path, monkeypatch, text, call, message
):
    monkeypatch.chdir(tmp_path)
    Path("x").write_bytes(text if isinstance(text, bytes) else text.encode())
    output = call.pop("output", "o.tsv")
    Path("o.tsv").write_text("former")
    with pytest.raises(InputError, match=message):
        score_variants.score_variants(run, fasta, output, **call)
    assert Path("o.tsv").read_text() == "former"
    assert {path.name for path in tmp_path.iterdir()} == {"genome.fa", "x", "o.tsv"}
