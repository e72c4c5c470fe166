"""A fine-tuned classifier as a folder: parameters in safetensors, the rest in JSON."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from cmgems_jax import config as config_lib
from cmgems_jax.config import Config
from cmgems_jax.downstream.tasks import labels as task_labels
from cmgems_jax.errors import InputError
from cmgems_jax.genome import files as genome_files
from cmgems_jax.model import heads, strands
from cmgems_jax.runtime import outputs

RECORD, TENSORS = "classifier.json", "classifier.safetensors"


@dataclasses.dataclass
class TrainedClassifier:
    """What predicts."""

    config: Config  # of the pretraining run
    params: dict  # of heads.Classifier, float32 arrays on the host
    label_names: list[str]  # of the classes, numbers or labels 0, 1, ...
    max_tokens: int  # positions of the longest sequence it was trained on
    strand: str = "forward"  # of `vocabulary.STRANDS`, from which it is meant to read
    head: str = heads.CLS  # or heads.FEATURES
    labels: str = task_labels.CLASSES  # of labels.KINDS; numbers are in the labels' own units
    programs: dict[str, Callable] = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )  # by strand, see `predict.program`

    @property
    def network(self) -> heads.Classifier:
        """What the parameters are of."""
        config = self.config
        return heads.Classifier(config.model, config.tokens, len(self.label_names), self.head)


def logits_on_strand(logits: strands.Function, strand: str, kind: str) -> strands.Function:
    """Returns logits, float32 (B, C), read from a strand; of both, those of the mean probabilities.

    Of both, numbers are the mean itself.
    """
    if strand != "both" or kind == task_labels.NUMBERS:
        return strands.on_strand(logits, strand)

    def of_both(params: dict, bases_BM: jax.Array) -> jax.Array:
        each = [strands.on_strand(logits, one)(params, bases_BM) for one in ("forward", "reverse")]
        if kind == task_labels.CLASSES:
            return jnp.logaddexp(*map(jax.nn.log_softmax, each)) - math.log(2)
        with_label, without = (
            jnp.logaddexp(*(jax.nn.log_sigmoid(sign * logits_BC) for logits_BC in each))
            for sign in (1, -1)
        )
        return with_label - without

    return of_both


def save_classifier(
    folder: Path | str,
    classifier: TrainedClassifier,
    *,
    task: str,
    recipe: dict[str, Any],
    source: str,
) -> None:
    """Writes classifier.safetensors and classifier.json; names are paths joined by dots.

    The folder is made where it is missing; a classifier in it is replaced. `source` says where
    the encoder came from.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)  # no record of other parameters
    flat = traverse_util.flatten_dict(classifier.params, sep=".")
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in flat.items()}
    with outputs.replaced_file(folder / TENSORS) as partial:
        partial.write_bytes(safetensors.numpy.save(arrays))
    record = {
        "task": task,
        "head": classifier.head,
        "labels": classifier.labels,
        "label_names": classifier.label_names,
        "max_tokens": classifier.max_tokens,
        "strand": classifier.strand,
        "source": source,
        "recipe": recipe,
        "sha256": genome_files.sha256(str(folder / TENSORS)),
        "config": config_lib.to_dict(classifier.config),
    }
    outputs.write_json(folder / RECORD, record)


def load_classifier(folder: Path | str) -> TrainedClassifier:
    """Returns a classifier that `save_classifier` wrote.

    Raises:
      InputError: there is none, it is of another version, or it is damaged.
    """
    folder = Path(folder)
    record = _read_record(folder)
    path = folder / TENSORS
    try:
        config = config_lib.from_dict(record["config"], source=str(folder / RECORD))
        names, max_tokens = record["label_names"], record["max_tokens"]
        head = record.get("head", heads.CLS)  # an earlier version knew no other, nor other labels
        kind = record.get("labels", task_labels.CLASSES)
        if genome_files.sha256(str(path)) != record["sha256"]:
            raise _damaged(path, "its bytes are not those that were saved")
        flat = safetensors.numpy.load_file(path)
    except (KeyError, OSError, safetensors.SafetensorError) as error:
        raise _damaged(folder, f"{type(error).__name__}: {error}") from None
    params = traverse_util.unflatten_dict(flat, sep=".")
    expected = heads.param_shapes(config.model, config.tokens, len(names), head)
    if _arrays(params) != _arrays(expected):
        raise _damaged(path, "its arrays are not those of the config's network")
    strand = record.get("strand", "forward")  # earlier versions had no other
    return TrainedClassifier(config, params, names, max_tokens, strand, head, kind)


def _read_record(folder: Path) -> dict[str, Any]:
    """Returns classifier.json."""
    path = folder / RECORD
    if not path.exists():
        raise InputError(
            f"{folder}: no {RECORD} in it; expected the --output of python -m launch.finetune"
        )
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise _damaged(path, f"not JSON: {error}") from None
    if not isinstance(record, dict):
        raise _damaged(path, "expected a JSON object")
    return record


def _arrays(params: dict) -> dict:
    """Returns (shape, dtype) in place of every array."""
    return jax.tree.map(lambda leaf: (tuple(leaf.shape), np.dtype(leaf.dtype)), params)


def _damaged(path: Path, reason: str) -> InputError:
    """Returns the error of a classifier that cannot be read."""
    return InputError(f"{path}: damaged classifier ({reason[:300]}); train it again")
