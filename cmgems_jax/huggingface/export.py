"""Writes a checkpoint as a HuggingFace model: stock classes, no remote code, no torch needed."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from cmgems_jax.config import Config
from cmgems_jax.downstream.finetuning import classifier
from cmgems_jax.downstream.tasks import labels
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.huggingface import card, names, tokenizer
from cmgems_jax.model import heads
from cmgems_jax.pretraining import pretrained
from cmgems_jax.runtime import outputs

WEIGHTS, CONFIG = "model.safetensors", "config.json"
HEAD = "head.safetensors"  # of a classifier for which HuggingFace has no class
CURVES = "curves.png"
OWN = "cmgems_jax"  # in config.json: how the model reads, for which HuggingFace has no fields
PROBLEMS = {
    labels.CLASSES: "single_label_classification",
    labels.MULTILABEL: "multi_label_classification",
    labels.NUMBERS: "regression",
}
_FILES = (WEIGHTS, HEAD, CONFIG, *tokenizer.FILES, card.NAME, CURVES)


def export(
    checkpoint: Path | str,
    output: Path | str,
    *,
    overwrite: bool = False,
    task_head: bool | None = None,
    evaluation: Path | str | None = None,
    license_name: str | None = None,
) -> None:
    """Writes weights, config, tokenizer and model card.

    Args:
      checkpoint: work folder of a pretraining run (or WORKDIR/checkpoints/STEP), or a model of
        the package, which becomes a BertForMaskedLM; or of launch.finetune: a
        BertForSequenceClassification, or, of a features head, a BertModel with the head in a
        file of its own.
      output: a new or empty folder, or an earlier export to `overwrite`.
      task_head: True: only a fine-tuned one will do; False: only a pretrained one.
      evaluation: folder of launch.evaluate, for the model card.
      license_name: of the weights, an SPDX identifier; None: the card names none.

    Raises:
      InputError: there is nothing to export, or `output` holds something else.
    """
    checkpoint, output = Path(checkpoint), Path(output)
    is_classifier = (checkpoint / classifier.RECORD).exists()
    _check_output(output, overwrite)
    _check_kind(checkpoint, is_classifier, task_head, evaluation)
    if is_classifier:
        model: Any = classifier.load_classifier(checkpoint)
        model_card = card.of_classifier(checkpoint, model, license_name)
        settings = hf_config(model.config, model.label_names, model.head, model.labels)
        kind = model.head
    else:
        model = pretrained.load_masked_lm(checkpoint)
        model_card = card.of_run(checkpoint, model.config, evaluation, license_name)
        settings = hf_config(model.config)
        kind = names.MASKED_LM
    settings[OWN] = {"stride": model.config.tokens.stride}
    if is_classifier:
        settings[OWN] |= {"strand": model.strand, "max_tokens": model.max_tokens}
    tensors, head = _tensors(model.params, model.config, kind)
    with outputs.replaced_folder(output) as folder:
        safetensors.numpy.save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        outputs.write_json(folder / CONFIG, settings)
        if head:
            safetensors.numpy.save_file(head, folder / HEAD, metadata={"format": "pt"})
        for path in folder.glob("*.safetensors"):  # they are the owner's alone
            path.chmod((folder / CONFIG).stat().st_mode)
        tokenizer.write(folder, model.config)
        curves = pretrained.locate(checkpoint)[0] / CURVES if not is_classifier else None
        if curves and curves.exists():
            shutil.copyfile(curves, folder / CURVES)
        model_card.save(folder / card.NAME)
    print(f"{output}: {settings['architectures'][0]}, {len(tensors)} tensors", flush=True)


def _check_output(output: Path, overwrite: bool) -> None:
    """Raises `InputError` where the folder holds something that is not to be replaced."""
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise InputError(
            f"--output={output}: is not empty; give a new folder, or --overwrite to replace an "
            "earlier export"
        )
    outputs.check_folder(output, _FILES, marks=(WEIGHTS, CONFIG))


def _check_kind(
    checkpoint: Path, is_classifier: bool, task_head: bool | None, evaluation: Path | str | None
) -> None:
    """Raises `InputError` for a flag that does not go with a classifier, or with a run."""
    if task_head is not None and task_head != is_classifier:
        kind = "a fine-tuned classifier" if is_classifier else "no fine-tuned classifier"
        raise InputError(
            f"--checkpoint={checkpoint}: {kind}, with --task_head={str(task_head).lower()}"
        )
    if is_classifier and evaluation:
        raise InputError(
            f"--evaluation={evaluation}: is for the card of a pretraining run, and {checkpoint} "
            "holds a classifier, whose card has its own scores; leave it out"
        )


def _tensors(
    params: dict, config: Config, kind: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns the model's tensors and those of a file of its own; for `kind` see `names.table`."""
    tensors, head = names.to_torch(params, config.model.num_layers, kind), {}
    if kind == heads.FEATURES:
        head = {name: tensors.pop(name) for name in [*tensors] if name.startswith(names.CLASSIFIER)}
    if kind != heads.CLS:  # without a pooler, AutoModel samples one anew at each load
        size = config.model.hidden_size
        tensors[f"{names.POOLER}.weight"] = np.eye(size, dtype=np.float32)
        tensors[f"{names.POOLER}.bias"] = np.zeros(size, np.float32)
    return tensors, head


def hf_config(
    config: Config,
    label_names: list[str] | None = None,
    head: str = heads.CLS,
    kind: str = labels.CLASSES,
) -> dict[str, Any]:
    """Returns config.json of BertForMaskedLM, or of a classifier where there are labels."""
    settings: dict[str, Any] = {
        "architectures": ["BertForMaskedLM"],
        **names.FIXED,
        "vocab_size": vocabulary.size(config.tokens.k),
        **{theirs: getattr(config.model, ours) for ours, theirs in names.SIZES.items()},
        "initializer_range": 0.02,
        "pad_token_id": vocabulary.PAD,
        "torch_dtype": "float32",
    }
    if label_names is not None:
        stock = {heads.CLS: "BertForSequenceClassification", heads.FEATURES: "BertModel"}
        settings["architectures"] = [stock[head]]
        settings["id2label"] = {str(number): name for number, name in enumerate(label_names)}
        settings["label2id"] = {name: number for number, name in enumerate(label_names)}
        settings["problem_type"] = PROBLEMS[kind]
    return settings
