"""What makes a config impossible, found before any work: types, choices, ranges, relations."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from cmgems_jax.config import CURRICULA, STRATEGIES, Config, flatten, replace
from cmgems_jax.errors import InputError, did_you_mean
from cmgems_jax.genome import vocabulary

_MOST_HIDDEN = 0.5  # the largest budget of masking.objective=base
_NATS = math.log(4)  # of a guess: a change of nats per base is at most that
_EVALS = 16  # of a run, where their number is to be proposed


@dataclasses.dataclass(frozen=True)
class _Fault:
    """What is wrong with a setting."""

    text: str
    fields: tuple[str, ...]  # that it is of
    remedy: dict[str, Any] = dataclasses.field(default_factory=dict)  # values that would do


def validate(config: Config, *, num_devices: int = 1) -> None:
    """Raises `InputError` for all settings that cannot work, before any work starts.

    `num_devices` share the batches.
    """
    faults = list(_single_fields(config))
    bad = {name for fault in faults for name in fault.fields}
    # With a default in place of what is wrong by itself, relations of the others can be seen.
    seen = replace(
        config, {name: value for name, value in flatten(Config()).items() if name in bad}
    )
    faults += [one for one in _relations(seen, num_devices) if not bad.intersection(one.fields)]
    if not faults:
        return
    remedies = {name: value for fault in faults for name, value in fault.remedy.items()}
    would_do = " ".join(f"--config.{name}={value}" for name, value in remedies.items())
    if len(faults) == 1:
        raise InputError(faults[0].text + (f"; {would_do} would do" if would_do else ""))
    lines = [f"{len(faults)} settings cannot work:", *(fault.text for fault in faults)]
    raise InputError("\n  ".join(lines + ([f"would do: {would_do}"] if would_do else [])))


def _single_fields(config: Config) -> Iterator[_Fault]:
    """Yields what is wrong with fields by themselves: types, then choices and ranges."""
    defaults, values = flatten(Config()), flatten(config)
    for name, value in values.items():
        kind = type(defaults[name])
        is_int = kind is float and isinstance(value, int) and not isinstance(value, bool)
        if type(value) is not kind and not is_int:
            text = f"{name}={value!r}: expected {kind.__name__}, found {type(value).__name__}"
            yield _Fault(text, (name,))
        elif name in _CHOICES and value not in _CHOICES[name]:
            text = f"{name}={value!r}: expected one of {', '.join(_CHOICES[name])}."
            yield _Fault(text + did_you_mean(value, _CHOICES[name]), (name,))
        elif kind in (int, float):
            least, most = _RANGES.get(name, (0, _ANY))
            if not least <= value <= most:
                above = f" to {most:g}" if most != _ANY else " or more"
                yield _Fault(f"{name}={value!r}: expected {least:g}{above}", (name,))


_CHOICES = {  # of every field with a fixed set of values
    "data.split": ("auto", "contig", "window"),
    "tokens.alphabet": tuple(vocabulary.ALPHABETS),
    "pmi.segmentation": ("published", "full"),
    "masking.objective": ("token", "base"),
    "masking.ranks": ("pmi", "shuffled", "learned"),
    "masking.corruption": ("token", "run"),
    "curriculum.name": CURRICULA,
    "curriculum.strategy": STRATEGIES,
    "curriculum.watch": ("perplexity", "nats_per_base"),
    "curriculum.threshold_kind": ("absolute", "relative"),
    "curriculum.budget_schedule": ("constant", "by_stage", "adaptive"),
    "model.dtype": ("auto", "float32", "bfloat16"),
    "model.attention": ("auto", "plain", "fused"),
    "model.matmul": ("float32", "bfloat16", "auto"),
    "model.remat": ("none", "dots", "full"),
    "model.embedding_init": ("bert", "bases"),
    "model.position_init": ("bert", "sinusoidal"),
    "optimizer.decay": ("linear", "cosine"),
}
_ANY = float("inf")
_RANGES = {  # of the numbers that need not only be 0 or more
    "seed": (0, 2**31 - 1),
    "num_steps": (1, 2**31 - 1),
    "batch_size": (1, _ANY),
    "accumulation_steps": (1, _ANY),
    "log_every": (1, _ANY),
    "checkpoint_every": (1, _ANY),
    "keep_checkpoints": (1, _ANY),
    "data.num_tokens": (8, 32_765),  # more overflow the keys of ranking.lowest
    "data.full_length_share": (0, 1),
    "data.windows_per_row": (1, 32),
    "data.validation_fraction": (0.001, 0.9),
    "data.synthetic_bases": (0, 2**31 - 1),
    "data.synthetic_repeats": (0, 0.5),
    "tokens.k": (vocabulary.MIN_K, vocabulary.MAX_K),
    "tokens.stride": (1, vocabulary.MAX_K),
    "pmi.min_count": (2, _ANY),
    "masking.budget": (0.001, 0.9),
    "masking.top_m": (0.01, 10),
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
    "optimizer.beta1": (0, 0.999999),
    "optimizer.beta2": (0, 0.999999),
    "optimizer.eps": (0, 1),
}


def _relations(config: Config, num_devices: int) -> Iterator[_Fault]:
    """Yields what is wrong with fields beside each other."""
    model, tokens, data = config.model, config.tokens, config.data
    if model.hidden_size % model.num_heads:
        nearest = max(1, model.hidden_size // model.num_heads) * model.num_heads
        yield _Fault(
            f"model.hidden_size={model.hidden_size}: expected a multiple of "
            f"model.num_heads={model.num_heads}",
            ("model.hidden_size", "model.num_heads"),
            {"model.hidden_size": nearest},
        )
    if model.attention == "fused" and model.attention_dropout:
        yield _Fault(
            f"model.attention='fused', model.attention_dropout={model.attention_dropout}: no "
            "fused kernel drops attention weights; set model.attention_dropout=0, or "
            "model.attention=auto",
            ("model.attention", "model.attention_dropout"),
            {"model.attention_dropout": 0.0},
        )
    if tokens.stride > tokens.k:
        yield _Fault(
            f"tokens.stride={tokens.stride}: expected at most tokens.k={tokens.k}; "
            "bases between tokens would never be seen",
            ("tokens.stride", "tokens.k"),
            {"tokens.stride": tokens.k},
        )
    if data.num_tokens > model.num_positions:
        yield _Fault(
            f"data.num_tokens={data.num_tokens}: longer than model.num_positions="
            f"{model.num_positions}; lower the first or raise the second",
            ("data.num_tokens", "model.num_positions"),
            {"data.num_tokens": model.num_positions},
        )
    if config.pmi_source == "grch38" and tokens.k != 6:
        yield _Fault(
            f"pmi.table='grch38' holds 6-mers, tokens.k={tokens.k}: set pmi.table=corpus "
            "or to a table of that k (python -m launch.count_pmi)",
            ("pmi.table", "tokens.k"),
            {"pmi.table": "corpus"},
        )
    if config.optimizer.warmup_steps >= config.num_steps:
        yield _Fault(
            f"optimizer.warmup_steps={config.optimizer.warmup_steps}: expected less than "
            f"num_steps={config.num_steps}",
            ("optimizer.warmup_steps", "num_steps"),
            {"optimizer.warmup_steps": config.num_steps // 10},
        )
    if config.init_from.sha256 and not config.init_from.path:
        yield _Fault(
            f"init_from.sha256={config.init_from.sha256!r}: no weights to compare with; set "
            "init_from.path too, or neither",
            ("init_from.sha256", "init_from.path"),
        )
    yield from _batches(config, num_devices)
    yield from _ranks(config)
    yield from _budget(config)
    yield from _curriculum(config)


def _batches(config: Config, num_devices: int) -> Iterator[_Fault]:
    """Yields a batch that its parts cannot share."""
    unit = num_devices * config.accumulation_steps
    if config.batch_size % unit:
        lower = config.batch_size - config.batch_size % unit
        parts = f"accumulation_steps={config.accumulation_steps}"
        if num_devices > 1:
            parts = f"{num_devices} devices x {parts} = {unit}"
        yield _Fault(
            f"batch_size={config.batch_size}: expected a multiple of {parts}, for example "
            + (f"{lower} or {lower + unit}" if lower else str(unit)),
            ("batch_size", "accumulation_steps"),
            {"batch_size": lower or unit},
        )


def _ranks(config: Config) -> Iterator[_Fault]:
    """Yields controls of the ranks that no strategy, or no loss, could serve."""
    kind, curriculum = config.masking.ranks, config.curriculum
    fault, fields = f"masking.ranks={kind}", ("masking.ranks",)
    if kind != "pmi" and curriculum.name == "fixed" and curriculum.strategy.startswith("random"):
        yield _Fault(
            f"{fault} has no effect: {curriculum.strategy} does not look at ranks; leave it out, "
            "or choose another curriculum.strategy",
            (*fields, "curriculum.name", "curriculum.strategy"),
            {"masking.ranks": "pmi"},
        )
    if kind == "learned" and config.masking.objective == "base":
        yield _Fault(
            f"{fault}, masking.objective=base: k-mers are ranked by the loss of tokens, which "
            "this objective has not; expected masking.objective=token",
            (*fields, "masking.objective"),
            {"masking.ranks": "pmi"},
        )
    if kind == "learned" and not config.eval_every:
        yield _Fault(
            f"{fault}, eval_every=0: ranks are made anew at evaluations; set eval_every",
            (*fields, "eval_every"),
            {"eval_every": max(1, config.num_steps // _EVALS)},
        )


_BUDGET_FIELDS = {"hard_budget": "by_stage", "budget_step": "adaptive", "budget_max": "adaptive"}


def _budget(config: Config) -> Iterator[_Fault]:
    """Yields settings of the budget that would have no effect."""
    curriculum, least = config.curriculum, config.masking.budget
    schedule = f"curriculum.budget_schedule={curriculum.budget_schedule}"
    if curriculum.budget_schedule == "by_stage" and curriculum.name == "fixed":
        yield _Fault(
            f"{schedule} has no effect: curriculum.name=fixed has one stage; "
            "set masking.budget alone, or another curriculum.name",
            ("curriculum.budget_schedule", "curriculum.name"),
            {"curriculum.budget_schedule": "constant"},
        )
    if curriculum.budget_schedule == "adaptive" and not (
        curriculum.budget_max > least and curriculum.budget_step > 0
    ):
        yield _Fault(
            f"{schedule} has no effect: the budget cannot grow from masking.budget={least} by "
            f"curriculum.budget_step={curriculum.budget_step} to curriculum.budget_max="
            f"{curriculum.budget_max}; expected a step above 0 and a larger maximum",
            ("curriculum.budget_schedule", "curriculum.budget_step", "curriculum.budget_max"),
            {"curriculum.budget_schedule": "constant"},
        )
    if config.masking.objective == "base" and config.largest_budget > _MOST_HIDDEN:
        fields = ("masking.budget", "curriculum.hard_budget", "curriculum.budget_max")
        yield _Fault(
            f"masking.objective=base, a masking budget of {config.largest_budget:g}: expected at "
            f"most {_MOST_HIDDEN:g}; with more, too few bases are left to go by",
            ("masking.objective", *fields),
            {name: _MOST_HIDDEN for name in fields if flatten(config)[name] > _MOST_HIDDEN},
        )
    defaults = flatten(Config())
    for name, owner in _BUDGET_FIELDS.items():
        field, value = f"curriculum.{name}", getattr(curriculum, name)
        if value != defaults[field] and curriculum.budget_schedule != owner:
            yield _Fault(
                f"{field}={value} has no effect under {schedule}; set "
                f"curriculum.budget_schedule={owner}, or leave it at {defaults[field]}",
                (field, "curriculum.budget_schedule"),
                {field: defaults[field]},
            )


def _curriculum(config: Config) -> Iterator[_Fault]:
    """Yields why a curriculum can never switch, or raise its budget."""
    curriculum = config.curriculum
    if curriculum.name in ("cm_gems", "hard_to_easy"):
        never = f"curriculum.name={curriculum.name!r} can never switch"
        field, value = "curriculum.name", "fixed"
    elif curriculum.budget_schedule == "adaptive":
        never = "curriculum.budget_schedule='adaptive' can never raise the budget"
        field, value = "curriculum.budget_schedule", "constant"
    else:
        if curriculum.watch != "perplexity":
            yield _Fault(
                f"curriculum.watch={curriculum.watch} has no effect: curriculum.name="
                f"{curriculum.name} neither switches nor changes its budget by it; leave it out",
                ("curriculum.watch", "curriculum.name"),
                {"curriculum.watch": "perplexity"},
            )
        return
    if curriculum.watch == "nats_per_base" and curriculum.threshold > _NATS / 10:
        yield _Fault(
            f"curriculum.watch=nats_per_base, curriculum.threshold={curriculum.threshold:g}: nats "
            f"per base lie between 0 and {_NATS:.3f}, so that the first change would be below it; "
            "expected 0.1 or less",
            ("curriculum.watch", "curriculum.threshold"),
            {"curriculum.threshold": 0.002},
        )
    if not config.eval_every or 2 * config.eval_every >= config.num_steps:
        most = (config.num_steps - 1) // 2
        yield _Fault(
            f"{never}: it compares two evaluations, "
            f"and eval_every={config.eval_every} gives fewer than two before the last of "
            f"num_steps={config.num_steps}; set "
            + (f"eval_every between 1 and {most}, or " if most else "")
            + f"{field}={value}",
            ("eval_every", "num_steps", field),
            {"eval_every": max(1, config.num_steps // _EVALS)} if most else {field: value},
        )
    if curriculum.threshold <= 0:
        yield _Fault(
            f"curriculum.threshold={curriculum.threshold}: {never}; "
            f"expected more than 0 (paper: 1.0), or {field}={value}",
            ("curriculum.threshold", field),
            {field: value},
        )
