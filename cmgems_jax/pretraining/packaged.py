"""Models that come with the package, by name: a masked-LM's weights in bfloat16, and its card.

One folder each below weights/: config.json (of the run, with its step), model.safetensors,
README.md.
"""

import dataclasses
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors.numpy
from flax import traverse_util

from cmgems_jax import config as config_lib
from cmgems_jax.config import Config
from cmgems_jax.runtime import outputs

FOLDER = Path(__file__).parents[1] / "weights"
_CONFIG, _TENSORS = "config.json", "model.safetensors"


def names() -> list[str]:
    """Returns the models of the package."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{_TENSORS}"))


def is_name(path: Path | str) -> bool:
    """Returns whether a model of the package is meant; a folder of that name comes first."""
    return str(path) in names() and not Path(path).exists()


def read(name: str) -> tuple[Config, dict, int]:
    """Returns the run's config, the parameters of heads.MaskedLM (float32), and its step."""
    folder = FOLDER / name
    record = json.loads((folder / _CONFIG).read_text())
    stored = safetensors.numpy.load_file(folder / _TENSORS)
    flat = {key: array.astype(np.float32) for key, array in stored.items()}
    params = traverse_util.unflatten_dict(flat, sep=".")
    return config_lib.from_dict(record["config"], source=name), params, record["step"]


def write(folder: Path, config: Config, params: dict, step: int) -> None:
    """Writes config.json and model.safetensors; of the config no path of this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    data = dataclasses.replace(config.data, fasta="", dir="")
    origin = dataclasses.replace(config.init_from, path=Path(config.init_from.path).name)
    config = dataclasses.replace(config, data=data, init_from=origin)
    flat = traverse_util.flatten_dict(params, sep=".")
    tensors = {key: np.asarray(array).astype(ml_dtypes.bfloat16) for key, array in flat.items()}
    with outputs.replaced_file(folder / _TENSORS) as partial:
        partial.write_bytes(safetensors.numpy.save(tensors))
    outputs.write_json(folder / _CONFIG, {"step": step, "config": config_lib.to_dict(config)})
