"""Reads a HuggingFace BERT over k-mers, DNABERT 3 to 6 among them, as one of our own runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from flax import traverse_util

from cmgems_jax import config_checks
from cmgems_jax.config import Config, DataConfig, ModelConfig, TokensConfig
from cmgems_jax.downstream.finetuning import classifier
from cmgems_jax.downstream.finetuning.classifier import TrainedClassifier
from cmgems_jax.downstream.tasks import labels as task_labels
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.huggingface import export, names
from cmgems_jax.model import heads
from cmgems_jax.pretraining import checkpoints, pretrained
from cmgems_jax.pretraining.pretrained import Pretrained
from cmgems_jax.runtime import outputs, run_log

SAFETENSORS, PICKLE, VOCABULARY = "model.safetensors", "pytorch_model.bin", "vocab.txt"
# Beside `names.FIXED`: what a BERT's config may hold, and ours never does.
_UNCHANGED = {"is_decoder": False, "add_cross_attention": False, "pruned_heads": {}}
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
_WORDS = "bert.embeddings.word_embeddings.weight"
_DECODER_BIAS = "cls.predictions.bias"
_COPIES = {
    "cls.predictions.decoder.weight": _WORDS,
    "cls.predictions.decoder.bias": _DECODER_BIAS,
}
_UNUSED = ("position_ids", "cls.seq_relationship.")  # parts of names
_MOST_NAMED = 8
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def load_masked_lm(path: Path | str) -> Pretrained:
    """Returns a masked-LM from a run, one of its checkpoints, or a HuggingFace folder.

    Raises:
      InputError: as `pretrained.load_masked_lm` and `read`; or the folder holds a classifier.
    """
    path = Path(path)
    if not is_huggingface(path):
        return pretrained.load_masked_lm(path)
    model = read(path)
    if isinstance(model, TrainedClassifier):
        raise InputError(f"{path}: holds a classifier; expected a masked-LM")
    return model


def is_huggingface(path: Path) -> bool:
    """Returns whether a folder looks like HuggingFace's, and not like a run."""
    return not (path / checkpoints.FOLDER).exists() and any(
        (path / name).exists() for name in (SAFETENSORS, PICKLE, VOCABULARY)
    )


def import_model(path: Path | str, output: Path | str, *, stride: int | None = None) -> None:
    """Writes a HuggingFace folder as a run (a masked-LM) or as a classifier of our own.

    `output` is a new or empty folder; for the rest, and for errors, see `read`.
    """
    path, output = Path(path), Path(output)
    outputs.check_folder(output, names=(), marks=())
    model = read(path, stride=stride)
    config, is_classifier = model.config, isinstance(model, TrainedClassifier)
    with outputs.replaced_folder(output) as folder:
        if is_classifier:
            classifier.save_classifier(folder, model, task=path.name, recipe={}, source=str(path))
        else:
            checkpoints.save_params(folder, model.params, config)
        outputs.write_json(folder / "environment.json", run_log.environment())
    kind = "classifier" if is_classifier else "masked-LM"
    print(
        f"{output}: {kind}, {config.model.num_layers} layers x {config.model.hidden_size}, "
        f"{config.tokens.k}-mers of {config.tokens.alphabet}",
        flush=True,
    )


def read(path: Path, *, stride: int | None = None) -> Pretrained | TrainedClassifier:
    """Returns the model of a HuggingFace folder.

    The pooler of a masked-LM is left out: no training of it is assumed.

    Args:
      path: config.json, vocab.txt, and model.safetensors or pytorch_model.bin.
      stride: bases between token starts; None = what an export of ours says, else 1.

    Raises:
      InputError: a file is missing, damaged or a Git LFS pointer, the network or the vocabulary is
        another one, or tensors are missing, unexpected or of another shape.
    """
    _refuse_pointers(path)
    settings = _read_config(path / "config.json")
    own = settings.get(export.OWN) or {}
    tokens, row_V = _read_vocabulary(path / VOCABULARY, stride or own.get("stride", 1))
    model = ModelConfig(**{ours: settings[theirs] for ours, theirs in names.SIZES.items()})
    config = Config(model=model, tokens=tokens, data=DataConfig(num_tokens=model.num_positions))
    config_checks.validate(config)
    tensors = _read_tensors(path)
    num_labels, kind = len(tensors.get("classifier.weight", ())), names.MASKED_LM
    if num_labels:
        kind = heads.FEATURES if (path / export.HEAD).exists() else heads.CLS
    _check(tensors, config, num_labels, kind, path)
    for name in (_WORDS, _DECODER_BIAS):
        if name in tensors:
            tensors[name] = tensors[name][row_V]
    params = names.from_torch(tensors, model.num_layers, kind)
    if not num_labels:
        return Pretrained(config, params, path.resolve().name)
    labels = settings.get("id2label") or {}
    label_names = [str(labels.get(str(number), number)) for number in range(num_labels)]
    kinds = {theirs: ours for ours, theirs in export.PROBLEMS.items()}
    # Without the field, as transformers has it.
    usual = task_labels.NUMBERS if num_labels == 1 else task_labels.CLASSES
    labels_kind = kinds.get(settings.get("problem_type"), usual)
    if num_labels == 1 and labels_kind == task_labels.CLASSES:
        raise InputError(
            f"{path}: one output, and problem_type={settings['problem_type']}: a class alone says "
            "nothing; set problem_type to regression or multi_label_classification in config.json"
        )
    max_tokens, strand = own.get("max_tokens", model.num_positions), own.get("strand", "forward")
    if strand not in vocabulary.STRANDS or not 0 < max_tokens <= model.num_positions:
        raise InputError(
            f"{path / 'config.json'}: {export.OWN}={own}; expected a strand of "
            f"{', '.join(vocabulary.STRANDS)}, and max_tokens of 1 to {model.num_positions:,}"
        )
    return TrainedClassifier(config, params, label_names, max_tokens, strand, kind, labels_kind)


def _refuse_pointers(path: Path) -> None:
    """Raises `InputError` where git has left a pointer in place of a file."""
    for name in ("config.json", VOCABULARY, SAFETENSORS, PICKLE):
        file = path / name
        if not file.is_file():
            continue
        with file.open("rb") as opened:
            if opened.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise InputError(
                    f"{file}: a Git LFS pointer, not the file itself; 'git lfs pull' in {path} "
                    "fetches it (or 'hf download OWNER/NAME --local-dir=DIR')"
                )


def _read_config(path: Path) -> dict[str, Any]:
    """Returns config.json of a network that ours computes."""
    try:
        settings = json.loads(path.read_text())
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); --path is a folder with config.json, "
            f"{VOCABULARY} and {SAFETENSORS} or {PICKLE}"
        ) from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    if not isinstance(settings, dict):
        raise InputError(f"{path}: expected a JSON object")
    missing = [name for name in names.SIZES.values() if name not in settings]
    if missing:
        raise InputError(f"{path}: lacks {', '.join(missing)}; expected a BERT's config")
    others = [
        f"{name}={settings[name]!r} (expected {expected!r})"
        for name, expected in (names.FIXED | _UNCHANGED).items()
        if settings.get(name) not in (None, expected)
    ]
    if others:
        raise InputError(f"{path}: another network: {', '.join(others)}")
    return settings


def _read_vocabulary(path: Path, stride: int) -> tuple[TokensConfig, np.ndarray]:
    """Returns k and alphabet, and the file's row of each of our tokens, int64 (V,)."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); it decides k and the order") from None
    words = [line.strip() for line in lines if line.strip()]
    row = {word: number for number, word in enumerate(words)}
    if len(row) < len(words):
        twice = next(word for number, word in enumerate(words) if row[word] != number)
        raise InputError(f"{path}: {twice!r} stands there twice")
    kmers = [word for word in words if word not in vocabulary.SPECIAL_TOKENS]
    k = len(kmers[0]) if kmers else 0
    alphabet = "rna" if any("U" in word for word in kmers) else "dna"
    if not vocabulary.MIN_K <= k <= vocabulary.MAX_K:
        raise InputError(
            f"{path}: first token {kmers[:1]}; expected k-mers of {vocabulary.MIN_K} to "
            f"{vocabulary.MAX_K} letters"
        )
    expected = vocabulary.tokens(k, alphabet)
    missing, others = set(expected) - set(row), set(row) - set(expected)
    for what, wrong in (("lacks", missing), ("also holds", others)):
        if wrong:
            raise InputError(
                f"{path}: {what} {len(wrong):,} tokens ({', '.join(sorted(wrong)[:3])}, ...); "
                f"expected {', '.join(vocabulary.SPECIAL_TOKENS)} and all {4**k:,} {k}-mers"
            )
    return TokensConfig(k=k, stride=stride, alphabet=alphabet), np.array([row[w] for w in expected])


def _read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors under today's names, without what the network does not use."""
    file = path / SAFETENSORS
    try:
        if file.exists():
            stored = safetensors.numpy.load_file(file)
            if (path / export.HEAD).exists():
                file = path / export.HEAD
                stored = stored | safetensors.numpy.load_file(file)
        else:
            file = path / PICKLE
            stored = _read_pickle(file)
    except InputError:
        raise
    except Exception as error:  # of safetensors, or of torch on a damaged pickle
        raise InputError(f"{file}: cannot be read ({str(error)[:200]}); fetch it again") from None
    tensors = {}
    for name, array in stored.items():
        for old, new in _OLD_NAMES.items():
            name = name.replace(old, new)
        if not any(part in name for part in _UNUSED):
            tensors[name] = array
    if "classifier.weight" not in tensors or (path / export.HEAD).exists():
        # The pooler belongs to a classifier over [CLS].
        tensors = {n: a for n, a in tensors.items() if not n.startswith(names.POOLER)}
    _drop_copies(tensors, file)
    return tensors


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    """Returns torch's tensors, read without running what a pickle may hold."""
    if not path.exists():
        raise InputError(f"{path.parent}: neither {SAFETENSORS} nor {PICKLE} in it")
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{path}: torch is needed to read it: pip install torch, or convert the file to "
            f"{SAFETENSORS}"
        ) from None
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    return {name: tensor.float().numpy() for name, tensor in loaded.items()}


def _drop_copies(tensors: dict[str, np.ndarray], file: Path) -> None:
    """Leaves out the decoder's copies, which must be copies."""
    for copy, original in _COPIES.items():
        if copy not in tensors:
            continue
        array = tensors.pop(copy)
        if not np.array_equal(tensors.setdefault(original, array), array):
            raise InputError(f"{file}: {copy} differs from {original}; expected a tied decoder")


def _check(
    tensors: dict[str, np.ndarray], config: Config, num_labels: int, kind: str, path: Path
) -> None:
    """Raises `InputError` that names all tensors that are missing, too many or misshapen."""
    params = heads.param_shapes(config.model, config.tokens, num_labels or None, kind)
    flat = traverse_util.flatten_dict(params, sep=".")
    shapes = {  # as torch lays the tensors out
        theirs: flat[ours].shape[:: -1 if ours.endswith(names.KERNEL) else 1]
        for ours, theirs in names.table(config.model.num_layers, kind).items()
    }
    wrong = [f"missing {name}" for name in shapes if name not in tensors]
    wrong += [f"unexpected {name}" for name in tensors if name not in shapes]
    wrong += [
        f"{name} of shape {tensors[name].shape}, expected {shape}"
        for name, shape in shapes.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if wrong:
        more = f", and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
        raise InputError(f"{path}: {'; '.join(wrong[:_MOST_NAMED])}{more}")
