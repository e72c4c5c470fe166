"""A pretrained encoder, read from a run's checkpoint: its parameters alone, on the host."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from cmgems_jax import config as config_lib
from cmgems_jax.config import Config
from cmgems_jax.errors import InputError
from cmgems_jax.model import bert, heads
from cmgems_jax.pretraining import checkpoints, packaged
from cmgems_jax.runtime import parallel

UNTRAINED = "untrained"  # the name of an encoder with initial values


@dataclasses.dataclass
class Pretrained:
    """A network, and how the tables call it."""

    config: Config  # of the pretraining run
    params: dict  # of bert.Encoder, float32 arrays on the host
    name: str  # the work folder's; WORKDIR@STEP where a step was asked for
    step: int = 0  # updates of its pretraining


def load(path: Path) -> Pretrained:
    """Returns the encoder that a pretraining run has saved.

    The optimizer's state is not read, and the number of devices that the run had
    does not matter.

    Args:
      path: WORKDIR (its newest checkpoint), WORKDIR/checkpoints/STEP, or one of
        `packaged.names()`.

    Raises:
      InputError: no checkpoint there, one of another version, or a damaged one.
    """
    whole = load_masked_lm(path)
    return dataclasses.replace(whole, params=whole.params["encoder"])


def load_masked_lm(path: Path) -> Pretrained:
    """Returns the same with the head: `params` are those of heads.MaskedLM. See `load`."""
    if packaged.is_name(path):
        config, params, step = packaged.read(str(path))
        return Pretrained(config, params, str(path), step)
    workdir, step = locate(Path(path))
    folder = workdir / checkpoints.FOLDER / str(step)
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
            as_json = ocp.args.JsonRestore()
            saved = _read(reader, folder, config=as_json, checksums=as_json)
            config = config_lib.from_dict(saved["config"], source=str(folder))
            params = _read_params(reader, folder, config)
        checkpoints.verify(checkpoints.params_checksums(params), saved["checksums"])
    except InputError:
        raise
    except Exception as error:  # whatever orbax and tensorstore raise on damaged files
        raise InputError(
            f"{folder}: damaged checkpoint ({checkpoints.first_line(error)[:300]}); give an older "
            f"one as WORKDIR/{checkpoints.FOLDER}/STEP"
        ) from None
    name = workdir.resolve().name
    return Pretrained(config, params, name if Path(path) == workdir else f"{name}@{step}", step)


def digest(model: Pretrained) -> str:
    """Returns the SHA-256 of the parameters, which says whether two models are one."""
    sums = sorted(checkpoints.checksums(model.params).items())
    return hashlib.sha256(repr(sums).encode()).hexdigest()


def untrained(like: Pretrained, seed: int) -> Pretrained:
    """Returns the same encoder with initial values, sampled as its pretraining sampled them."""
    model = bert.Encoder(like.config.model, like.config.tokens)
    ids = np.zeros((1, 8), np.int32)
    params = jax.jit(model.init)(jax.random.key(seed), ids)["params"]
    return Pretrained(like.config, parallel.to_host(params), UNTRAINED)


def locate(path: Path | str) -> tuple[Path, int]:
    """Returns the work folder and the step to read. See `load` for `path` and errors."""
    if packaged.is_name(path):
        return packaged.FOLDER / path, packaged.read(str(path))[-1]
    path = Path(path)
    if not path.is_dir():
        raise InputError(
            f"{path}: no such folder; expected the --workdir of a pretraining run, "
            f"{checkpoints.FOLDER}/STEP in it, or a model of the package "
            f"({', '.join(packaged.names())})"
        )
    if (path / "classifier.json").exists():
        raise InputError(f"{path}: holds a fine-tuned classifier; expected a pretraining run")
    if path.parent.name == checkpoints.FOLDER and path.name.isdecimal():
        return path.parent.parent, int(path.name)
    steps = checkpoints.saved_steps(path)
    if not steps:
        raise InputError(
            f"{path}: no checkpoint ({checkpoints.FOLDER}/STEP) in it; expected the --workdir of "
            "a pretraining run that has saved one"
        )
    return path, max(steps)


def _read(
    reader: ocp.Checkpointer, folder: Path, **items: ocp.args.CheckpointArgs
) -> dict[str, Any]:
    """Returns the named items of a checkpoint."""
    return reader.restore(folder.absolute(), args=ocp.args.Composite(**items))


def _read_params(reader: ocp.Checkpointer, folder: Path, config: Config) -> dict:
    """Returns the parameters, which must be those of the config's network."""
    shapes = {"params": heads.param_shapes(config.model, config.tokens)}
    on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
    arguments = ocp.args.PyTreeRestore(item=shapes, restore_args=on_host, partial_restore=True)
    saved = {"params": _read(reader, folder, state=arguments)["state"]["params"]}
    for (path, leaf), expected in zip(
        jax.tree_util.tree_leaves_with_path(saved), jax.tree.leaves(shapes), strict=True
    ):
        if (leaf.shape, leaf.dtype) != (expected.shape, expected.dtype):
            name = jax.tree_util.keystr(path)
            raise ValueError(
                f"{name}: {leaf.dtype} {leaf.shape}, expected {expected.dtype} {expected.shape}"
            )
    return saved["params"]
