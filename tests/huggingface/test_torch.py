"""Exports in torch and transformers, old and new: the same numbers through stock classes.

Skipped unless TORCH_PYTHON names interpreters with torch and transformers, separated
by commas (.ci/run makes two: requirements-export-test.txt and its -old twin).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmgems_jax.config import Config, DataConfig, ModelConfig
from cmgems_jax.downstream.evaluation import given_features
from cmgems_jax.downstream.finetuning.classifier import TrainedClassifier, save_classifier
from cmgems_jax.downstream.inference import embed
from cmgems_jax.downstream.tasks import files as task_files
from cmgems_jax.downstream.tasks import synthetic as synthetic_task
from cmgems_jax.genome import files as genome_files
from cmgems_jax.genome import vocabulary
from cmgems_jax.huggingface import export
from cmgems_jax.model import heads
from cmgems_jax.pretraining import checkpoints, pretrained
from cmgems_jax.windows import synthetic_genome
from tests.helpers import ROOT

PYTHONS = [path for path in os.environ.get("TORCH_PYTHON", "").split(",") if path]
REAL_DNA = ROOT.parent / "shared" / "data" / "genome" / "lambda.fa.gz"
NUM_SEQUENCES, POSITIONS, K = 64, 512, 6
LABELS = ["intron", "acceptor", "donor"]
pytestmark = pytest.mark.skipif(not PYTHONS, reason="TORCH_PYTHON is not set")
MODEL = ModelConfig(
    num_layers=2,
    hidden_size=64,
    num_heads=4,
    feedforward_size=128,
    num_positions=POSITIONS,
    dropout=0.0,
    attention_dropout=0.0,
    dtype="float32",
)
CONFIG = Config(model=MODEL, data=DataConfig(num_tokens=POSITIONS))


def random_params(num_classes: int | None = None, head: str = heads.CLS) -> dict:
    """Returns parameters that are large enough for every part to show in the logits."""
    rng = np.random.default_rng(0)
    shapes = heads.param_shapes(MODEL, CONFIG.tokens, num_classes, head)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), shapes)


def sequences(folder: Path) -> list[str]:
    """Returns DNA of 6 to 512 positions, every third one with ambiguous letters."""
    path = REAL_DNA
    if not path.exists():
        path = folder / "made_up.fa"
        synthetic_genome.write_genome(path, 60_000, seed=0)
    text = "".join(vocabulary.decode(bases) for _, bases in genome_files.read_records([str(path)]))
    rng = np.random.default_rng(1)
    made = []
    for number, length in enumerate(np.linspace(4, POSITIONS - 2, NUM_SEQUENCES).astype(int)):
        start = int(rng.integers(0, len(text) - POSITIONS - K))
        letters = list(text[start : start + length + K - 1])
        for place in rng.integers(0, len(letters), 2) if number % 3 == 0 else ():
            letters[place] = "N"
        made.append("".join(letters))
    return made


@pytest.fixture(scope="module")
def exports(tmp_path_factory) -> Path:
    """Exports of a masked-LM and classifiers with both heads, and the sequences."""
    folder = tmp_path_factory.mktemp("exports")
    checkpoints.save_params(folder / "run", random_params(), CONFIG)
    export.export(folder / "run", folder / "masked_lm")
    for head, source, name in (
        (heads.CLS, "fine_tuned", "classifier"),
        (heads.FEATURES, "fine_tuned_features", "features"),
    ):
        params = random_params(len(LABELS), head)
        made = TrainedClassifier(CONFIG, params, LABELS, POSITIONS, head=head)
        save_classifier(folder / source, made, task="t", recipe={}, source="run")
        export.export(folder / source, folder / name)
    texts = sequences(folder)
    cases = {"sequences": texts, "embedded": texts[3:7]}  # the first and the last have N
    (folder / "cases.json").write_text(json.dumps(cases))
    return folder


@pytest.fixture(scope="module", params=PYTHONS, ids=lambda path: path.replace("/", "_"))
def asked(request, exports) -> tuple[Path, dict]:
    """The folder with torch's logits, and what else it found."""
    run_torch(request.param, "ask", exports)
    return exports, json.loads((exports / "facts.json").read_text())


def run_torch(python: str, *arguments: object) -> None:
    """Runs torch_side.py, without network."""
    command = [python, str(Path(__file__).with_name("torch_side.py")), *map(str, arguments)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    subprocess.run(command, check=True, timeout=300, env=environment)


def our_ids(text: str) -> np.ndarray:
    """Returns [CLS], the k-mers, [SEP] of one sequence."""
    kmers = vocabulary.tokenize(vocabulary.encode(text), K)
    return np.array([vocabulary.CLS, *kmers, vocabulary.SEP], np.int32)


def our_logits(
    model: heads.MaskedLM | heads.Classifier, params: dict, texts: list[str]
) -> np.ndarray:
    """Returns the logits of all real tokens, or of the classes; padded to full length."""

    @jax.jit
    def apply(ids_BL: jax.Array) -> jax.Array:
        if isinstance(model, heads.Classifier):
            return model.apply({"params": params}, ids_BL)
        return model.apply({"params": params}, ids_BL, jnp.arange(ids_BL.size))

    rows = []
    for text in texts:
        ids = our_ids(text)
        padded = np.pad(ids, (0, POSITIONS - len(ids)))[None]
        said = np.asarray(apply(padded))
        rows.append(said if isinstance(model, heads.Classifier) else said[: len(ids)])
    return np.concatenate(rows)


def test_raw_dna_gives_our_ids_and_spaced_kmers_are_kept(asked):
    folder, facts = asked
    texts = json.loads((folder / "cases.json").read_text())["sequences"]
    assert facts["ids"] == [our_ids(text).tolist() for text in texts]
    assert facts["spaced"] == ["[CLS]", "ACGTAC", "CGTACG", "[MASK]", "GTACGT", "[SEP]"]
    lengths = [len(ids) for ids in facts["ids"]]
    assert (min(lengths), max(lengths)) == (6, POSITIONS)
    assert any(vocabulary.UNK in ids for ids in facts["ids"])


@pytest.mark.parametrize("name", ["masked_lm", "classifier"])
def test_logits_agree_to_1e_4_with_the_same_best_token_everywhere(asked, name):
    """Float32 sums of up to 512 terms in another order."""
    folder, _ = asked
    texts = json.loads((folder / "cases.json").read_text())["sequences"]
    if name == "masked_lm":
        ours = our_logits(heads.MaskedLM(MODEL, CONFIG.tokens), random_params(), texts)
    else:
        network = heads.Classifier(MODEL, CONFIG.tokens, len(LABELS))
        ours = our_logits(network, random_params(len(LABELS)), texts)
    theirs = np.load(folder / f"{name}.npy")
    print(f"{name}: {theirs.shape}, largest difference {np.abs(theirs - ours).max():.1e}")
    assert ours.std() > 0.1
    np.testing.assert_allclose(theirs, ours, atol=1e-4, rtol=0)
    np.testing.assert_array_equal(theirs.argmax(axis=1), ours.argmax(axis=1))


def test_the_cards_module_gives_the_logits_of_a_features_head(asked):
    """Means in float32 of states of size 1, summed in another order; two texts hold N."""
    folder, facts = asked
    texts = json.loads((folder / "cases.json").read_text())["embedded"]
    network = heads.Classifier(MODEL, CONFIG.tokens, len(LABELS), heads.FEATURES)
    ours = our_logits(network, random_params(len(LABELS), heads.FEATURES), texts)
    assert ours.std() > 0.1
    np.testing.assert_allclose(facts["features"]["logits"], ours, atol=1e-4)
    assert facts["features"]["class"] == "BertModel"
    assert not any(facts["features"]["info"].values()), facts["features"]["info"]


def test_stock_classes_load_with_nothing_missing_or_unexpected(asked):
    facts = asked[1]
    assert facts["masked_lm"]["class"] == "BertForMaskedLM"
    assert facts["classifier"]["class"] == "BertForSequenceClassification"
    assert list(facts["classifier"]["labels"].values()) == LABELS
    unread = facts["masked_lm"]["info"].pop("unexpected_keys")  # what AutoModel needs
    assert sorted(unread) == ["bert.pooler.dense.bias", "bert.pooler.dense.weight"]
    for name in ("masked_lm", "classifier"):
        assert not any(facts[name]["info"].values()), facts[name]["info"]


def test_automodel_pools_to_the_same_numbers_at_each_load(asked):
    facts = asked[1]
    for name in ("masked_lm", "classifier"):
        first, second = facts[name]["pooled"]
        assert first == second
    np.testing.assert_allclose(
        facts["masked_lm"]["pooled"][0], np.tanh(facts["masked_lm"]["state_of_cls"]), atol=1e-6
    )


@pytest.mark.parametrize(
    ("name", "source"),
    [("masked_lm", "run"), ("classifier", "fine_tuned"), ("features", "fine_tuned_features")],
)
def test_the_cards_lines_give_the_vectors_of_embed(asked, name, source, tmp_path):
    """Means in float32 of up to 60 states of size 1, summed in another order."""
    folder, facts = asked
    texts = json.loads((folder / "cases.json").read_text())["embedded"]
    assert sum("N" in text for text in texts) == 2
    records = "".join(f">{number}\n{text}\n" for number, text in enumerate(texts))
    (tmp_path / "x.fa").write_text(records)
    embed.embed(embed.load_embedder(folder / source), [str(tmp_path / "x.fa")], tmp_path / "x.npz")
    ours = np.load(tmp_path / "x.npz")["embeddings"]
    np.testing.assert_allclose(facts[name]["vectors"], ours, atol=1e-4)


def test_a_word_shorter_than_k_is_shown_as_unknown(asked):
    assert asked[1]["short"] == ["[CLS]", "[UNK]", "[SEP]"]


def test_fill_mask_answers_kmers_and_torch_can_fine_tune(asked):
    facts = asked[1]
    assert len(facts["fill_mask"]) == 5
    assert all(set(token) <= set("ACGT") and len(token) == K for token in facts["fill_mask"])
    assert facts["losses"][-1] < 0.97 * facts["losses"][0]


def run_with_torch(*arguments: object) -> str:
    """Runs a command of ours with the first torch beside our packages; returns its output."""
    where = "import os, torch; print(os.path.dirname(os.path.dirname(torch.__file__)))"
    site = subprocess.run([PYTHONS[0], "-c", where], check=True, capture_output=True, text=True)
    environment = os.environ | {"PYTHONPATH": site.stdout.strip(), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", *map(str, arguments)]
    result = subprocess.run(
        command, cwd=ROOT, timeout=300, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_another_models_features_are_means_over_its_tokens(tmp_path):
    """Padded or not; float32 sums of up to 40 states of size 1."""
    task, folder = tmp_path / "task", tmp_path / "peer"
    synthetic_task.write(task, num_train=20, num_test=20, seed=0)
    with (task / "test.tsv").open("a") as file:
        file.write("ACGTTN" * 3 + "AC\t0\n" + "ACGTTA" * 60 + "\t1\n")  # short; longer than it sees
    rows = [task_files.read_examples(task / f"{split}.tsv") for split in ("train", "test")]
    texts = [vocabulary.decode(bases_M) for one in rows for bases_M in one.bases_NM]
    folder.mkdir()
    (folder / "sequences.json").write_text(json.dumps(texts))
    run_torch(PYTHONS[0], "peer", folder)
    file = tmp_path / "peer.npz"
    said = run_with_torch(
        "launch.hf_features", f"--model={folder / 'model'}", f"--tasks={task}", f"--output={file}",
        "--batch_size=8",
    )  # fmt: skip
    assert "1 sequences fill all 40 positions" in said and "42 sequences, 32 features" in said
    found = given_features.read(f"peer={file}")
    vectors = json.loads((folder / "vectors.json").read_text())
    ours = found.features_NF[[found.row_of[text] for text in texts]]
    assert ours.std(axis=0).min() > 0.01
    np.testing.assert_allclose(ours, vectors, atol=1e-5)


def test_an_old_checkpoint_in_another_order_imports_with_the_same_logits(tmp_path):
    """pytorch_model.bin, gamma and beta, decoder copies and pooler; k-mers in A C G T order."""
    run_torch(PYTHONS[0], "make", tmp_path / "old")
    run_with_torch("launch.import_hf", f"--path={tmp_path / 'old'}", f"--output={tmp_path / 'run'}")
    loaded = pretrained.load_masked_lm(tmp_path / "run")
    expected = np.load(tmp_path / "old" / "expected.npz")
    tokens = vocabulary.tokens(4)
    ids = [tokens.index(word) for word in ["[CLS]", *expected["kmers"], "[SEP]"]]
    network = heads.MaskedLM(loaded.config.model, loaded.config.tokens)
    said = network.apply(
        {"params": loaded.params}, jnp.array([ids]), jnp.arange(len(ids), dtype=jnp.int32)
    )
    ours = np.asarray(said)[:, [tokens.index(word) for word in expected["words"]]]
    np.testing.assert_allclose(ours, expected["logits"], atol=1e-4)
