"""End to end: a classifier trained on a planted motif leads back to it."""

from pathlib import Path

import numpy as np
import pyarrow.csv
import pytest

from cmgems_jax.config import Config, ModelConfig, TokensConfig
from cmgems_jax.downstream.finetuning import loop as finetuning_loop
from cmgems_jax.downstream.finetuning.classifier import TrainedClassifier, save_classifier
from cmgems_jax.downstream.finetuning.recipes import Recipe
from cmgems_jax.downstream.motifs import attribution, contrast, motifs
from cmgems_jax.downstream.motifs import report as motif_report
from cmgems_jax.downstream.motifs.contrast import Contrast
from cmgems_jax.downstream.motifs.enrichment import MotifSettings
from cmgems_jax.downstream.tasks.files import Examples
from cmgems_jax.downstream.tasks.tasks import Task, TaskData
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.pretraining import pretrained
from cmgems_jax.pretraining.pretrained import Pretrained
from tests.helpers import run_python

MOTIF, LENGTH, K = "TATAAAAG", 40, 4
MODEL = ModelConfig(
    num_layers=1, hidden_size=32, num_heads=4, feedforward_size=64, num_positions=64, dropout=0.0,
    attention_dropout=0.0, embedding_init="bases",
)  # fmt: skip


def planted(num: int, seed: int) -> tuple[Examples, np.ndarray]:
    """Returns random sequences, every second one with the motif, and where it starts."""
    rng = np.random.default_rng(seed)
    bases_NM = rng.integers(0, 4, (num, LENGTH)).astype(np.uint8)
    labels_N = np.arange(num, dtype=np.int32) % 2
    start_N = rng.integers(0, LENGTH - len(MOTIF) + 1, num)
    for row in np.flatnonzero(labels_N):
        bases_NM[row, start_N[row] : start_N[row] + len(MOTIF)] = vocabulary.encode(MOTIF)
    return Examples(bases_NM, labels_N, np.arange(num, dtype=np.int32) + 2, "planted"), start_N


@pytest.fixture(scope="module")
def classifier() -> TrainedClassifier:
    """A small network, trained from its initial values for a few seconds."""
    config = Config(model=MODEL, tokens=TokensConfig(k=K))
    encoder = pretrained.untrained(Pretrained(config, {}, "small"), seed=0)
    recipe = Recipe(peak_lr=3e-3, num_epochs=8, batch_size=50, warmup_share=0.1, dropout=0.0)
    train, _ = planted(1_000, seed=0)
    every_row = np.arange(1_000)[None]
    data = TaskData(Task("planted", "own", 2, "mcc"), train, None, train, ["absent", "planted"], [])
    trained = finetuning_loop.train_draws(encoder, data, every_row, recipe, seed=0)
    max_tokens = vocabulary.num_tokens(LENGTH, K) + 2
    return TrainedClassifier(config, trained.of_draw(0), ["absent", "planted"], max_tokens)


@pytest.fixture(scope="module")
def held_out() -> tuple[Contrast, np.ndarray]:
    """Sequences that were not trained on, and where the motif starts."""
    examples, start_N = planted(400, seed=1)
    names = [f"r{row}" for row in range(400)]
    return Contrast(examples.bases_NM, examples.labels_N == 1, names), start_N


def test_the_motif_comes_first_and_scores_fall_on_it(classifier, held_out):
    pair, start_N = held_out
    scores_NM = attribution.base_scores(classifier, pair.bases_NM, 1)
    found, _, _ = motifs.find_motifs(pair.bases_NM, pair.is_positive_N, scores_NM, MotifSettings())
    assert MOTIF in found[0].consensus
    assert found[0].q < 1e-20 and found[0].positives > 160
    place_M = np.arange(LENGTH)
    inside_NM = (place_M >= start_N[:, None]) & (place_M < start_N[:, None] + len(MOTIF))
    positive_NM = np.where(pair.is_positive_N[:, None], scores_NM, np.nan)
    inside = np.nanmean(np.where(inside_NM, positive_NM, np.nan))
    assert inside > 10 * abs(np.nanmean(np.where(inside_NM, np.nan, positive_NM)))


def test_the_substitutions_that_matter_are_in_the_planted_site(classifier, held_out):
    pair, start_N = held_out
    num_inside = 0
    changes = attribution.mutagenesis(classifier, 1, batch_size=128)
    for row in np.flatnonzero(pair.is_positive_N)[:10]:
        change_M4 = changes(pair.bases_NM[row])
        strongest = np.argsort(change_M4.min(axis=1))[:4]
        num_inside += int(((strongest >= start_N[row]) & (strongest < start_N[row] + 8)).sum())
        assert change_M4.min() < -1  # nats of log-odds lost
    assert num_inside >= 38  # of 40; by chance 8


def test_the_command_writes_table_logos_meme_regions_and_maps(classifier, held_out, tmp_path):
    pair, _ = held_out
    save_classifier(tmp_path / "fine", classifier, task="planted", recipe={}, source="none")
    for name, side in (("p.fa", True), ("n.fa", False)):
        rows = np.flatnonzero(pair.is_positive_N == side)
        records = (f">{pair.names[row]}\n{vocabulary.decode(pair.bases_NM[row])}\n" for row in rows)
        (tmp_path / name).write_text("".join(records))
    output = tmp_path / "out"
    arguments = [
        f"--checkpoint={tmp_path / 'fine'}", f"--positives={tmp_path / 'p.fa'}",
        f"--negatives={tmp_path / 'n.fa'}", f"--output={output}", "--mutagenesis=r3",
        "--strand=both",
    ]  # fmt: skip
    found = run_python("-m", "launch.motifs", *arguments)
    assert found.returncode == 0, found.stderr
    assert "200 positives (class planted), 200 negatives" in found.stdout
    options = pyarrow.csv.ParseOptions(delimiter="\t")
    table = pyarrow.csv.read_csv(output / "motifs.tsv", parse_options=options).to_pylist()
    assert MOTIF in table[0]["motif"] and table[0]["seed_positives"] > 150
    assert (table[0]["known_motif"], table[0]["known_id"]) == ("TBP", "MA0108.3")
    assert 0 < table[0]["known_p"] < 0.01 and "TBP (MA0108.3, q = " in found.stdout
    assert {row["strand"] for row in table} == {"both"} and "strand: both" in found.stdout
    for row in table:
        assert (output / row["logo"]).read_bytes().startswith(b"\x89PNG")
    assert sum(line.startswith("MOTIF") for line in open_lines(output / "motifs.meme")) == len(
        table
    )
    regions = pyarrow.csv.read_csv(output / "regions.tsv", parse_options=options).to_pylist()
    for region in regions[:20]:
        bases_M = pair.bases_NM[pair.names.index(region["record"])]
        assert (
            vocabulary.decode(bases_M[region["start_0based"] : region["end_excluded"]])
            == region["sequence"]
        )
    assert {path.name for path in (output / "mutagenesis").iterdir()} == {"r3.png", "r3.tsv"}
    header, *lines = open_lines(output / "mutagenesis" / "r3.tsv")
    assert header.split("\t") == ["position_0based", "reference", "A", "C", "G", "T"]
    assert [int(line.split("\t")[0]) for line in lines] == list(range(len(lines)))
    changes = attribution.mutagenesis(classifier, 1, batch_size=128, strand="both")
    change_M4 = changes(pair.bases_NM[3])
    values = np.array([line.split("\t")[2:] for line in lines], float)
    np.testing.assert_allclose(values, change_M4[:, [0, 2, 3, 1]], atol=1e-3)  # six digits of 10


def test_scores_of_the_other_strand_are_aligned_and_both_are_their_mean(classifier, held_out):
    bases_NM = held_out[0].bases_NM[:16].copy()
    bases_NM[3:, 30:] = vocabulary.PADDING  # some are shorter
    forward, reverse, both = (
        attribution.base_scores(classifier, bases_NM, 1, strand=strand)
        for strand in vocabulary.STRANDS
    )
    other = attribution.base_scores(classifier, vocabulary.reverse_complement(bases_NM), 1)
    np.testing.assert_allclose(reverse[:3], other[:3, ::-1], atol=1e-5)
    np.testing.assert_allclose(reverse[3:, :30], other[3:, :30][:, ::-1], atol=1e-5)
    np.testing.assert_allclose(both, (forward + reverse) / 2, atol=1e-5)


def test_where_nothing_is_found_it_says_what_to_try(classifier, held_out, tmp_path, capsys):
    pair, _ = held_out
    rows = np.flatnonzero(~pair.is_positive_N)[:40]  # of one class: no difference to find
    same = Contrast(pair.bases_NM[rows], np.arange(40) < 20, [pair.names[row] for row in rows])
    motifs = motif_report.write_motifs(classifier, same, 1, tmp_path / "out", MotifSettings())
    assert motifs == []
    printed = capsys.readouterr().out
    for advice in ("--limit", "--motif_length=5 or 8", "--num_sd=0.5", "metrics.json"):
        assert advice in printed


def open_lines(path: Path) -> list[str]:
    """Returns the lines of a text file."""
    return path.read_text().splitlines()


def test_which_sequences_are_mapped_is_said_by_name_or_number(held_out):
    pair, _ = held_out
    assert motif_report.rows_to_map(pair, "") == []
    assert motif_report.rows_to_map(pair, "r7") == [7]
    assert motif_report.rows_to_map(pair, "3") == [1, 3, 5]
    with pytest.raises(InputError, match="--mutagenesis=chr1: no such record, or none that"):
        motif_report.rows_to_map(pair, "chr1")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (MotifSettings(width=3), "--motif_length=3: expected 4 to 12"),
        (MotifSettings(width=13), "--motif_length=13: expected 4 to 12"),
        (MotifSettings(num_sd=-1), "--num_sd=-1: expected 0 to 10"),
        (MotifSettings(alpha=2), "--alpha=2: expected 0 to 1"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    classifier, held_out, tmp_path, settings, message
):
    with pytest.raises(InputError, match=message):
        motif_report.write_motifs(classifier, held_out[0], 1, tmp_path / "out", settings)
    assert not list(tmp_path.iterdir())


def test_a_task_and_files_are_not_taken_together():
    flags = ("--checkpoint=x", "--output=y", "--task=t", "--positives=p.fa")
    told = run_python("-m", "launch.motifs", *flags)
    assert told.returncode == 2 and "give either --positives=FASTA and" in told.stderr


def test_a_folder_with_other_files_is_refused_before_the_scoring(classifier, held_out, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"holds other files \(thesis.tex\)"):
        motif_report.write_motifs(classifier, held_out[0], 1, tmp_path, MotifSettings())


def test_sequences_longer_than_the_classifier_takes_are_refused(classifier, held_out, tmp_path):
    pair, _ = held_out
    longer = np.concatenate([pair.bases_NM, pair.bases_NM], axis=1)
    wrong = contrast.Contrast(longer, pair.is_positive_N, pair.names)
    with pytest.raises(
        InputError, match=f"sequence {pair.names[0]}: 80 bases; the classifier takes 4 to 40"
    ):
        motif_report.write_motifs(classifier, wrong, 1, tmp_path / "out", MotifSettings())
    assert not list(tmp_path.iterdir())
