"""Predictions and embeddings of FASTA files: those of each record alone, in order."""

import dataclasses
import subprocess
import zipfile
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from cmgems_jax.config import Config, TokensConfig
from cmgems_jax.downstream.finetuning.classifier import load_classifier, save_classifier
from cmgems_jax.downstream.inference import embed, predict, sliding
from cmgems_jax.downstream.inference.embed import Embedder
from cmgems_jax.downstream.inference.settings import WindowSettings
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.model import bert, heads
from cmgems_jax.pretraining import checkpoints, optimizer, steps
from tests.downstream.random_classifier import MODEL, make_classifier, slow_ids, slow_logits
from tests.helpers import run_python

WINDOW, STRIDE = 22, 10  # bases: 20 3-mers, and half of them
SMALL = WindowSettings(batch_size=4)
ENCODE = jax.jit(bert.Encoder(MODEL, TokensConfig(k=3)).apply)  # compiled once a length


def write_fasta(path: Path, lengths: list[int], seed: int = 0) -> dict[str, np.ndarray]:
    """Writes random records with some ambiguous letters; returns their base codes."""
    rng = np.random.default_rng(seed)
    records = {}
    for number, length in enumerate(lengths):
        letters = rng.choice(list("ACGTN"), length, p=[0.24, 0.24, 0.24, 0.24, 0.04])
        letters[:3] = list("ACG")  # at least one known 3-mer
        records[f"r{number}"] = "".join(letters)
    path.write_text("".join(f">{name} text\n{text}\n" for name, text in records.items()))
    return {name: vocabulary.encode(text) for name, text in records.items()}


def rows_of(path: Path) -> tuple[list[str], list[list[str]]]:
    """Returns the header and the rows of a tsv."""
    header, *rows = [line.split("\t") for line in path.read_text().splitlines()]
    return header, rows


def slow_windows(bases: np.ndarray) -> list[tuple[int, int]]:
    """Returns start and end of every window, by hand."""
    if len(bases) <= WINDOW:
        return [(0, len(bases))]
    starts = [start for start in range(0, len(bases) - WINDOW, STRIDE)]
    return [(start, start + WINDOW) for start in [*starts, len(bases) - WINDOW]]


@pytest.fixture(scope="module")
def classifier():
    return make_classifier(num_classes=3)


LENGTHS = [3, 22, 23, 60, 10, 47, 22, 5, 31]


@pytest.mark.parametrize("head", ["cls", "features"])
def test_probabilities_are_those_of_each_record_alone_in_the_files_order(head, tmp_path):
    classifier = make_classifier(num_classes=3, head=head)
    records = write_fasta(tmp_path / "a.fa", LENGTHS)
    output = tmp_path / "out.tsv"
    fasta = [str(tmp_path / "a.fa")]
    survey = predict.predict(classifier, fasta, output, SMALL, each_window=False)
    header, rows = rows_of(output)
    labels = ["p_class0", "p_class1", "p_class2"]
    assert header == ["record", "windows", "strand", "prediction", *labels]
    assert [row[0] for row in rows] == list(records)
    for row, bases in zip(rows, records.values(), strict=True):
        windows = slow_windows(bases)
        expected = np.mean(
            [jax.nn.softmax(slow_logits(classifier, bases[a:b])) for a, b in windows], axis=0
        )
        np.testing.assert_allclose(np.array(row[4:], float), expected, atol=5e-6)  # six digits
        assert int(row[1]) == len(windows)
        assert row[2:4] == ["forward", f"class{expected.argmax()}"]
    assert survey.num_windows == sum(int(row[1]) for row in rows)
    assert len({row[4] for row in rows}) == len(rows)  # the model does tell them apart


def test_each_window_has_its_own_row_and_the_record_is_their_mean(classifier, tmp_path):
    records = write_fasta(tmp_path / "a.fa", LENGTHS)
    fasta = [str(tmp_path / "a.fa")]
    predict.predict(classifier, fasta, tmp_path / "records.tsv", each_window=False)
    predict.predict(classifier, fasta, tmp_path / "windows.tsv", each_window=True)
    header, rows = rows_of(tmp_path / "windows.tsv")
    assert header[:4] == ["record", "start_0based", "end_excluded", "strand"]
    expected = [(name, *place) for name, bases in records.items() for place in slow_windows(bases)]
    assert [(row[0], int(row[1]), int(row[2])) for row in rows] == expected
    for record in rows_of(tmp_path / "records.tsv")[1]:
        of_windows = [np.array(row[5:], float) for row in rows if row[0] == record[0]]
        np.testing.assert_allclose(
            np.mean(of_windows, axis=0), np.array(record[4:], float), atol=2e-6
        )


def test_records_longer_than_a_window_are_scanned_unless_told_otherwise(classifier, tmp_path):
    for lengths, expected in (([20, 22], "windows"), ([20, 23], "start_0based")):
        write_fasta(tmp_path / "a.fa", lengths)
        predict.predict(classifier, tmp_path / "a.fa", tmp_path / "out.tsv")
        header, rows = rows_of(tmp_path / "out.tsv")
        assert header[1] == expected and len(rows) == 2 + (expected != "windows")


def test_parquet_holds_what_the_tsv_holds(classifier, tmp_path):
    write_fasta(tmp_path / "a.fa", LENGTHS)
    fasta = [str(tmp_path / "a.fa")]
    settings = WindowSettings(stride=7)
    predict.predict(classifier, fasta, tmp_path / "out.tsv", settings, each_window=False)
    predict.predict(classifier, fasta, tmp_path / "out.parquet", settings, each_window=False)
    header, rows = rows_of(tmp_path / "out.tsv")
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.column_names == header
    for row, other in zip(rows, found.to_pylist(), strict=True):
        assert [row[0], int(row[1]), *row[2:4]] == list(other.values())[:4]
        np.testing.assert_allclose(np.array(row[4:], float), list(other.values())[4:], atol=1e-6)


def write_reverse_complement(path: Path, records: dict[str, np.ndarray]) -> Path:
    """Writes the records' other strands, by letters."""
    letters = str.maketrans("ACGTN", "TGCAN")
    other = {name: vocabulary.decode(bases)[::-1] for name, bases in records.items()}
    path.write_text(
        "".join(f">{name}\n{text.translate(letters)}\n" for name, text in other.items())
    )
    return path


def test_a_record_and_its_reverse_complement_have_one_prediction_from_both_strands(
    classifier, tmp_path, capsys
):
    """Also where a record has several windows, and for an odd number of them."""
    records = write_fasta(tmp_path / "a.fa", [*LENGTHS, 33, 44, 45])
    other = write_reverse_complement(tmp_path / "b.fa", records)
    found = {}
    for name, fasta, strand in (
        ("forward", tmp_path / "a.fa", "forward"),
        ("reverse", other, "reverse"),
        ("both", tmp_path / "a.fa", "both"),
        ("both of the other", other, None),  # the classifier's own
    ):
        classifier = dataclasses.replace(classifier, strand=strand or "both")
        output = tmp_path / "out.parquet"
        settings = WindowSettings(strand=strand, batch_size=4)
        predict.predict(classifier, fasta, output, settings, each_window=False)
        strand = strand or "both"
        assert f"strand: {strand}" in capsys.readouterr().out
        table = pq.read_table(tmp_path / "out.parquet").to_pydict()
        assert set(table["strand"]) == {strand}
        found[name] = np.array([table[f"p_class{label}"] for label in range(3)])
    np.testing.assert_allclose(found["both"], found["both of the other"], atol=1e-6)
    assert abs(found["both"] - found["forward"]).max() > 1e-3
    # A record of one window: the other strand of its other strand is itself.
    short = [row for row, bases in enumerate(records.values()) if len(bases) <= WINDOW]
    np.testing.assert_allclose(found["reverse"][:, short], found["forward"][:, short], atol=1e-6)
    for row in short:
        bases = list(records.values())[row]
        each = [
            jax.nn.softmax(slow_logits(classifier, read))
            for read in (bases, vocabulary.reverse_complement(bases))
        ]
        np.testing.assert_allclose(found["both"][:, row], np.mean(each, axis=0), atol=1e-6)


def test_several_files_are_one_input_and_names_may_not_repeat(classifier, tmp_path):
    write_fasta(tmp_path / "a.fa", [20])
    (tmp_path / "b.fa").write_text(">other\nACGTACGT\n")
    both = [str(tmp_path / "a.fa"), str(tmp_path / "b.fa")]
    predict.predict(classifier, both, tmp_path / "out.tsv")
    assert [row[0] for row in rows_of(tmp_path / "out.tsv")[1]] == ["r0", "other"]
    (tmp_path / "b.fa").write_text(">r0\nACGTACGT\n")
    with pytest.raises(InputError, match="b.fa: record 'r0': a second record of this name"):
        predict.predict(classifier, both, tmp_path / "out.tsv")


@pytest.mark.parametrize(
    ("text", "output", "options", "message"),
    [
        (">x\nACGT\n", "out.csv", {}, "unknown kind of file '.csv'"),
        (">x\nACGT\n", "none/out.tsv", {}, "no folder .*none; make it first"),
        (">x\nACGT\n>y\nAC\n", "out.tsv", {}, "record 'y': 2 bases; expected at least 3"),
        ("", "out.tsv", {}, "empty; expected FASTA records"),
        (">x\nACGT\n", "out.tsv", {"window": 23}, "--window=23: expected 3 to 22 bases"),
        (">x\nACGT\n", "out.tsv", {"stride": 21}, "--stride=21: expected 1 to 20 bases"),
    ],
)
def test_bad_input_is_refused_and_a_former_output_stays(
    classifier, tmp_path, text, output, options, message
):
    (tmp_path / "a.fa").write_text(text)
    (tmp_path / "out.tsv").write_text("former")
    with pytest.raises(InputError, match=message):
        settings = WindowSettings(**options)
        predict.predict(classifier, [str(tmp_path / "a.fa")], tmp_path / output, settings)
    assert (tmp_path / "out.tsv").read_text() == "former"
    assert {path.name for path in tmp_path.iterdir()} == {"a.fa", "out.tsv"}


def test_a_prediction_that_breaks_off_leaves_the_former_output(classifier, tmp_path, monkeypatch):
    write_fasta(tmp_path / "a.fa", LENGTHS)
    (tmp_path / "out.tsv").write_text("former")
    rows = predict.window_predictions

    def breaking(*arguments):
        yield next(rows(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "window_predictions", breaking)
    with pytest.raises(KeyboardInterrupt):
        predict.predict(classifier, [str(tmp_path / "a.fa")], tmp_path / "out.tsv")
    assert (tmp_path / "out.tsv").read_text() == "former"
    assert {path.name for path in tmp_path.iterdir()} == {"a.fa", "out.tsv"}


def slow_states(embedder: Embedder, bases: np.ndarray) -> np.ndarray:
    """Returns the last layer's states (L, D) of one stretch alone, [CLS] and [SEP] included."""
    return np.asarray(ENCODE({"params": embedder.params}, slow_ids(bases))[0])


def slow_tokens(embedder: Embedder, bases: np.ndarray) -> np.ndarray:
    """Returns the states (T, D) of all k-mers, each from the window with more context."""
    windows = slow_windows(bases)
    chosen = {}
    for start, end in windows:
        states = slow_states(embedder, bases[start:end])[1:-1]
        for place, state in enumerate(states):
            context = min(place, len(states) - 1 - place) if len(windows) > 1 else 0
            if start + place not in chosen or context >= chosen[start + place][0]:
                chosen[start + place] = (context, state)
    return np.stack([chosen[place][1] for place in sorted(chosen)])


@pytest.fixture(scope="module")
def embedder(classifier):
    return Embedder(classifier.config, classifier.params["encoder"], classifier.max_tokens)


@pytest.fixture
def embedded(embedder, tmp_path):
    """Returns a function of the pooling and the suffix: the output's path; and the records."""
    records = write_fasta(tmp_path / "a.fa", LENGTHS)

    def run(pooling: str, suffix: str) -> Path:
        output = tmp_path / f"{pooling}{suffix}"
        embed.embed(embedder, [str(tmp_path / "a.fa")], output, SMALL, pooling=pooling)
        return output

    return run, records


def test_token_embeddings_are_those_of_each_kmer_with_most_context(embedder, embedded, capsys):
    run, records = embedded
    found = np.load(run("tokens", ".npz"))
    assert list(found) == list(records)
    for name, bases in records.items():
        assert found[name].shape == (len(bases) - 2, 16) and found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], slow_tokens(embedder, bases), atol=1e-5)
    num_rows = sum(LENGTHS) - 2 * len(LENGTHS)
    assert f"9 arrays (k-mers, 16) float32, {num_rows} k-mers in all" in capsys.readouterr().out


def test_the_mean_is_over_the_kmers_without_ambiguous_letters_each_once(embedded, capsys):
    run, records = embedded
    tokens, found = np.load(run("tokens", ".npz")), np.load(run("mean", ".npz"))
    assert found["ids"].tolist() == list(records)
    assert found["embeddings"].shape == (9, 16) and found["embeddings"].dtype == np.float32
    for name, mean in zip(records, found["embeddings"], strict=True):
        known = vocabulary.tokenize(records[name], 3) >= vocabulary.NUM_SPECIAL
        np.testing.assert_allclose(mean, tokens[name][known].mean(axis=0), atol=1e-5)
    assert "embeddings (9, 16) float32, ids (9,)" in capsys.readouterr().out


def test_cls_is_the_first_state_averaged_over_windows(embedder, embedded):
    run, records = embedded
    found = np.load(run("cls", ".npz"))["embeddings"]
    for row, bases in zip(found, records.values(), strict=True):
        states = [slow_states(embedder, bases[a:b])[0] for a, b in slow_windows(bases)]
        np.testing.assert_allclose(row, np.mean(states, axis=0), atol=1e-5)


def test_states_of_the_other_strand_are_aligned_to_the_forward_one(embedder, embedded, tmp_path):
    run, records = embedded
    fasta, found = str(tmp_path / "a.fa"), {}
    for strand in vocabulary.STRANDS:
        output = tmp_path / f"{strand}.npz"
        settings = WindowSettings(strand=strand, batch_size=4)
        embed.embed(embedder, fasta, output, settings, pooling="tokens")
        found[strand] = np.load(output)
        assert zipfile.ZipFile(output).comment.decode() == f"strand: {strand}"
    one_window = {name: bases for name, bases in records.items() if len(bases) <= WINDOW}
    for name, bases in one_window.items():
        forward = slow_states(embedder, bases)[1:-1]
        other = slow_states(embedder, vocabulary.reverse_complement(bases))[1:-1][::-1]
        np.testing.assert_allclose(found["reverse"][name], other, atol=1e-5)
        np.testing.assert_allclose(found["both"][name], (forward + other) / 2, atol=1e-5)
    output = tmp_path / "mean.parquet"
    embed.embed(embedder, fasta, output, WindowSettings(strand="reverse"))
    assert pq.read_schema(output).metadata[b"strand"] == b"reverse"
    assert str(np.load(run("mean", ".npz"))["strand"]) == "forward"


def test_parquet_holds_the_same_embeddings(embedded):
    run, records = embedded
    arrays, table = np.load(run("mean", ".npz")), pq.read_table(run("mean", ".parquet"))
    assert table["ids"].to_pylist() == list(records)
    np.testing.assert_array_equal(np.array(table["embeddings"].to_pylist()), arrays["embeddings"])
    tokens, table = np.load(run("tokens", ".npz")), pq.read_table(run("tokens", ".parquet"))
    np.testing.assert_array_equal(
        np.array(table["embedding"].to_pylist()), np.concatenate([tokens[name] for name in records])
    )
    starts = [place for bases in records.values() for place in range(len(bases) - 2)]
    assert table["start_0based"].to_pylist() == starts


def test_a_record_without_a_known_kmer_has_no_mean_and_is_refused(embedder, tmp_path):
    (tmp_path / "a.fa").write_text(">x\nACGT\n>y\nNNNNNN\n")
    fasta = [str(tmp_path / "a.fa")]
    with pytest.raises(InputError, match="record 'y': no 3-mer without ambiguous letters"):
        embed.embed(embedder, fasta, tmp_path / "out.npz")
    embed.embed(embedder, fasta, tmp_path / "out.npz", pooling="cls")
    assert np.load(tmp_path / "out.npz")["ids"].tolist() == ["x", "y"]
    with pytest.raises(InputError, match="unknown kind of file '.tsv'; expected .* .npz or"):
        embed.embed(embedder, fasta, tmp_path / "out.tsv")


def test_memory_does_not_grow_with_the_number_of_records(classifier, tmp_path, monkeypatch):
    """Rows are written while later records are still unread."""
    write_fasta(tmp_path / "a.fa", [22] * 400)
    events = []
    read = sliding.read_windows

    def counted(*arguments):
        for window in read(*arguments):
            events.append("read")
            yield window

    rows = predict.record_means

    def written(*arguments):
        for row in rows(*arguments):
            events.append("written")
            yield row

    monkeypatch.setattr(sliding, "read_windows", counted)
    monkeypatch.setattr(predict, "record_means", written)
    predict.predict(classifier, [str(tmp_path / "a.fa")], tmp_path / "out.tsv", SMALL)
    assert events.count("read") == events.count("written") == 400
    assert events.index("written") == 4 * sliding.CHUNK_BATCHES


def save_pretraining(workdir: Path) -> dict:
    """Writes the checkpoint of a run that has not begun; returns its encoder's parameters."""
    config = Config(model=MODEL, tokens=TokensConfig(k=3))
    config.data.num_tokens = 22
    model = heads.MaskedLM(config.model, config.tokens)
    ranks_V = np.arange(1, 4**config.tokens.k + 1, dtype=np.int32)
    state = steps.init_state(config, model, optimizer.make(config), ranks_V)
    with checkpoints.opened(workdir, config) as manager:
        checkpoints.save(manager, state, config, wait=True)
    return state.params["encoder"]


def test_the_encoder_comes_from_a_pretraining_run_or_from_a_classifier(classifier, tmp_path):
    params = save_pretraining(tmp_path / "run")
    pretrained = embed.load_embedder(tmp_path / "run")
    assert pretrained.max_tokens == 22 and pretrained.config.tokens.k == 3
    jax.tree.map(np.testing.assert_array_equal, pretrained.params, params)
    save_classifier(tmp_path / "fine", classifier, task="t", recipe={}, source="run")
    fine = embed.load_embedder(tmp_path / "fine")
    assert fine.max_tokens == classifier.max_tokens
    jax.tree.map(np.testing.assert_array_equal, fine.params, classifier.params["encoder"])
    with pytest.raises(InputError, match="no such folder"):
        embed.load_embedder(tmp_path / "none")


def command(name: str, *arguments: object) -> subprocess.CompletedProcess:
    """Runs `python -m launch.NAME`."""
    return run_python("-m", f"launch.{name}", *arguments)


def test_the_commands_write_their_files_and_print_shapes(classifier, tmp_path):
    write_fasta(tmp_path / "a.fa", LENGTHS)
    save_classifier(tmp_path / "fine", classifier, task="t", recipe={}, source="run")
    shared = (f"--checkpoint={tmp_path / 'fine'}", f"--fasta={tmp_path / 'a.fa'}")
    output = tmp_path / "out.tsv"
    found = command("predict", *shared, f"--output={output}", "--stride=10", "--windows")
    assert found.returncode == 0, found.stderr
    assert "9 records, 223 bases" in found.stdout and f"wrote {output}" in found.stdout
    predict.predict(classifier, [str(tmp_path / "a.fa")], tmp_path / "b.tsv", each_window=True)
    places = [[row[:3] for row in rows_of(path)[1]] for path in (output, tmp_path / "b.tsv")]
    assert places[0] == places[1]
    found = command("embed", *shared, f"--output={tmp_path / 'out.npz'}", "--pooling=cls")
    assert found.returncode == 0, found.stderr
    assert "cls: embeddings (9, 16) float32, ids (9,)" in found.stdout
    found = command("predict", *shared, f"--output={output}", "--class=x")
    assert found.returncode == 2 and "a table has all classes; leave it out" in found.stderr


def test_paths_may_be_text_and_a_single_file_is_a_list_of_one(classifier, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_fasta(Path("a.fa"), [20, 12])
    save_classifier("fine", classifier, task="t", recipe={}, source="run")
    predict.predict(load_classifier("fine"), "a.fa", "text.tsv")
    predict.predict(load_classifier(Path("fine")), [Path("a.fa")], Path("path.tsv"))
    assert Path("text.tsv").read_bytes() == Path("path.tsv").read_bytes()
    embed.embed(embed.load_embedder("fine"), "a.fa", "text.npz")
    assert np.load("text.npz")["ids"].tolist() == ["r0", "r1"]


def test_the_names_of_records_are_told_apart_where_they_are_keys(classifier, tmp_path):
    """The first word behind > and its blanks; made up, and told, where there is none."""
    (tmp_path / "a.fa").write_text("> promA chr1:100-160\nACGTACGT\n>\nACGTACGA\n>\nACGTACGC\n")
    predict.predict(classifier, tmp_path / "a.fa", tmp_path / "out.tsv")
    names = [row[0] for row in rows_of(tmp_path / "out.tsv")[1]]
    assert names == ["promA", "unnamed_1", "unnamed_2"]


def test_the_commands_exit_with_2_and_one_line_on_bad_input(tmp_path):
    found = command("predict", f"--checkpoint={tmp_path}", "--fasta=none.fa", "--output=out.tsv")
    assert found.returncode == 2
    assert found.stderr.startswith(f"error: {tmp_path}: no classifier.json in it; expected")
    assert found.stderr.count("\n") == 1
