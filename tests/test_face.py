"""`cmgems_jax.load`: what Python gets is what the commands write, and what slow code computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest

import cmgems_jax as cm
from cmgems_jax.downstream.finetuning import classifier
from cmgems_jax.downstream.inference import embed, predict
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.huggingface import export
from cmgems_jax.model import heads
from tests.downstream.random_classifier import make_classifier
from tests.helpers import run_python

SEQUENCE = "ACGTTGCAACGGATTACAGATTACACCGGT"  # 30 bases, less than the run's window
LONG = SEQUENCE * 4


@pytest.fixture(scope="module")
def model(unbroken):
    return cm.load(unbroken[0])


@pytest.fixture(scope="module")
def fasta(tmp_path_factory):
    path = tmp_path_factory.mktemp("face") / "two.fa"
    path.write_text(f">a\n{SEQUENCE}\n>b\n{LONG}\n")
    return path


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("face") / "classifier"
    made = make_classifier(num_classes=3)
    classifier.save_classifier(folder, made, task="t", recipe={}, source="")
    return folder


def test_importing_the_package_imports_no_jax():
    result = run_python("-c", "import cmgems_jax, sys; sys.exit('jax' in sys.modules)")
    assert result.returncode == 0


@pytest.mark.parametrize("pooling", ["mean", "tokens"])
def test_embeddings_are_those_that_the_command_writes(model, unbroken, fasta, tmp_path, pooling):
    embed.embed(embed.load_embedder(unbroken[0]), fasta, tmp_path / "out.npz", pooling=pooling)
    written = np.load(tmp_path / "out.npz")
    found = model.embed(fasta, pooling=pooling)
    again = model.embed([SEQUENCE, LONG], pooling=pooling)
    if pooling == "mean":
        np.testing.assert_array_equal(found, written["embeddings"])
        np.testing.assert_array_equal(found, again)
    else:
        assert [states_TD.shape for states_TD in found] == [(28, 16), (118, 16)]
        for name, one, other in zip("ab", found, again, strict=True):
            np.testing.assert_array_equal(one, written[name])
            np.testing.assert_array_equal(one, other)


def test_probabilities_are_those_that_the_command_writes(classifier_folder, fasta, tmp_path):
    model = cm.load(classifier_folder)
    assert model.label_names == ["class0", "class1", "class2"]
    made, output = classifier.load_classifier(classifier_folder), tmp_path / "out.parquet"
    predict.predict(made, fasta, output, each_window=False)
    table = pq.read_table(output)
    written_NC = np.stack([table[f"p_class{number}"].to_numpy() for number in range(3)], axis=1)
    found_NC = model.predict([SEQUENCE, LONG])
    np.testing.assert_array_equal(found_NC, written_NC)
    assert model.embed(SEQUENCE).shape == (1, 16)


def test_the_same_call_again_compiles_nothing(classifier_folder, caplog):
    model = cm.load(classifier_folder)
    for ask in (model.embed, model.predict):
        ask(SEQUENCE)
        with jax.log_compiles():
            ask(SEQUENCE[::-1])
    assert not [text for text in caplog.messages if text.startswith("Compiling")]


def test_logits_are_the_networks_with_every_kmer_masked_that_touches_a_hidden_base(model, unbroken):
    ids_L = vocabulary.model_ids(vocabulary.encode(SEQUENCE), 3)
    network = heads.MaskedLM(model.config.model, model.config.tokens)
    ids_L[1 + 8 : 1 + 11] = vocabulary.MASK  # 3-mers that start at 8, 9, 10 cover base 10
    expected_TV = network.apply(
        {"params": jax.tree.map(jnp.asarray, unbroken[1].params)},
        jnp.asarray(ids_L[None]),
        jnp.arange(1, 29, dtype=jnp.int32),
    )
    found_TV = model.logits(SEQUENCE, hidden=[10])
    assert found_TV.shape == (28, 69) and found_TV.dtype == np.float32
    np.testing.assert_allclose(found_TV, expected_TV, rtol=1e-5, atol=1e-5)
    assert np.abs(found_TV - model.logits(SEQUENCE)).max() > 1e-3


def test_a_bases_probabilities_are_the_mean_over_the_kmers_that_touch_it(model):
    """By hand from the logits: the softmax over 3-mers, those with a letter at the place summed."""
    (found_MA,) = model.base_probabilities(SEQUENCE)
    assert found_MA.shape == (30, 4)
    kmers = vocabulary.kmers(3)
    for base in (0, 1, 14, 29):
        logits_TV = model.logits(SEQUENCE, hidden=[base])[:, vocabulary.NUM_SPECIAL :]
        share_TV = np.exp(logits_TV) / np.exp(logits_TV).sum(axis=1, keepdims=True)
        touching = [start for start in range(base - 2, base + 1) if 0 <= start < 28]
        expected_A = [
            np.mean(
                [
                    sum(
                        share_TV[start][n] for n, w in enumerate(kmers) if w[base - start] == letter
                    )
                    for start in touching
                ]
            )
            for letter in vocabulary.ALPHABETS["dna"]
        ]
        np.testing.assert_allclose(found_MA[base], expected_A, rtol=1e-4)
    long_MA, short_MA = model.base_probabilities([LONG, SEQUENCE])
    assert long_MA.shape == (120, 4)
    np.testing.assert_allclose(short_MA, found_MA, rtol=1e-5)
    np.testing.assert_allclose(long_MA.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("strategy", ["random", "genemask", "global"])
def test_a_mask_says_which_bases_no_visible_kmer_shows(model, strategy):
    """Some masks of 120 bases, base by base."""
    masks = [model.mask(LONG.lower(), strategy, key) for key in range(5)]
    assert any(mask.hidden_M.any() for mask in masks)
    for mask in masks:
        for base in range(120):
            touching = mask.masked_T[max(0, base - 2) : base + 1]
            assert mask.hidden_M[base] == touching.all()
        first, marks, seen, _, *rest = str(mask).split("\n")
        assert first == LONG[:80] and len(rest) == 3
        assert [mark == "#" for mark in marks] == mask.masked_T[:80].tolist()
        assert [letter == "_" for letter in seen] == mask.hidden_M[:80].tolist()
    again = model.mask(LONG, strategy, jax.random.key(0))
    np.testing.assert_array_equal(again.masked_T, masks[0].masked_T)


def test_tokens_are_the_kmers(model):
    assert model.tokens("ACGNTT") == ["ACG", "[UNK]", "[UNK]", "[UNK]"]


def test_an_export_is_the_same_model(model, unbroken, tmp_path):
    export.export(unbroken[0], tmp_path / "exported")
    exported = cm.load(tmp_path / "exported")
    np.testing.assert_array_equal(exported.logits(SEQUENCE), model.logits(SEQUENCE))
    with pytest.raises(InputError, match="no ranks of 3-mers are recorded"):
        exported.mask(SEQUENCE)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda model: model.embed("HELLO"), "'HELLO' is no file, and no DNA: letter 'E' at 1"),
        (lambda model: model.embed([]), "no sequence"),
        (lambda model: model.embed(["ACGT", "AC"]), "sequence '1': 2 bases; expected at least 3"),
        (lambda model: model.embed([3]), "sequence 0: int; expected a string of DNA"),
        (lambda model: model.embed("ACGT", strand="down"), "strand='down': expected one of"),
        (lambda model: model.embed("ACGT", pooling="max"), "pooling='max': expected one of"),
        (lambda model: model.predict("ACGT"), "predicts no classes; fine-tune it first"),
        (lambda model: model.logits(LONG), "120 bases: expected at most 32"),
        (
            lambda model: model.logits("ACGT", hidden=[4]),
            r"hidden=\[4\]: expected bases from 0 to 3",
        ),
        (lambda model: model.logits("ACGT", hidden=[-1]), "expected bases from 0 to 3"),
        (lambda model: model.logits(["ACGT", "ACG"]), "2 sequences: expected one"),
        (lambda model: model.embed("ACGT" * 80 + "!"), "is no file, and no DNA: letter '!' at 320"),
        (lambda model: model.mask("ACGT", "genemsk"), "Did you mean 'genemask'"),
        (lambda _: cm.load("no/such"), "no/such: no such folder"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(model, ask, message):
    with pytest.raises(InputError, match=message):
        ask(model)


def test_a_classifier_has_no_masked_lm_head(classifier_folder):
    with pytest.raises(InputError, match="a classifier has no masked-LM head; load the run"):
        cm.load(classifier_folder).logits(SEQUENCE)
