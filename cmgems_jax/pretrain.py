"""The pretraining loop: windows in, checkpoints and metrics out.

Reader's path: launch/pretrain -> configs/x -> here -> data/batches -> steps ->
masking -> bert.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from cmgems_jax import (
    checkpoints,
    curriculum,
    curves,
    optimizer,
    parallel,
    pmi_table,
    run_log,
    signals,
    steps,
)
from cmgems_jax import config as config_lib
from cmgems_jax.config import Config
from cmgems_jax.data import batches, windows
from cmgems_jax.steps import Batch, TrainState

EXIT_STOPPED = 75  # a signal came and the state is saved: run the same command again


@dataclasses.dataclass
class _Run:
    """What the parts of the loop share."""

    config: Config
    log: run_log.RunLog
    clock: run_log.Clock
    manager: ocp.CheckpointManager
    train: Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]
    perplexity: Callable[[TrainState, int], float]


def pretrain(config: Config, workdir: Path) -> TrainState:
    """Trains to `config.num_steps` and returns the last state; goes on where it was stopped.

    Args:
      config: the run's settings.
      workdir: folder of config.json, environment.json, metrics.jsonl, curves.png,
        tensorboard/, checkpoints/ and, unless `data.dir` is set, data/.

    Raises:
      InputError: a setting or an input cannot work, or `workdir` holds another run.
      SystemExit: with `EXIT_STOPPED`, after SIGTERM or SIGINT and a checkpoint.
    """
    config_lib.validate(config)
    parallel.check_batch_size(config.batch_size, config.accumulation_steps)
    checkpoints.refuse_other_run(workdir, config)
    clock = run_log.Clock()
    with clock("data"):
        folder = windows.prepare(config, Path(config.data.dir or workdir / "data"))
        training, validation = windows.open(folder, "train"), windows.open(folder, "validation")
        ranks_V = pmi_table.ranks_for(config, windows.input_paths(config, folder))
    state, train, evaluate = steps.make(config, ranks_V)
    _print_model(state, config)
    with contextlib.closing(checkpoints.manager(workdir, config)) as manager:
        state = checkpoints.restore_latest(manager, state)
        if int(state.step) == config.num_steps:
            print(f"nothing to do: all {config.num_steps:,} steps in {workdir} are done")
            return state
        run_log.write_json(workdir / "config.json", config_lib.to_dict(config))
        run_log.write_json(workdir / "environment.json", run_log.environment())
        with contextlib.closing(run_log.RunLog(workdir, int(state.step))) as log:
            perplexity = _evaluator(config, evaluate, validation)
            run = _Run(config, log, clock, manager, train, perplexity)
            state = _train(run, state, training)
            _summarise(run, state)
    curves.draw(workdir / "metrics.jsonl", workdir / "curves.png")
    last = workdir / checkpoints.FOLDER / str(config.num_steps)
    print(f"checkpoint: {last}\ncurves: {workdir / 'curves.png'}", flush=True)
    return state


def _print_model(state: TrainState, config: Config) -> None:
    """Says what is trained, and on what."""
    num_params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    easy, hard = curriculum.strategies(config.curriculum)
    print(
        f"model: {config.model.num_layers} layers x {config.model.hidden_size}, "
        f"{num_params:,} parameters, on {jax.device_count()} x {jax.devices()[0].device_kind}\n"
        f"curriculum: {config.curriculum.name}, {easy}" + (f" then {hard}" if hard != easy else ""),
        flush=True,
    )


def _train(run: _Run, state: TrainState, training: windows.Windows) -> TrainState:
    """Runs the steps that are left; saves and exits when a signal asks for it."""
    config, first = run.config, int(state.step)

    def make_batch(step: int) -> Batch:
        """The batch of a step (0-based), split over this process's devices."""
        rows = batches.read_batch(
            training,
            seed=config.seed,
            step=step,
            batch_size=config.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        return _shard(rows, jax.process_index() * len(rows), config.accumulation_steps)

    pending: list[dict[str, jax.Array]] = []
    with (
        signals.stop_requests() as stop,
        batches.prefetch(make_batch, range(first, config.num_steps)) as stream,
    ):
        logged_s = 0.0
        for step, batch in enumerate(stream, first + 1):
            with run.clock("compile" if step == first + 1 else "train"):
                state, metrics = run.train(state, batch)
                pending.append(metrics)
                if step == first + 1:
                    jax.block_until_ready(metrics)
                    run.clock.start_loop(step)
                is_logged = _is_due(step, config.log_every, config)
                sums = _add(jax.device_get(pending)) if is_logged else {}
            if is_logged:
                train_s = run.clock.seconds.get("train", 0.0)
                _log_training(run, state, step, sums, len(pending), train_s - logged_s)
                pending, logged_s = [], train_s
            if config.eval_every and _is_due(step, config.eval_every, config):
                state = _evaluate(run, state, step)
            if _is_due(step, config.checkpoint_every, config) or stop.signal:
                with run.clock("checkpoint"):
                    wait = step == config.num_steps or bool(stop.signal)
                    checkpoints.save(run.manager, state, config, wait=wait)
            if stop.signal:
                print(f"saved step {step} after {stop.signal}", flush=True)
                raise SystemExit(EXIT_STOPPED)
        run.clock.seconds["input_wait"] = stream.waited_s
    return state


def _is_due(step: int, every: int, config: Config) -> bool:
    """True every `every` steps, and after the last."""
    return step % every == 0 or step == config.num_steps


def _shard(rows: np.ndarray, first_index: int, accumulation_steps: int) -> Batch:
    """Returns this process's rows, with their places in the global batch, by device."""
    index = np.arange(first_index, first_index + len(rows), dtype=np.int32)
    return Batch(*(parallel.shard(x, accumulation_steps) for x in (rows, index)))


def _add(metrics: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Returns the sum of each metric over steps, in double precision."""
    return {name: float(sum(float(one[name]) for one in metrics)) for name in metrics[0]}


def _ratio(numerator: float, denominator: float) -> float:
    """Returns the quotient, NaN over 0."""
    return numerator / denominator if denominator else math.nan


def _log_training(
    run: _Run,
    state: TrainState,
    step: int,
    sums: dict[str, float],
    num_steps: int,
    seconds: float,
) -> None:
    """Writes and prints the metrics of the steps since the last line."""
    config = run.config
    easy, hard = curriculum.strategies(config.curriculum)
    hard_share = sums["hard"] / num_steps
    stage = easy if hard_share == 0 else hard if hard_share == 1 else f"{easy}+{hard}"
    values: dict[str, Any] = {
        "loss": _ratio(sums["loss_sum"], sums["predicted"]),
        "learning_rate": float(optimizer.schedule(config.optimizer, config.num_steps)(step - 1)),
        "grad_norm": sums["grad_norm"] / num_steps,
        "stage": stage,
        "hard_share": hard_share,
        "mask_budget": sums["budget"] / num_steps,
        "masked_fraction": _ratio(sums["predicted"], sums["eligible"]),
        "nats_per_hidden_base": _ratio(sums["loss_sum"], sums["hidden_covered"]),
        "accuracy": _ratio(sums["right"], sums["predicted"]),
        "bases_per_second": _ratio(sums["bases"], seconds),
        "dropped_positions": int(sums["dropped_positions"]),
    }
    run.log.write("train", step, **values)
    line = run_log.progress_line(step, config.num_steps, values, run.clock.pace(step))
    print(line, flush=True)


def _evaluator(
    config: Config, program: Callable, validation: windows.Windows
) -> Callable[[TrainState, int], float]:
    """Returns (state, index of a strategy) -> perplexity on the fixed validation windows."""
    batch_size = config.batch_size // config.accumulation_steps
    rows = list(
        batches.eval_batches(
            validation,
            num_windows=config.eval_windows,
            batch_size=batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
    )
    share = batch_size // jax.process_count()
    first = jax.process_index() * share
    fixed = [_shard(part, number * batch_size + first, 1) for number, part in enumerate(rows)]

    def perplexity(state: TrainState, which: int) -> float:
        sums = _add(jax.device_get([program(state, batch, np.int32(which)) for batch in fixed]))
        return float(np.exp(_ratio(sums["loss_sum"], sums["predicted"])))

    return perplexity


def _evaluate(run: _Run, state: TrainState, step: int) -> TrainState:
    """Evaluates under the current strategy and under `random`; returns the state after it."""
    config = run.config
    names = steps.eval_strategies(config)
    before = parallel.to_host(state.curriculum)
    strategy = curriculum.strategy_name(before, config.curriculum)
    with run.clock("eval"):
        now = run.perplexity(state, int(before.stage))
        under_random = now if strategy == "random" else run.perplexity(state, len(names) - 1)
    after = parallel.to_host(curriculum.update(before, now, config.curriculum))
    drop = float(before.last_perplexity) - now
    run.log.write(
        "eval",
        step,
        perplexity=now,
        perplexity_random=under_random,
        perplexity_drop=drop,
        stage=strategy,
        mask_budget=float(before.budget),
    )
    print(
        f"eval {step:>7,}/{config.num_steps:,}  perplexity {now:,.2f} under {strategy}, "
        f"{under_random:,.2f} under random"
        + (f", change {-drop:+,.2f}" if math.isfinite(drop) else ""),
        flush=True,
    )
    if not math.isfinite(now):
        print(f"warning: step {step}: perplexity {now} is ignored by the curriculum", flush=True)
    _log_switch(run, before, after, now, step)
    return state.replace(curriculum=parallel.replicate(after))


def _log_switch(
    run: _Run,
    before: curriculum.CurriculumState,
    after: curriculum.CurriculumState,
    perplexity: float,
    step: int,
) -> None:
    """Writes and prints a change of strategy or budget, and why."""
    if before.stage == after.stage and before.budget == after.budget:
        return
    settings = run.config.curriculum
    difference = float(curriculum.change(before.last_perplexity, perplexity, settings))
    smallest = min(float(before.smallest_change), difference)
    why = (
        f"smallest {settings.threshold_kind} change of perplexity {smallest:.4g} "
        f"< threshold {settings.threshold:g}"
    )
    old, new = (
        {
            "strategy": curriculum.strategy_name(s, settings),
            "budget": round(float(s.budget), 6),
        }
        for s in (before, after)
    )
    kind = "switch" if old["strategy"] != new["strategy"] else "budget"
    name = "strategy" if kind == "switch" else "budget"
    run.log.write(kind, step, **{"from": old[name], "to": new[name]}, why=why, **new)
    print(f"{kind} at step {step:,}: {old[name]} -> {new[name]} ({why})", flush=True)


def _summarise(run: _Run, state: TrainState) -> None:
    """Writes and prints the steps in each stage and the seconds by part."""
    config = run.config
    easy, hard = curriculum.strategies(config.curriculum)
    hard_steps = int(state.curriculum.hard_steps)
    if easy == hard:
        stages = {easy: config.num_steps}
    else:
        stages = {easy: config.num_steps - hard_steps, hard: hard_steps}
    seconds = {part: round(value, 2) for part, value in run.clock.seconds.items()}
    note = ""
    if easy != hard and not hard_steps and state.curriculum.stage == curriculum.EASY:
        closest = float(state.curriculum.smallest_change)
        note = (
            f"the curriculum did not switch: the smallest {config.curriculum.threshold_kind} "
            f"change of perplexity was {closest:.4g}, curriculum.threshold="
            f"{config.curriculum.threshold:g}"
        )
    run.log.write(
        "summary",
        config.num_steps,
        steps_by_stage=stages,
        seconds_by_part=seconds,
        total_seconds=round(run.clock.total(), 2),
        **({"note": note} if note else {}),
    )
    print("steps by stage: " + ", ".join(f"{name} {count:,}" for name, count in stages.items()))
    print("seconds: " + ", ".join(f"{part} {value:,.1f}" for part, value in seconds.items()))
    if note:
        print(f"warning: {note}", flush=True)
