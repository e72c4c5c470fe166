"""What makes a config impossible, found before any work: types, choices, ranges, relations."""

from cmgems_jax import vocabulary
from cmgems_jax.config import CURRICULA, STRATEGIES, Config, flatten
from cmgems_jax.errors import InputError, did_you_mean


def validate(config: Config) -> None:
    """Raises `InputError` for the first setting that cannot work, before any work starts."""
    _check_types(config)
    for name, value, allowed in _choices(config):
        if value not in allowed:
            raise InputError(
                f"{name}={value!r}: expected one of {', '.join(allowed)}."
                f"{did_you_mean(value, allowed)}"
            )
    for name, (least, most) in _RANGES.items():
        value = flatten(config)[name]
        if not least <= value <= most:
            above = f" to {most:g}" if most != _ANY else " or more"
            raise InputError(f"{name}={value!r}: expected {least:g}{above}")
    _check_relations(config)


def _check_types(config: Config) -> None:
    """Every value has the type of its default; an int is a float too."""
    defaults = flatten(Config())
    for name, value in flatten(config).items():
        kind = type(defaults[name])
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            continue
        if type(value) is not kind:
            raise InputError(
                f"{name}={value!r}: expected {kind.__name__}, found {type(value).__name__}"
            )


def _choices(config: Config) -> list[tuple[str, str, tuple[str, ...]]]:
    """Returns (field, value, allowed values) of every field with a fixed set of values."""

    return [
        ("data.split", config.data.split, ("auto", "contig", "window")),
        ("tokens.alphabet", config.tokens.alphabet, tuple(vocabulary.ALPHABETS)),
        ("pmi.segmentation", config.pmi.segmentation, ("published", "full")),
        ("masking.corruption", config.masking.corruption, ("token", "run")),
        ("curriculum.name", config.curriculum.name, CURRICULA),
        ("curriculum.strategy", config.curriculum.strategy, STRATEGIES),
        (
            "curriculum.threshold_kind",
            config.curriculum.threshold_kind,
            ("absolute", "relative"),
        ),
        (
            "curriculum.budget_schedule",
            config.curriculum.budget_schedule,
            ("constant", "by_stage", "adaptive"),
        ),
        ("model.dtype", config.model.dtype, ("auto", "float32", "bfloat16")),
        ("model.attention", config.model.attention, ("auto", "plain", "fused")),
        ("model.remat", config.model.remat, ("none", "dots", "full")),
        ("model.embedding_init", config.model.embedding_init, ("bert", "bases")),
        ("model.position_init", config.model.position_init, ("bert", "sinusoidal")),
        ("optimizer.decay", config.optimizer.decay, ("linear", "cosine")),
    ]


_ANY = float("inf")
_RANGES = {
    "seed": (0, 2**31 - 1),
    "num_steps": (1, 2**31 - 1),
    "batch_size": (1, _ANY),
    "accumulation_steps": (1, _ANY),
    "log_every": (1, _ANY),
    "eval_every": (0, _ANY),
    "eval_windows": (0, _ANY),
    "checkpoint_every": (1, _ANY),
    "keep_checkpoints": (1, _ANY),
    "keep_every": (0, _ANY),
    "data.num_tokens": (8, _ANY),
    "data.full_length_share": (0, 1),
    "data.windows_a_row": (1, 32),
    "data.validation_fraction": (0.001, 0.9),
    "data.synthetic_bases": (0, 2**31 - 1),
    "tokens.k": (vocabulary.MIN_K, vocabulary.MAX_K),
    "tokens.stride": (1, vocabulary.MAX_K),
    "pmi.min_count": (2, _ANY),
    "masking.budget": (0.001, 0.9),
    "masking.min_distance": (0, _ANY),
    "masking.top_m": (0.01, 10),
    "masking.max_predictions": (0, _ANY),
    "curriculum.threshold": (0, _ANY),
    "curriculum.hard_budget": (0.001, 0.9),
    "curriculum.budget_step": (0, 0.9),
    "curriculum.budget_max": (0.001, 0.9),
    "model.num_layers": (1, _ANY),
    "model.hidden_size": (1, _ANY),
    "model.num_heads": (1, _ANY),
    "model.feedforward_size": (1, _ANY),
    "model.num_positions": (8, _ANY),
    "model.dropout": (0, 0.99),
    "model.attention_dropout": (0, 0.99),
    "model.embedding_scale": (0, _ANY),
    "model.position_scale": (0, _ANY),
    "optimizer.peak_lr": (0, _ANY),
    "optimizer.warmup_steps": (0, _ANY),
    "optimizer.weight_decay": (0, _ANY),
    "optimizer.clip_norm": (0, _ANY),
    "optimizer.beta1": (0, 0.999999),
    "optimizer.beta2": (0, 0.999999),
    "optimizer.eps": (0, 1),
}


def _check_relations(config: Config) -> None:
    """The checks that take two fields."""
    model, tokens, data = config.model, config.tokens, config.data
    if model.hidden_size % model.num_heads:
        raise InputError(
            f"model.hidden_size={model.hidden_size}: expected a multiple of "
            f"model.num_heads={model.num_heads}"
        )
    if model.attention == "fused" and model.attention_dropout:
        raise InputError(
            f"model.attention='fused', model.attention_dropout={model.attention_dropout}: no "
            "fused kernel drops attention weights; set model.attention_dropout=0, or "
            "model.attention=auto"
        )
    if tokens.stride > tokens.k:
        raise InputError(
            f"tokens.stride={tokens.stride}: expected at most tokens.k={tokens.k}; "
            "bases between tokens would never be seen"
        )
    if data.num_tokens > model.num_positions:
        raise InputError(
            f"data.num_tokens={data.num_tokens}: longer than model.num_positions="
            f"{model.num_positions}; lower the first or raise the second"
        )
    if config.batch_size % config.accumulation_steps:
        raise InputError(
            f"batch_size={config.batch_size}: expected a multiple of "
            f"accumulation_steps={config.accumulation_steps}"
        )
    if config.pmi_source == "grch38" and tokens.k != 6:
        raise InputError(
            f"pmi.table='grch38' holds 6-mers, tokens.k={tokens.k}: set pmi.table=corpus "
            "or to a table of that k (python -m launch.count_pmi)"
        )
    if config.optimizer.warmup_steps >= config.num_steps:
        raise InputError(
            f"optimizer.warmup_steps={config.optimizer.warmup_steps}: expected less than "
            f"num_steps={config.num_steps}"
        )
    _check_curriculum(config)


def _check_curriculum(config: Config) -> None:
    """A curriculum that can never switch is refused at the start."""
    curriculum = config.curriculum
    if curriculum.name not in ("cm_gems", "hard_to_easy"):
        return
    if not config.eval_every or 2 * config.eval_every >= config.num_steps:
        raise InputError(
            f"curriculum.name={curriculum.name!r} can never switch: it compares two evaluations, "
            f"and eval_every={config.eval_every} gives fewer than two before the last of "
            f"num_steps={config.num_steps}; set eval_every between 1 and "
            f"{max(1, (config.num_steps - 1) // 2)}, or curriculum.name=fixed"
        )
    if curriculum.threshold <= 0:
        raise InputError(
            f"curriculum.threshold={curriculum.threshold}: {curriculum.name!r} can never switch; "
            "expected more than 0 (paper: 1.0), or curriculum.name=fixed"
        )
