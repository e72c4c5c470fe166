"""A run's first parameters from another model: `init_from` (SPEC: warm start).

The parameters alone: data, schedule, curriculum and optimizer are the new run's. What it began
with stands in its config.json and in every checkpoint, so that it resumes without the source.
Axes: N positions, D hidden.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from flax import traverse_util

from cmgems_jax.config import Config, InitFromConfig, flatten
from cmgems_jax.errors import InputError, note
from cmgems_jax.genome import input_files
from cmgems_jax.model import initial_values
from cmgems_jax.pretraining import checkpoints
from cmgems_jax.pretraining.pretrained import Pretrained

Reader = Callable[[Path], Pretrained]  # such as pretrained.load_masked_lm
# What both models must share.
_SAME = (
    "tokens.k", "tokens.alphabet", "model.num_layers", "model.hidden_size", "model.num_heads",
    "model.feedforward_size",
)  # fmt: skip
_POSITIONS = "model.num_positions"
_TABLE = "position_embeddings"


def prepare(config: Config, workdir: Path, read: Reader) -> tuple[Config, Pretrained | None]:
    """Returns the config with `init_from` filled in, and the model to begin with.

    None where the run begins with initial values, or has a checkpoint of its own: then it
    needs neither the source nor `init_from.path`. Nothing is written.

    Raises:
      InputError: `workdir` holds another run, or one from other weights; there is no such
        source; or it does not fit the config.
    """
    saved, origin = checkpoints.read_config(workdir), config.init_from
    if saved is not None:
        before = saved.init_from
        if origin.path in ("", before.path) and origin.sha256 in ("", before.sha256):
            config, origin = dataclasses.replace(config, init_from=before), before
    checkpoints.refuse_other_run(workdir, config)
    if not origin.path or checkpoints.saved_steps(workdir):
        return config, None
    source = read(Path(input_files.expand(origin.path)))
    _check(source.config, config)
    _note_high_rate(source, config)
    actual = InitFromConfig(origin.path, source.step, sha256(source.params))
    if origin.sha256 not in ("", actual.sha256):
        raise InputError(
            f"init_from.path={origin.path}: weights of sha256 {actual.sha256}, expected "
            f"init_from.sha256={origin.sha256}; give the model that this run was begun with"
        )
    return dataclasses.replace(config, init_from=actual), source


def _check(source: Config, config: Config) -> None:
    """Raises `InputError` that names every field in which the source does not fit the run."""
    theirs, ours = flatten(source), flatten(config)
    wrong = [name for name in _SAME if theirs[name] != ours[name]]
    if theirs[_POSITIONS] > ours[_POSITIONS]:
        wrong.append(_POSITIONS)
    if wrong:
        differences = ", ".join(f"{name}={theirs[name]} there, {ours[name]} here" for name in wrong)
        flags = " ".join(f"--config.{name}={theirs[name]}" for name in wrong)
        raise InputError(f"init_from.path={config.init_from.path}: {differences}; {flags} would do")
    if source.tokens.stride != config.tokens.stride:
        note(
            f"init_from.path={config.init_from.path}: tokens.stride={source.tokens.stride} there, "
            f"{config.tokens.stride} here"
        )


def _note_high_rate(source: Pretrained, config: Config) -> None:
    """Notes a rate as high as the one that made the source; an import does not say which did."""
    before, now = source.config.optimizer.peak_lr, config.optimizer.peak_lr
    if source.step and now >= before:
        note(
            f"optimizer.peak_lr={now:g}, and {before:g} made {config.init_from.path}: a rate that "
            "high undoes part of what it knows before it helps; a tenth or less is usual, "
            f"--config.optimizer.peak_lr={before / 10:g} (docs/running.md)"
        )


def sha256(params: dict) -> str:
    """Returns the SHA-256 of the arrays' names and bytes, in hexadecimal, whatever their file."""
    digest = hashlib.sha256()
    for name, array in sorted(traverse_util.flatten_dict(params, sep=".").items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def params(source: Pretrained, initial: dict, config: Config) -> dict:
    """Returns the parameters to begin with, host arrays, and prints where they are from.

    Of a longer position table the first rows are the source's. The rest continues the
    source's sinusoids, or keeps the run's own initial values where it has none. `source` and
    `config` are of `prepare`, `initial` the run's initial parameters.
    """
    began = dict(source.params, encoder=dict(source.params["encoder"]))
    old_ND = began["encoder"][_TABLE]
    table_ND, goes_on = np.array(initial["encoder"][_TABLE]), ""
    if len(old_ND) < len(table_ND):
        how = f"initial values ({_POSITIONS}, position_init={config.model.position_init})"
        if source.config.model.position_init == "sinusoidal":
            how = "the source's sinusoids"
            sample = initial_values.positions(source.config.model)
            table_ND = np.array(sample(jax.random.key(0), table_ND.shape))
        goes_on = f"; positions {len(old_ND)} to {len(table_ND) - 1} are new: {how}"
    table_ND[: len(old_ND)] = old_ND
    began["encoder"][_TABLE] = table_ND
    origin = config.init_from
    step = f", step {origin.step:,}" if origin.step else ""
    print(
        f"parameters: of {origin.path}{step}, sha256 {origin.sha256[:12]}...{goes_on}", flush=True
    )
    return began
