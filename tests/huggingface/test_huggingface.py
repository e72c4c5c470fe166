"""To and from HuggingFace without torch: round trips, refusals, tokenizer, card, hub."""

import dataclasses
import http.server
import json
import re
import shutil
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from huggingface_hub import ModelCard

from cmgems_jax import config as config_lib
from cmgems_jax import huggingface
from cmgems_jax.config import Config, ModelConfig, TokensConfig
from cmgems_jax.downstream.finetuning import classifier
from cmgems_jax.downstream.inference import embed
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.huggingface import card, export, hub, load, tokenizer
from cmgems_jax.model import heads
from cmgems_jax.pretraining import checkpoints, pretrained
from tests.downstream.random_classifier import make_classifier


@pytest.fixture(scope="module")
def run(unbroken, tmp_path_factory) -> Path:
    """A small pretraining run."""
    return shutil.copytree(unbroken[0], tmp_path_factory.mktemp("run") / "mine")


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> Path:
    """Its export."""
    output = tmp_path_factory.mktemp("export") / "mine"
    export.export(run, output)
    return output


@pytest.fixture
def copy(exported, tmp_path) -> Path:
    """A copy of the export to damage."""
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def change_json(path: Path, **values: object) -> None:
    """Changes fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_tensors(folder: Path, change) -> None:
    """Saves the tensors again after `change(tensors)`."""
    tensors = safetensors.numpy.load_file(folder / load.SAFETENSORS)
    change(tensors)
    safetensors.numpy.save_file(tensors, folder / load.SAFETENSORS)


def test_import_of_an_export_has_the_same_parameters_bit_for_bit(run, exported, tmp_path):
    load.import_model(exported, tmp_path / "back")
    before, after = (pretrained.load_masked_lm(path) for path in (run, tmp_path / "back"))
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
    for name in ("num_layers", "hidden_size", "num_heads", "feedforward_size", "num_positions"):
        assert getattr(after.config.model, name) == getattr(before.config.model, name)


def test_what_is_imported_is_read_like_a_run_of_our_own(exported, tmp_path):
    load.import_model(exported, tmp_path / "back")
    (tmp_path / "x.fa").write_text(">one\nACGTTGCAAGCTAGG\n")
    model = embed.load_embedder(tmp_path / "back")
    embed.embed(model, [str(tmp_path / "x.fa")], tmp_path / "x.npz")
    assert np.load(tmp_path / "x.npz")["ids"].tolist() == ["one"]


@pytest.mark.parametrize("head", heads.KINDS)
def test_a_classifier_goes_and_returns_with_its_labels(head, tmp_path):
    config = Config(
        model=ModelConfig(num_layers=1, hidden_size=8, num_heads=2, feedforward_size=16),
        tokens=TokensConfig(k=3, stride=2),
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
        heads.param_shapes(config.model, config.tokens, 2, head),
    )
    made = classifier.TrainedClassifier(config, params, ["no", "yes"], 40, "both", head)
    classifier.save_classifier(tmp_path / "a", made, task="t", recipe={"peak_lr": 1}, source="x/r")
    export.export(tmp_path / "a", tmp_path / "b", task_head=True)
    assert "0 = no, 1 = yes" in (tmp_path / "b" / "README.md").read_text()
    load.import_model(tmp_path / "b", tmp_path / "c")
    back = classifier.load_classifier(tmp_path / "c")
    assert (back.label_names, back.head) == (["no", "yes"], head)
    assert (back.max_tokens, back.strand, back.config.tokens) == (40, "both", config.tokens)
    jax.tree.map(np.testing.assert_array_equal, back.params, params)
    with pytest.raises(InputError, match="a fine-tuned classifier, with --task_head=false"):
        export.export(tmp_path / "a", tmp_path / "d", task_head=False)
    with pytest.raises(InputError, match="--evaluation=e: is for the card of a pretraining run"):
        export.export(tmp_path / "a", tmp_path / "d", evaluation="e")


def test_a_classifier_of_one_output_gives_numbers(tmp_path):
    """As transformers has it where problem_type, which older files lack, does not say."""
    made = make_classifier(num_classes=1)
    made = dataclasses.replace(made, labels="numbers")
    classifier.save_classifier(tmp_path / "a", made, task="t", recipe={}, source="x")
    export.export(tmp_path / "a", tmp_path / "b")
    settings = json.loads((tmp_path / "b" / "config.json").read_text())
    del settings["problem_type"]
    (tmp_path / "b" / "config.json").write_text(json.dumps(settings))
    assert load.read(tmp_path / "b").labels == "numbers"
    change_json(tmp_path / "b" / "config.json", cmgems_jax={"strand": "backward"})
    with pytest.raises(InputError, match="expected a strand of forward"):
        load.read(tmp_path / "b")
    change_json(tmp_path / "b" / "config.json", cmgems_jax=settings["cmgems_jax"])
    change_json(tmp_path / "b" / "config.json", problem_type="single_label_classification")
    with pytest.raises(InputError, match="one output, and problem_type=single_label"):
        load.read(tmp_path / "b")


def test_an_output_that_holds_something_is_kept(run, copy, tmp_path):
    with pytest.raises(InputError, match="is not empty; give a new folder, or --overwrite"):
        export.export(run, copy)
    export.export(run, copy, overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        export.export(run, tmp_path / "other", overwrite=True)
    with pytest.raises(InputError, match="holds other files"):
        load.import_model(copy, tmp_path / "other")
    assert (tmp_path / "other" / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("cls.predictions.bias"), "missing cls.predictions.bias"),
        (lambda tensors: tensors.update(extra=np.zeros(1)), "unexpected extra"),
        (
            lambda tensors: tensors.update({"cls.predictions.bias": np.zeros(3, np.float32)}),
            r"cls.predictions.bias of shape \(3,\), expected \(69,\)",
        ),
        (
            lambda tensors: tensors.update({"cls.predictions.decoder.bias": np.ones(69)}),
            "expected a tied decoder",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(copy, tmp_path, change, message):
    change_tensors(copy, change)
    with pytest.raises(InputError, match=message):
        load.import_model(copy, tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden_act": "relu"}, "another network: hidden_act='relu' .expected 'gelu'."),
        ({"layer_norm_eps": 1e-5}, "another network: layer_norm_eps=1e-05"),
        ({"position_embedding_type": "relative_key"}, "another network: position_embedding_type"),
    ],
)
def test_another_network_is_refused_by_its_field(copy, tmp_path, changed, message):
    change_json(copy / "config.json", **changed)
    with pytest.raises(InputError, match=message):
        load.import_model(copy, tmp_path / "back")


def test_a_vocabulary_that_is_not_all_kmers_is_refused(copy, tmp_path):
    words = (copy / "vocab.txt").read_text().split()
    for changed, message in (
        (words[:-1], "lacks 1 tokens"),
        ([*words, "ACGT"], "also holds 1 tokens"),
        ([*words, words[-1]], "stands there twice"),
        (["the", "house"], "lacks"),
    ):
        (copy / "vocab.txt").write_text("\n".join(changed))
        with pytest.raises(InputError, match=message):
            load.import_model(copy, tmp_path / "back")


def test_missing_and_damaged_files_are_named(copy, tmp_path):
    with pytest.raises(InputError, match="config.json: cannot be read"):
        load.import_model(tmp_path, tmp_path / "back")
    weights = copy / load.SAFETENSORS
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="model.safetensors: cannot be read"):
        load.import_model(copy, tmp_path / "back")
    weights.unlink()
    with pytest.raises(InputError, match="neither model.safetensors nor pytorch_model.bin"):
        load.import_model(copy, tmp_path / "back")
    (copy / load.PICKLE).write_bytes(b"no pickle")
    with pytest.raises(InputError, match="torch is needed|cannot be read"):
        load.import_model(copy, tmp_path / "back")


def test_another_order_of_the_kmers_is_permuted(exported, copy, tmp_path):
    """Rows and bias move with their words."""
    words = (copy / "vocab.txt").read_text().split()
    order = np.random.default_rng(0).permutation(len(words))
    (copy / "vocab.txt").write_text("\n".join(words[number] for number in order))

    def permute(tensors: dict) -> None:
        for name in ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias"):
            tensors[name] = tensors[name][order]

    load.import_model(copy, tmp_path / "before")
    change_tensors(copy, permute)
    load.import_model(copy, tmp_path / "after")
    before, after = (
        pretrained.load_masked_lm(tmp_path / name).params for name in ("before", "after")
    )
    table = exported_table(exported)
    np.testing.assert_array_equal(after["encoder"]["word_embeddings"]["embedding"], table)
    assert not np.array_equal(before["encoder"]["word_embeddings"]["embedding"], table)


def exported_table(folder: Path) -> np.ndarray:
    """Returns the word table as it lies in the file."""
    tensors = safetensors.numpy.load_file(folder / load.SAFETENSORS)
    return tensors["bert.embeddings.word_embeddings.weight"]


@pytest.mark.parametrize("alphabet", ["dna", "rna"])
@pytest.mark.parametrize("k", range(vocabulary.MIN_K, 7))
def test_the_tokenizer_cuts_raw_dna_as_we_do(k, alphabet):
    """Any letters, any case, several words; the ids of `vocabulary.tokenize`."""
    made = tokenizer.make(Config(tokens=TokensConfig(k=k, alphabet=alphabet)))
    rng = np.random.default_rng(k)
    for _ in range(30):
        letters = rng.choice(list("ACGTUacgtunRY-"), int(rng.integers(1, 60)))
        text = "".join(letters)
        expected = vocabulary.tokenize(vocabulary.encode(text), k).tolist()
        expected = expected or [vocabulary.UNK]  # shorter than k: shown, not dropped
        assert made.encode(text).ids == [vocabulary.CLS, *expected, vocabulary.SEP]
    spaced = huggingface.kmer_text("ACGTACGTA", k)
    ids = vocabulary.tokenize(vocabulary.encode("ACGTACGTA"), k).tolist()
    assert made.encode(spaced, add_special_tokens=False).ids == ids


@pytest.mark.parametrize("stride", [1, 3])
def test_a_word_shorter_than_k_is_one_unknown_token(stride):
    made = tokenizer.make(Config(tokens=TokensConfig(k=4, stride=stride)))
    assert made.encode("ACG").tokens == ["[CLS]", "[UNK]", "[SEP]"]
    assert made.encode("ACGT AC [MASK]", add_special_tokens=False).tokens == (
        ["ACGT", "[UNK]", "[MASK]"]
    )
    assert made.encode("").tokens == ["[CLS]", "[SEP]"]


def test_with_a_stride_the_tokenizer_takes_separated_kmers():
    config = Config(tokens=TokensConfig(k=3, stride=3))
    text = huggingface.kmer_text("acgTTAGGC", 3, 3)
    ids = vocabulary.tokenize(vocabulary.encode("acgTTAGGC"), 3, 3).tolist()
    assert tokenizer.make(config).encode(text, add_special_tokens=False).ids == ids


def test_the_card_says_what_the_run_was(run, exported):
    card = ModelCard.load(exported / "README.md")
    assert card.data.pipeline_tag == "fill-mask"
    digest = json.loads((run / "data" / "windows.json").read_text())["sha256"][0]
    for text in (digest, "40,000 bases", "`genemask` 6 steps, then `global` 6 steps", "Perplexity"):
        assert text in card.text
    assert str(run.parent) not in card.text  # no folder of this machine
    assert (exported / "curves.png").exists()


def test_the_card_has_the_labelled_tasks(run, tmp_path):
    row = {"task": "t", "shots": 10, "model": "mine", "mode": "probe", "metric": "mcc"}
    row |= {"mcc": 0.5, "mcc_low": 0.4, "mcc_high": 0.6}
    (tmp_path / "summary.csv").write_text(
        ",".join(row) + "\n" + ",".join(map(str, row.values())) + "\n"
    )
    notes = {"t, 10 shots": ["trained on dev"], "t, 100 shots": ["left out"]}
    (tmp_path / "notes.json").write_text(json.dumps(notes))
    export.export(run, tmp_path / "out", evaluation=tmp_path)
    text = (tmp_path / "out" / "README.md").read_text()
    line = "| t | 10 | **mine** | probe | mcc | 0.500 [0.400, 0.600] |"
    assert f"{line}\n\n- t, 10 shots: trained on dev\n" in text and "left out" not in text
    with pytest.raises(InputError, match="no summary.csv"):
        export.export(run, tmp_path / "out2", evaluation=run)
    assert not (tmp_path / "out2").exists()


def test_a_card_says_nothing_that_nobody_said(exported, tmp_path):
    """No licence, and of imported parameters no genome, training or setting of a training."""
    load.import_model(exported, tmp_path / "back")
    export.export(tmp_path / "back", tmp_path / "again")
    text = (tmp_path / "again" / "README.md").read_text()
    assert text.count("Not recorded: the parameters were imported, not trained here.") == 2
    assert "No evaluation was recorded." in text
    for word in ("license", "genomes above", "CM-GEMS", "masked:", "batches", '"curriculum"'):
        assert word not in text
    assert _same_bytes(exported, tmp_path / "again", load.SAFETENSORS)


def test_a_card_names_the_licence_that_was_chosen(run, exported, tmp_path):
    assert ModelCard.load(exported / "README.md").data.license is None
    export.export(run, tmp_path / "out", license_name="cc-by-4.0")
    assert ModelCard.load(tmp_path / "out" / "README.md").data.license == "cc-by-4.0"


def test_what_the_card_asks_of_a_config_is_there():
    """jinja takes what is missing for nothing, and says nothing."""
    text = card.TEMPLATE.read_text()
    fields = set(re.findall(r"\bconfig\.([a-z_]+\.\w+|\w+)", text))
    assert {"data.synthetic_repeats", "batch_size"} <= fields <= {*config_lib.field_names()}


def test_the_model_of_the_package_goes_and_returns(tmp_path):
    export.export(config_lib.PACKAGED, tmp_path / "out")
    load.import_model(tmp_path / "out", tmp_path / "back")
    before, after = map(pretrained.load_masked_lm, (config_lib.PACKAGED, tmp_path / "back"))
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "cmgems_jax/weights/human6-nano/README.md" in text and "3,000 steps" in text


def test_an_export_has_a_pooler_that_passes_the_state_of_cls_on(exported):
    """So that transformers draws none at random; test_torch.py loads it."""
    tensors = safetensors.numpy.load_file(exported / load.SAFETENSORS)
    np.testing.assert_array_equal(tensors["bert.pooler.dense.weight"], np.eye(16))
    np.testing.assert_array_equal(tensors["bert.pooler.dense.bias"], np.zeros(16))


@pytest.mark.parametrize(
    "name", ["config.json", load.VOCABULARY, load.SAFETENSORS, load.PICKLE], ids=str
)
def test_a_git_lfs_pointer_is_named_with_the_command_that_fetches_the_file(copy, tmp_path, name):
    (copy / name).write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 356774912\n"
    )
    with pytest.raises(InputError, match=f"{name}: a Git LFS pointer.*'git lfs pull' in {copy} "):
        load.import_model(copy, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def _same_bytes(first: Path, second: Path, name: str) -> bool:
    """Returns whether both folders have the same file."""
    return (first / name).read_bytes() == (second / name).read_bytes()


class _Hub(http.server.BaseHTTPRequestHandler):
    """A stand-in for the hub: takes a repository and a commit, or refuses the token."""

    seen: list[str] = []

    def do_POST(self) -> None:  # noqa: N802, http.server's name
        """Answers the three calls of an upload."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen.append(f"{self.path} {body.decode('utf-8', 'replace')}")
        if self.headers.get("Authorization") != "Bearer hf_good":
            return self._answer({"error": "Invalid username or password."}, 401)
        if self.path.endswith("/create"):
            return self._answer({"url": f"{self._address()}/me/mine", "name": "me/mine"})
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            return self._answer(
                {"files": [one | {"uploadMode": "regular", "shouldIgnore": False} for one in files]}
            )
        return self._answer(
            {"commitUrl": f"{self._address()}/me/mine/commit/1", "commitOid": "1", "success": True}
        )

    def do_GET(self) -> None:  # noqa: N802
        """Says that the repository is there."""
        self._answer({"id": "me/mine", "siblings": []})

    def _address(self) -> str:
        return f"http://{self.headers['Host']}"

    def _answer(self, content: dict, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Is silent."""


@pytest.fixture
def stand_in(monkeypatch):
    """A hub on loopback."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    _Hub.seen.clear()
    yield address
    server.shutdown()
    thread.join(10)
    server.server_close()


def test_an_export_is_uploaded_whole(copy, stand_in):
    (copy / load.SAFETENSORS).write_bytes(b"small")
    address = hub.push(copy, "me/mine", endpoint=stand_in, token="hf_good")
    assert address.endswith("/commit/1")
    commit = next(line for line in _Hub.seen if "/commit/" in line)
    assert all(name in commit for name in ("README.md", "config.json", "tokenizer.json"))


def test_a_push_that_fails_says_so_and_keeps_the_export(copy, stand_in):
    before = sorted(path.name for path in copy.iterdir())
    for endpoint, token in ((stand_in, "hf_bad"), ("http://127.0.0.1:1", "hf_good")):
        with pytest.raises(InputError, match=r"not uploaded \(.*is complete. Log in by"):
            hub.push(copy, "me/mine", endpoint=endpoint, token=token)
    with pytest.raises(InputError, match=r"`hf upload me/mine \S+ --private`"):
        hub.push(copy, "me/mine", private=True, endpoint=stand_in, token="hf_bad")
    with pytest.raises(InputError, match="expected OWNER/NAME"):
        hub.push(copy, "a/b/c")
    assert sorted(path.name for path in copy.iterdir()) == before


def test_imported_parameters_are_no_run_to_go_on_with(exported, tmp_path):
    load.import_model(exported, tmp_path / "back")
    with pytest.raises(InputError, match="no config.json"):
        checkpoints.refuse_other_run(tmp_path / "back", Config())
