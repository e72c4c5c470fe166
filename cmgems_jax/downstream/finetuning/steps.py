"""The compiled programs that train the classifiers of many draws, stacked by vmap.

Pure, as `steps` is for pretraining: one draw's functions, mapped over the draws of a
device and split over the devices. Axes: D draws of a device, S steps, B sequences of
a step, M bases, W windows of the training file, L tokens, C classes.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax

from cmgems_jax import config as config_lib
from cmgems_jax.config import Config
from cmgems_jax.downstream.finetuning import recipes, subspace
from cmgems_jax.downstream.finetuning.classifier import logits_on_strand
from cmgems_jax.downstream.finetuning.recipes import Recipe
from cmgems_jax.downstream.finetuning.subspace import Subspace
from cmgems_jax.downstream.tasks import labels
from cmgems_jax.downstream.tasks.table import Task
from cmgems_jax.genome import vocabulary
from cmgems_jax.model import heads
from cmgems_jax.runtime import parallel

NO_ROW = -1  # fills the last batch of an epoch
_HEAD_KEY, _DROPOUT_KEY, _SUBSPACE_KEY, _STRAND_KEY = range(4)  # branches of a draw's key


@flax.struct.dataclass
class DrawState:
    """The training of one draw."""

    step: jax.Array  # int32, updates done
    params: dict | Subspace  # of heads.Classifier, float32
    opt_state: optax.OptState
    key: jax.Array  # uint32 (2,), the draw's key; derived from, never advanced


class Programs(NamedTuple):
    """Functions of all draws: arrays (devices, draws each, ...); others lie on every device."""

    init: Callable  # (encoder params, keys, head params) -> states
    train: Callable  # (states, rows (..., S, B), num_steps, bases_WM, labels_W) -> states, losses
    keep_better: Callable  # (params, others, take_others) -> params
    predict: Callable  # (params, bases_BM) -> float32 logits (..., B, C)


def make(config: Config, task: Task, recipe: Recipe, num_steps: int, num_devices: int) -> Programs:
    """Returns the programs; the same ones, already compiled, where all arguments are the same."""
    settings = {"model": dataclasses.asdict(config.model), "tokens": vars(config.tokens)}
    kind = (task.num_classes, task.labels)
    return _make(json.dumps(settings), *kind, recipe, num_steps, num_devices)


@functools.lru_cache(maxsize=16)
def _make(
    settings: str, num_classes: int, kind: str, recipe: Recipe, num_steps: int, num_devices: int
) -> Programs:
    """The programs by what they depend on; a config is no key, since it can be changed."""
    config = config_lib.from_dict(json.loads(settings))
    network = dataclasses.replace(config.model, dropout=recipe.dropout)
    model = heads.Classifier(network, config.tokens, num_classes, recipe.head)
    transform = recipes.make_optimizer(recipe, num_steps)
    init = functools.partial(
        init_state, model=model, transform=transform, num_dimensions=recipe.subspace
    )
    step = functools.partial(
        train_step,
        model=model,
        transform=transform,
        loss=_LOSSES[kind],
        reverse_complement=recipe.reverse_complement,
    )
    forward = functools.partial(class_logits, model=model)
    predict = logits_on_strand(forward, recipe.strand, kind)
    train_chunk = functools.partial(_train_chunk, step=step)
    over = functools.partial(parallel.draws_program, num_devices=num_devices)
    return Programs(
        init=over(jax.vmap(init, (None, 0, 0)), in_axes=(None, 0, 0)),
        train=over(train_chunk, in_axes=(0, 0, None, None, None), donate=(0,)),
        keep_better=over(jax.vmap(_keep_better), in_axes=(0, 0, 0)),
        predict=over(jax.vmap(predict, (0, None)), in_axes=(0, None)),
    )


def init_state(
    encoder_params: dict,
    key_data: jax.Array,
    head_params: dict,
    *,
    model: heads.Classifier,
    transform: optax.GradientTransformation,
    num_dimensions: int = 0,
) -> DrawState:
    """Returns the state of one draw before its first step: the given encoder and head.

    Without parameters of a head it is a random one over [CLS]. With `num_dimensions`, a random
    subspace of so many through them is what is trained.
    """
    draw_key = jax.random.wrap_key_data(key_data)
    if not head_params:
        head_key = jax.random.fold_in(draw_key, _HEAD_KEY)
        state_BD = jnp.zeros((1, model.config.hidden_size))
        head_params = model.init(head_key, state_BD, method=model.head)["params"]
    params = {"encoder": encoder_params, **head_params}
    if num_dimensions:
        subspace_key = jax.random.fold_in(draw_key, _SUBSPACE_KEY)
        params = subspace.begin(params, num_dimensions, subspace_key)
    return DrawState(jnp.int32(0), params, transform.init(subspace.trained(params)), key_data)


def train_step(
    state: DrawState,
    rows_B: jax.Array,
    bases_WM: jax.Array,
    labels_W: jax.Array,
    *,
    model: heads.Classifier,
    transform: optax.GradientTransformation,
    loss: Callable[[jax.Array, jax.Array], jax.Array],
    reverse_complement: bool = False,
) -> tuple[DrawState, jax.Array]:
    """Returns the state of one draw after one update, and the sum of the rows' losses.

    Args:
      rows_B: int32, windows of the batch; `NO_ROW` counts nothing, so that the mean is
        over the rows that are there.
      bases_WM: uint8, all windows.
      labels_W: of the windows, what `loss` takes.
      loss: `(logits_BC, labels) -> float32 (B,)`.
      reverse_complement: each sequence is read from a strand that the step's key draws.
    """
    is_row_B = rows_B != NO_ROW
    picked_B = jnp.maximum(rows_B, 0)
    bases_BM = bases_WM[picked_B]
    if reverse_complement:
        key = jax.random.fold_in(_branch(state, _STRAND_KEY), state.step)
        is_reverse_B = jax.random.bernoulli(key, shape=picked_B.shape)
        other_BM = vocabulary.reverse_complement(bases_BM)
        bases_BM = jnp.where(is_reverse_B[:, None], other_BM, bases_BM)
    ids_BL = vocabulary.model_ids(bases_BM, model.tokens.k, model.tokens.stride)
    keys_B = _dropout_keys(state, len(rows_B), model)

    def mean_loss(moving: dict) -> tuple[jax.Array, jax.Array]:
        params = subspace.expand(subspace.with_trained(state.params, moving))
        logits_BC = model.apply({"params": params}, ids_BL, keys_B)
        losses_B = loss(logits_BC, labels_W[picked_B])
        total = jnp.where(is_row_B, losses_B, 0).sum()
        return total / jnp.maximum(is_row_B.sum(dtype=jnp.int32), 1).astype(jnp.float32), total

    moving = subspace.trained(state.params)
    grads, total = jax.grad(mean_loss, has_aux=True)(moving)
    with jax.numpy_dtype_promotion("standard"):  # optax relies on it
        updates, opt_state = transform.update(grads, state.opt_state, moving)
    params = subspace.with_trained(state.params, optax.apply_updates(moving, updates))
    return DrawState(state.step + 1, params, opt_state, state.key), total


_LOSSES = {  # (outputs_BC, the rows' labels) -> float32 (B,), means over the numbers of a row
    labels.CLASSES: optax.softmax_cross_entropy_with_integer_labels,
    labels.MULTILABEL: lambda *pair: optax.sigmoid_binary_cross_entropy(*pair).mean(axis=1),
    labels.NUMBERS: lambda *pair: optax.squared_error(*pair).mean(axis=1),
}


def _dropout_keys(state: DrawState, batch_size: int, model: heads.Classifier) -> jax.Array | None:
    """Returns one key per sequence, or None where nothing is dropped."""
    if model.config.dropout == 0 and model.config.attention_dropout == 0:
        return None
    step_key = jax.random.fold_in(_branch(state, _DROPOUT_KEY), state.step)
    numbers_B = jnp.arange(batch_size, dtype=jnp.int32)
    return jax.vmap(jax.random.fold_in, (None, 0))(step_key, numbers_B)


def _branch(state: DrawState, branch: int) -> jax.Array:
    """Returns one of the branches of a draw's key."""
    return jax.random.fold_in(jax.random.wrap_key_data(state.key), branch)


def class_logits(
    params: dict | Subspace, bases_BM: jax.Array, *, model: heads.Classifier
) -> jax.Array:
    """Returns float32 (B, C)."""
    ids_BL = vocabulary.model_ids(bases_BM, model.tokens.k, model.tokens.stride)
    return model.apply({"params": subspace.expand(params)}, ids_BL)


def _train_chunk(
    states_D: DrawState,
    rows_DSB: jax.Array,
    num_steps: jax.Array,
    bases_WM: jax.Array,
    labels_W: jax.Array,
    *,
    step: Callable,
) -> tuple[DrawState, jax.Array]:
    """Returns the states after the first `num_steps` of S steps, and their losses' sums (D,)."""
    steps_D = jax.vmap(step, (0, 0, None, None))

    def advance(index: jax.Array, carry: tuple) -> tuple:
        states_D, losses_D = carry
        states_D, loss_D = steps_D(states_D, rows_DSB[:, index], bases_WM, labels_W)
        return states_D, losses_D + loss_D

    return jax.lax.fori_loop(0, num_steps, advance, (states_D, jnp.zeros(len(rows_DSB))))


def _keep_better(params: dict, others: dict, take_others: jax.Array) -> dict:
    """Returns one draw's parameters or the others."""
    return jax.tree.map(lambda old, new: jnp.where(take_others, new, old), params, others)
