"""The learning-rate schedule and AdamW, as published (DNABERT, CM-GEMS)."""

import jax
import optax

from cmgems_jax.config import Config, OptimizerConfig


def schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Returns the learning rate by step: linear warm-up from 0, then decay to 0 at `num_steps`."""
    decay_steps = num_steps - config.warmup_steps
    decay = {
        "linear": lambda: optax.linear_schedule(config.peak_lr, 0.0, decay_steps),
        "cosine": lambda: optax.cosine_decay_schedule(config.peak_lr, decay_steps),
    }[config.decay]()
    warmup = optax.linear_schedule(0.0, config.peak_lr, config.warmup_steps)
    return optax.join_schedules([warmup, decay], [config.warmup_steps])


def decay_mask(params: optax.Params) -> optax.Params:
    """Returns which parameters decay: kernels and embedding tables, not biases or LayerNorm."""

    def decays(path: tuple[jax.tree_util.DictKey, ...], _: jax.Array) -> bool:
        name = path[-1].key
        return name == "kernel" or name.endswith(("embedding", "embeddings"))

    return jax.tree_util.tree_map_with_path(decays, params)


def make(config: Config) -> optax.GradientTransformation:
    """Returns gradient clipping by global norm, then AdamW with the schedule."""
    settings = config.optimizer
    adamw = optax.adamw(
        schedule(settings, config.num_steps),
        b1=settings.beta1,
        b2=settings.beta2,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        mask=decay_mask,
    )
    if settings.clip_norm == 0:
        return adamw
    return optax.chain(optax.clip_by_global_norm(settings.clip_norm), adamw)
