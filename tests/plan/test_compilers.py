"""The train program by the compilers of a TPU and of a GPU, which are not in the usual environment.

`.ci/run` runs this in one that has them (requirements-plan.txt); elsewhere it is skipped.
"""

import dataclasses

import jax
import numpy as np
import pytest

from cmgems_jax.config import Config, CurriculumConfig, DataConfig, ModelConfig, TokensConfig
from cmgems_jax.masking import rows as masked_rows
from cmgems_jax.plan import plan
from cmgems_jax.plan import targets as plan_targets

# 384 positions: a number that no other size equals.
LENGTH, HIDDEN, INNER, HEADS, LAYERS = 384, 128, 256, 2, 2
ROWS, K = 8, 4  # rows of a device; few k-mers, so that the layers take most of the memory
TARGETS = {"v5e:2x2": ("libtpu", "splash"), "h100": ("jax_cuda13_plugin", "fmha")}


@dataclasses.dataclass
class Compiled:
    """A target's train program."""

    target: plan_targets.Target
    kernel: str
    config: Config
    found: plan._Compiled
    parameters: int


@pytest.fixture(scope="module", params=TARGETS)
def compiled(request: pytest.FixtureRequest) -> Compiled:
    """A model of two layers that drops, compiled once for a target."""
    compiler, kernel = TARGETS[request.param]
    pytest.importorskip(compiler)
    target = plan_targets.find(request.param)
    model = ModelConfig(
        num_layers=LAYERS,
        hidden_size=HIDDEN,
        num_heads=HEADS,
        feedforward_size=INNER,
        num_positions=LENGTH,
        attention_dropout=0.0,
    )
    config = Config(
        batch_size=ROWS * len(target.devices),
        data=DataConfig(num_tokens=LENGTH),
        curriculum=CurriculumConfig(name="fixed"),
        tokens=TokensConfig(k=K),
        model=model,
    )
    params = jax.eval_shape(plan.steps.programs(config, np.arange(1, 4**K + 1))[0]).params
    with jax.numpy_dtype_promotion("standard"):  # flax's LayerNorm relies on it in bfloat16
        found = plan._compile(config, target)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Compiled(target, kernel, config, found, size)


def test_the_devices_own_kernel_attends(compiled):
    kernels = compiled.found.program.kernels()
    assert kernels and all(compiled.kernel in name for name in kernels)


def test_no_scores_are_kept(compiled):
    """cuDNN takes the windows as a bias, one for all heads of a row; splash as segments."""
    squares = [dims for dims in compiled.found.program.buffers() if dims.count(LENGTH) > 1]
    most = ROWS * LENGTH**2 if compiled.kernel == "fmha" else 0
    assert all(np.prod(dims) <= most for dims in squares)


def test_devices_send_each_other_the_gradients_once(compiled):
    sent = compiled.found.program.collectives()
    if len(compiled.target.devices) == 1:
        assert not sent
        return
    assert [one["kind"] for one in sent] == ["all-reduce"]
    assert 4 * compiled.parameters <= sent[0]["bytes"] <= 4 * compiled.parameters * 1.01


def test_memory_is_the_parameters_thrice_and_a_few_values_a_position(compiled):
    """By hand: gradients, logits and theirs, and what the layers keep in two bytes a value."""
    memory, tokens = compiled.found.memory, ROWS * LENGTH
    state = 3 * 4 * compiled.parameters  # float32: parameters and AdamW's two moments
    assert state <= memory["state_bytes"] <= 1.1 * state
    num_predicted = masked_rows.max_predictions(compiled.config, ROWS)
    logits = 2 * 4 * num_predicted * 4**K
    # Behind the last layer's attention only the predicted positions count.
    layers = 2 * tokens * ((LAYERS - 1) * (8 * HIDDEN + 2 * INNER) + 4 * HIDDEN)
    if compiled.kernel == "fmha":  # what both passes hold, and the windows' bias
        layers += layers + 2 * 2 * tokens * LENGTH
    assert 0 < memory["temporaries_bytes"] <= state / 3 + logits + layers
