"""What the loop reports: the model, training, evaluations, switches, the summary."""

import math
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import jax
import numpy as np

from cmgems_jax import terminal
from cmgems_jax.config import Config
from cmgems_jax.masking import curriculum
from cmgems_jax.masking.curriculum import CurriculumState
from cmgems_jax.model import hardware
from cmgems_jax.pretraining import optimizer
from cmgems_jax.pretraining.steps import TrainState
from cmgems_jax.runtime import parallel
from cmgems_jax.runtime.run_log import Clock, RunLog
from cmgems_jax.windows.packing import Packing


def add(metrics: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Returns the sum of each metric over steps or batches, in double precision."""
    return {name: sum(float(one[name]) for one in metrics) for name in metrics[0]}


def sums_over(
    batches: Sequence, program: Callable, clock: Clock
) -> Callable[[Any, int], dict[str, float]]:
    """Returns (state or parameters, which) -> the sums of a `parallel.eval_program` over batches.

    Its compilation is timed apart, so that the seconds of an evaluation are those of every one.
    """
    uncompiled = [*batches[:1]]

    def sums(state: Any, which: int) -> dict[str, float]:
        while uncompiled:
            with clock("compile"):
                jax.block_until_ready(program(state, uncompiled.pop(), np.int32(which)))
        pending = [program(state, batch, np.int32(which)) for batch in batches]
        is_quiet = not parallel.is_first()
        shown = terminal.bar(pending, desc="evaluating", unit="batches", disable=is_quiet)
        return add([jax.device_get(one) for one in shown])

    return sums


def ratio(numerator: float, denominator: float) -> float:
    """Returns the quotient, NaN over 0."""
    return numerator / denominator if denominator else math.nan


def perplexity(sums: dict[str, float]) -> float:
    """Returns exp of the mean loss of the masked tokens."""
    return float(np.exp(ratio(sums["loss_sum"], sums["predicted"])))


def _words(name: str) -> str:
    """Returns a metric's name in words."""
    return name.replace("_", " ")


def beginning(state: TrainState, config: Config, packed: Packing) -> None:
    """Prints what is trained, on what, and how the training windows share rows."""
    num_params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    easy, hard = curriculum.strategies(config.curriculum)
    model = hardware.resolve(config.model)
    print(
        f"model: {model.num_layers} layers x {model.hidden_size}, {num_params:,} parameters, "
        f"on {jax.device_count()} x {jax.devices()[0].device_kind} in {model.dtype}"
        + (f", products of {model.matmul}" if model.matmul != model.dtype == "float32" else "")
        + f"\ncurriculum: {config.curriculum.name}, {easy}"
        + (f" then {hard}" if hard != easy else "")
        + f"; strand: {'either, drawn' if config.data.reverse_complement else 'forward'}\n"
        f"packing: {len(packed.class_W):,} training windows in {len(packed.slot_RM):,} rows, "
        f"{packed.padding:.1%} padding",
        flush=True,
    )


def training(
    log: RunLog,
    config: Config,
    step: int,
    window: list[dict[str, np.ndarray]],
    clock: Clock,
) -> None:
    """Writes and prints what `steps.train_step` has measured since the last line, up to `step`.

    Bases per second are real ones, by the wall time less evaluation and saving.
    """
    num_steps, sums = len(window), add(window)
    lap_s, pace_s = clock.lap(), clock.pace(step)
    timed = window[1:] if step - num_steps + 1 == clock.first_step else window  # that one compiled
    bases_per_second = ratio(sum(float(one["bases"]) for one in timed), lap_s if timed else 0.0)
    easy, hard = curriculum.strategies(config.curriculum)
    hard_share = sums["hard"] / num_steps
    loss = ratio(sums["loss_sum"], sums["terms"])
    values: dict[str, Any] = {
        "loss": loss,
        "learning_rate": float(optimizer.schedule(config.optimizer, config.num_steps)(step - 1)),
        "grad_norm": sums["grad_norm"] / num_steps,
        "stage": easy if hard_share == 0 else hard if hard_share == 1 else f"{easy}+{hard}",
        "hard_share": hard_share,
        "mask_budget": sums["budget"] / num_steps,
        "masked_fraction": ratio(sums["predicted"], sums["eligible"]),
        "nats_per_hidden_base": loss
        if config.masking.objective == "base"
        else ratio(sums["loss_sum"], sums["hidden_covered"]),
        "accuracy": ratio(sums["right"], sums["terms"]),
        "padding": sums["padding"] / (num_steps * config.batch_size * config.data.num_tokens),
        "bases_per_second": bases_per_second,
        "dropped_positions": int(sums["dropped_positions"]),
        "windows_without_mask": ratio(sums["unmasked_windows"], sums["windows"]),
    }
    log.write("train", step, **values)
    rate = f"{bases_per_second / 1e3:,.1f} kbases/s  " if math.isfinite(bases_per_second) else ""
    print(
        f"step {step:>7,}/{config.num_steps:,}  loss {loss:.3f}  "
        f"ppl {math.exp(min(loss, 50)):,.1f}  {values['stage']}  "
        f"masked {values['masked_fraction']:.1%}, "
        f"none in {values['windows_without_mask']:.1%} of windows  "
        f"nats/hidden base {values['nats_per_hidden_base']:.3f}  {rate}{pace_s:.3f} s/step  "
        f"ETA {timedelta(seconds=round(pace_s * (config.num_steps - step)))}",
        flush=True,
    )


def evaluation(
    log: RunLog,
    config: Config,
    step: int,
    before: CurriculumState,
    values: dict[str, float],
    marks: dict[str, dict[str, float]] | None,
) -> None:
    """Writes and prints an evaluation under the strategy of `before`, the curriculum's state.

    `values`: perplexity, perplexity_random and, by base, `base_evaluation.NAMES`, as in `marks`.
    """
    strategy = curriculum.strategy_name(before, config.curriculum)
    watch, perplexity = config.curriculum.watch, values["perplexity"]
    under_random = values["perplexity_random"]
    drop = float(before.last_perplexity) - values[watch]
    log.write(
        "eval",
        step,
        **values,
        **{f"{watch}_drop": drop},
        stage=strategy,
        mask_budget=float(before.budget),
        marks=marks,
    )
    line = f"eval {step:>7,}/{config.num_steps:,}  perplexity {perplexity:,.2f} under {strategy}"
    if strategy != "random":
        line += f", {under_random:,.2f} under random"
    elif under_random != perplexity:
        line += f", {under_random:,.2f} at masking.budget={config.masking.budget:g}"
    if math.isfinite(drop) and watch == "perplexity":
        line += f", change {-drop:+,.2f}"
    line += f"  nats/base {values['nats_per_base']:.4f}"
    if math.isfinite(drop) and watch != "perplexity":
        line += f" (change {-drop:+.4f})"
    line += f", {config.tokens.k} hidden {values['nats_per_base_k']:.4f}"
    if marks:
        line += ", flank table " + ", ".join(f"{one['flanks']:.4f}" for one in marks.values())
    print(line, flush=True)
    if not math.isfinite(values[watch]):
        print(f"warning: step {step}: {watch} {values[watch]} is ignored by the curriculum")


def switch(
    log: RunLog,
    config: Config,
    step: int,
    before: CurriculumState,
    after: CurriculumState,
    *,
    watched: float,
) -> None:
    """Writes and prints a change of strategy or budget, and why; nothing where there is none."""
    if before.stage == after.stage and before.budget == after.budget:
        return
    settings = config.curriculum
    difference = float(curriculum.change(before.last_perplexity, watched, settings))
    smallest = min(float(before.smallest_change), difference)
    why = (
        f"smallest {settings.threshold_kind} change of {_words(settings.watch)} {smallest:.4g} "
        f"< threshold {settings.threshold:g}"
    )
    old, new = (
        (curriculum.strategy_name(state, settings), round(float(state.budget), 6))
        for state in (before, after)
    )
    kind, index = ("switch", 0) if old[0] != new[0] else ("budget", 1)
    log.write(kind, step, **{"from": old[index], "to": new[index]}, why=why, mask_budget=new[1])
    print(f"{kind} at step {step:,}: {old[index]} -> {new[index]} ({why})", flush=True)


def summary(log: RunLog, config: Config, state: TrainState, clock: Clock) -> None:
    """Writes and prints the steps in each stage and the seconds by part."""
    easy, hard = curriculum.strategies(config.curriculum)
    hard_steps = int(state.curriculum.hard_steps)
    stages = {easy: config.num_steps}
    if easy != hard:
        stages = {easy: config.num_steps - hard_steps, hard: hard_steps}
    times = clock.state()
    total_s = sum(times["seconds_by_part"].values())
    seconds = {part: round(value, 2) for part, value in times["seconds_by_part"].items()}
    note = {}
    if easy != hard and not hard_steps and state.curriculum.stage == curriculum.EASY:
        note["note"] = (
            f"the curriculum did not switch: the smallest {config.curriculum.threshold_kind} "
            f"change of {_words(config.curriculum.watch)} was "
            f"{float(state.curriculum.smallest_change):.4g}, "
            f"curriculum.threshold={config.curriculum.threshold:g}"
        )
    log.write(
        "summary",
        config.num_steps,
        steps_by_stage=stages,
        seconds_by_part=seconds,
        total_seconds=round(total_s, 2),
        input_wait_seconds=round(times["input_wait_seconds"], 2),
        device_hours=times["device_seconds"] / 3600,
        timed_steps=times["timed_steps"],
        starts=times["starts"],
        **note,
    )
    print("steps by stage: " + ", ".join(f"{name} {count:,}" for name, count in stages.items()))
    print(
        f"seconds: {total_s:,.1f} = "
        + " + ".join(f"{part} {value:,.1f}" for part, value in seconds.items())
        + f"; train waited {times['input_wait_seconds']:,.1f} for input; "
        f"device hours: {times['device_seconds'] / 3600:,.3f}"
    )
    for text in note.values():
        print(f"warning: {text}", flush=True)
