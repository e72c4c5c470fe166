"""What torch and transformers say of an export; run by test_torch.py under their Python.

    python torch_side.py ask FOLDER     # FOLDER/{masked_lm,classifier,cases.json}
    python torch_side.py make FOLDER    # an old-style checkpoint with DNABERT's vocabulary
    python torch_side.py peer FOLDER    # a Nucleotide Transformer with random weights

Needs torch and transformers only, nothing of the package.
"""

import itertools
import json
import re
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
)

BATCH = 8


def ask(folder: Path) -> None:
    """Writes FOLDER/facts.json, and logits beside it."""
    cases = json.loads((folder / "cases.json").read_text())
    facts: dict = {"transformers": transformers.__version__}
    tokenizer = AutoTokenizer.from_pretrained(folder / "masked_lm")
    facts["ids"] = [tokenizer(text)["input_ids"] for text in cases["sequences"]]
    spaced = tokenizer("ACGTAC CGTACG [MASK] GTACGT")["input_ids"]
    facts["spaced"] = tokenizer.convert_ids_to_tokens(spaced)
    for name, auto in (
        ("masked_lm", AutoModelForMaskedLM),
        ("classifier", AutoModelForSequenceClassification),
    ):
        model, info = auto.from_pretrained(folder / name, output_loading_info=True)
        facts[name] = {
            "class": type(model).__name__,
            "info": {key: [str(one) for one in value] for key, value in info.items()},
            "labels": {str(key): value for key, value in model.config.id2label.items()},
        }
        np.save(folder / f"{name}.npy", logits(model.eval(), tokenizer, cases["sequences"]))
        facts[name]["vectors"] = [card(folder / name, text)["vector"] for text in cases["embedded"]]
        inputs = tokenizer(cases["sequences"][-1], return_tensors="pt")
        outputs = [AutoModel.from_pretrained(folder / name).eval()(**inputs) for _ in range(2)]
        facts[name]["pooled"] = [one.pooler_output[0].tolist() for one in outputs]
        facts[name]["state_of_cls"] = outputs[0].last_hidden_state[0, 0].tolist()
    model, info = AutoModel.from_pretrained(folder / "features", output_loading_info=True)
    said = [card(folder / "features", text) for text in cases["embedded"]]
    facts["features"] = {
        "class": type(model).__name__,
        "info": {key: [str(one) for one in value] for key, value in info.items()},
        "logits": [one["logits"] for one in said],
        "vectors": [one["vector"] for one in said],
    }
    facts["short"] = tokenizer.convert_ids_to_tokens(tokenizer("ACG")["input_ids"])
    pipe = transformers.pipeline("fill-mask", model=str(folder / "masked_lm"))
    facts["fill_mask"] = [one["token_str"] for one in pipe("ACGTAC [MASK] GTACGT")]
    facts["losses"] = fine_tune(folder / "masked_lm", tokenizer, cases["sequences"][:BATCH])
    (folder / "facts.json").write_text(json.dumps(facts))


def card(folder: Path, dna: str) -> dict[str, list[float]]:
    """Returns vector and logits of a sequence that the code in the model card computes."""
    values: dict = {"dna": dna}
    for code in re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL):
        exec(code.replace('"PATH"', repr(str(folder))), values)
    return {name: values[name][0].tolist() for name in ("vector", "logits")}


@torch.no_grad()
def logits(model: torch.nn.Module, tokenizer: object, sequences: list[str]) -> np.ndarray:
    """Returns the logits of all real tokens, one sequence behind the other."""
    rows = []
    for first in range(0, len(sequences), BATCH):
        batch = tokenizer(sequences[first : first + BATCH], padding=True, return_tensors="pt")
        said = model(**batch).logits.numpy()
        is_real = batch["attention_mask"].numpy().astype(bool)
        rows.append(said if said.ndim == 2 else said[is_real])
    return np.concatenate(rows)


def fine_tune(folder: Path, tokenizer: object, sequences: list[str]) -> list[float]:
    """Returns the losses of thirty steps of a new classifier on one batch."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    batch = tokenizer(sequences, padding=True, truncation=True, max_length=64, return_tensors="pt")
    labels = torch.arange(len(sequences)) % 2
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(30):
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def make(folder: Path) -> None:
    """Writes a random BertForMaskedLM as DNABERT was saved: pickle, gamma and beta, copies."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=5 + 4**4,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    model = BertForMaskedLM(config).eval()
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += ["".join(kmer) for kmer in itertools.product("ACGT", repeat=4)]  # not DNABERT's order
    (folder / "vocab.txt").write_text("\n".join(words))
    config.save_pretrained(folder)
    tensors = model.state_dict()
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"]
    tensors["bert.pooler.dense.weight"] = torch.zeros(32, 32)
    tensors["bert.pooler.dense.bias"] = torch.zeros(32)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in tensors.items()
    }
    torch.save(old, folder / "pytorch_model.bin")
    sequence = "ACGTTGCAAGCTAGGATCC"
    kmers = [sequence[start : start + 4] for start in range(len(sequence) - 3)]
    ids = [words.index(word) for word in ["[CLS]", *kmers, "[SEP]"]]
    with torch.no_grad():
        said = model(torch.tensor([ids])).logits[0].numpy()
    np.savez(folder / "expected.npz", logits=said, words=words, kmers=kmers)


def peer(folder: Path) -> None:
    """Saves a random EsmForMaskedLM over 6-mers without overlap, and what it makes of sequences."""
    sequences = json.loads((folder / "sequences.json").read_text())
    kmers = map("".join, itertools.product("ATCG", repeat=6))
    names = ["<unk>", "<pad>", "<mask>", "<cls>", *kmers, *"ATCGN"]
    (folder / "vocab.txt").write_text("\n".join(names))
    kinds = dict(zip(("unk_token", "pad_token", "mask_token", "cls_token"), names, strict=False))
    tokenizer = transformers.EsmTokenizer(
        str(folder / "vocab.txt"), **kinds, eos_token=None, model_max_length=40
    )
    config = transformers.EsmConfig(
        vocab_size=len(names), mask_token_id=2, pad_token_id=1, hidden_size=32,
        num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=42, position_embedding_type="rotary",
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.EsmForMaskedLM(config).eval()
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    vectors = []
    with torch.no_grad():
        for text in sequences:  # one at a time, so that nothing is padded
            ids = tokenizer(text, return_tensors="pt", truncation=True)["input_ids"]
            (states,) = model.esm(input_ids=ids).last_hidden_state
            vectors.append(states[1:].mean(dim=0).tolist())  # all but <cls>
    (folder / "vectors.json").write_text(json.dumps(vectors))


if __name__ == "__main__":
    {"ask": ask, "make": make, "peer": peer}[sys.argv[1]](Path(sys.argv[2]))
