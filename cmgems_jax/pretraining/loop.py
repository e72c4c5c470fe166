"""The pretraining loop: windows in, checkpoints and metrics out.

Reader's path: launch/pretrain -> configs/x -> here -> windows/batches -> steps ->
masking/rows -> masking/strategies -> model/bert.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from cmgems_jax import config as config_lib
from cmgems_jax import config_checks
from cmgems_jax.config import Config
from cmgems_jax.masking import curriculum
from cmgems_jax.pretraining import checkpoints, curves, faults, progress, run_inputs, steps
from cmgems_jax.pretraining.steps import TrainState
from cmgems_jax.runtime import outputs, parallel, run_lock, run_log, signals
from cmgems_jax.windows import batches, dataset, packing
from cmgems_jax.windows.packing import Batch, Packing

EXIT_STOPPED = 75  # a signal came and the state is saved: run the same command again


@dataclasses.dataclass
class _Run:
    """What the parts of the loop share."""

    config: Config
    log: run_log.RunLog | run_log.NoLog
    clock: run_log.Clock
    manager: ocp.CheckpointManager | None  # in process 0
    train: Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]
    evaluate: Callable[[TrainState, int], dict[str, float]]


def pretrain(
    config: Config, workdir: Path | str, *, resume: str = "auto", fallback: bool = False
) -> TrainState:
    """Trains to `config.num_steps` and returns the last state; goes on where it was stopped.

    Args:
      config: the run's settings.
      workdir: folder of config.json, inputs.json, ranks.npy, environment.json,
        metrics.jsonl, curves.png, tensorboard/, checkpoints/ and, unless `data.dir` is set, data/.
      resume: "auto", "must" or "never", see `checkpoints.restore_latest`.
      fallback: use an older checkpoint where the newest is damaged.

    Raises:
      InputError: a setting or an input cannot work, or `workdir` holds another run.
      TrainingError: numbers are not finite, or a checkpoint cannot be written.
      SystemExit: with `EXIT_STOPPED`, after SIGTERM or SIGINT and a checkpoint.
    """
    workdir = Path(workdir)
    parallel.check_devices()
    config_checks.validate(config, num_devices=jax.device_count())
    parallel.in_first(lambda: checkpoints.refuse_other_run(workdir, config))
    clock = run_log.Clock(jax.device_count())
    with clock("data"):
        folder = config.data_dir(workdir)
        parallel.in_first(lambda: dataset.prepare(config, folder))
        if not parallel.is_first():  # finds it there, unless the folder is not shared
            dataset.prepare(config, folder)
        parallel.in_first(lambda: run_inputs.check_windows(workdir, folder))
        training, validation = dataset.open(folder, "train"), dataset.open(folder, "validation")
        packed = packing.pack(training.lengths, config)
    with clock("pmi"):
        ranks_V = run_inputs.ranks(config, workdir)
    state, train, evaluate = steps.make(config, ranks_V)
    progress.model(state, config)
    progress.packing(packed)
    with contextlib.ExitStack() as stack:

        def take_folder() -> tuple[ocp.CheckpointManager, TrainState, checkpoints.Unlogged]:
            """Returns what process 0 alone reads and writes with, and where to begin."""
            faults.check_disk(workdir, state, config)
            stack.enter_context(run_lock.held(workdir))
            manager = stack.enter_context(checkpoints.opened(workdir, config))
            begin = checkpoints.restore_latest(manager, state, resume=resume, fallback=fallback)
            return manager, *begin

        nothing = (None, state, checkpoints.Unlogged())
        manager, state, unlogged = parallel.in_first(take_folder) or nothing
        state = parallel.of_first(state)
        if int(state.step) == config.num_steps:
            print(f"nothing to do: all {config.num_steps:,} steps in {workdir} are done")
            return state
        if unlogged.clock:
            clock.add(unlogged.clock)
        if parallel.is_first():
            run_inputs.write(workdir, folder, ranks_V)
        with contextlib.closing(_open_log(workdir, config, int(state.step))) as log:
            evaluator = _evaluator(config, evaluate, validation, clock)
            run = _Run(config, log, clock, manager, train, evaluator)
            try:
                state = _train(run, state, unlogged, training, packed)
            except jax.errors.JaxRuntimeError as error:
                raise faults.out_of_memory(error, config) or error from None
            progress.summary(log, config, state, clock)
    if parallel.is_first():
        curves.write_png(workdir / "metrics.jsonl", workdir / "curves.png", config.tokens.k)
    last = workdir / checkpoints.FOLDER / str(config.num_steps)
    print(f"checkpoint: {last}\ncurves: {workdir / 'curves.png'}", flush=True)
    return state


def _open_log(workdir: Path, config: Config, resumed_step: int) -> run_log.RunLog | run_log.NoLog:
    """Writes config.json and environment.json and opens the log; process 0 alone writes."""
    if not parallel.is_first():
        return run_log.NoLog()
    outputs.write_json(workdir / "config.json", config_lib.to_dict(config))
    outputs.write_json(workdir / "environment.json", run_log.environment())
    return run_log.RunLog(workdir, resumed_step)


def _train(
    run: _Run,
    state: TrainState,
    unlogged: checkpoints.Unlogged,
    training: dataset.Windows,
    packed: Packing,
) -> TrainState:
    """Runs the steps that are left; saves and exits when a signal asks for it."""
    config, first = run.config, int(state.step)

    def make_batch(step: int) -> Batch:
        """The batch of a step (0-based), split over this process's devices."""
        rows = batches.read_batch(
            training,
            packed,
            seed=config.seed,
            step=step,
            batch_size=config.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        return _shard(rows, config.accumulation_steps)

    window, clock = unlogged, run.clock
    since_s, waited_s = clock.seconds("train") - window.seconds, clock.input_wait_s
    with (
        signals.stop_requests(parallel.stops_when()) as stop,
        batches.prefetch(make_batch, range(first, config.num_steps)) as stream,
    ):
        for step, batch in enumerate(stream, first + 1):
            is_logged = _is_due(step, config.log_every, config)
            stopped_by = parallel.agree_on_signal(stop.signal, step, after=state)
            is_saved = _is_due(step, config.checkpoint_every, config) or bool(stopped_by)
            if step == first + 1:
                waited_s -= stream.waited_s  # for the first batch: "setup", not "train"
                with clock("compile"):
                    state, metrics = jax.block_until_ready(run.train(state, batch))
                clock.start_loop(step)
                window.untimed_bases += float(metrics["bases"])
            else:
                state, metrics = run.train(state, batch)
            window.metrics.append(metrics)
            clock.steps, clock.input_wait_s = clock.steps + 1, waited_s + stream.waited_s
            if is_logged or is_saved:  # a good checkpoint is never followed by a bad one
                window.metrics = jax.device_get(window.metrics)
                begin = step - len(window.metrics) + 1
                faults.refuse_non_finite(window.metrics, begin, config, packed)
            if is_logged:
                window.seconds = clock.seconds("train") - since_s
                _log_window(run, step, window)
                window, since_s = checkpoints.Unlogged(), since_s + window.seconds
            if config.eval_every and _is_due(step, config.eval_every, config):
                state = _evaluate(run, state, step)
            if jax.process_count() == 1:  # of several, all must hear of it: at the next save
                checkpoints.check_background(run.manager)
            if is_saved:
                window.seconds = clock.seconds("train") - since_s
                with clock("checkpoint"):
                    window.clock = clock.state()
                    wait = step == config.num_steps or bool(stopped_by)
                    save = functools.partial(checkpoints.save, run.manager, state, config, window)
                    parallel.in_first(functools.partial(save, wait=wait))
            if stopped_by:
                print(
                    f"saved step {step} after {stopped_by}; the same command resumes from it",
                    flush=True,
                )
                raise SystemExit(EXIT_STOPPED)
    return state


def _log_window(run: _Run, step: int, window: checkpoints.Unlogged) -> None:
    """Writes and prints the metrics of the steps since the last line."""
    sums = progress.add(window.metrics)
    timed_bases = sums["bases"] - window.untimed_bases
    progress.training(
        run.log,
        run.config,
        step,
        sums,
        num_steps=len(window.metrics),
        bases_per_second=progress.ratio(timed_bases, window.seconds if timed_bases else 0.0),
        pace_s=run.clock.pace(step),
    )


def _is_due(step: int, every: int, config: Config) -> bool:
    """True every `every` steps, and after the last."""
    return step % every == 0 or step == config.num_steps


def _shard(rows: Batch, accumulation_steps: int) -> Batch:
    """Returns this process's rows by device."""
    return Batch(*(parallel.shard(x, accumulation_steps) for x in rows))


def _evaluator(
    config: Config, program: Callable, validation: dataset.Windows, clock: run_log.Clock
) -> Callable[[TrainState, int], dict[str, float]]:
    """Returns (state, index of a strategy) -> metrics of the fixed validation windows, summed."""
    rows = batches.eval_batches(
        validation,
        config,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    fixed = [_shard(part, 1) for part in rows]
    uncompiled = fixed[:1]

    def sums(state: TrainState, which: int) -> dict[str, float]:
        while uncompiled:  # once, so that the seconds of an evaluation are those of every one
            with clock("compile"):
                jax.block_until_ready(program(state, uncompiled.pop(), np.int32(which)))
        parts = [program(state, batch, np.int32(which)) for batch in fixed]
        return progress.add(jax.device_get(parts))

    return sums


def _evaluate(run: _Run, state: TrainState, step: int) -> TrainState:
    """Evaluates under the current strategy and under `random`; returns the state after it."""
    config = run.config
    last = len(steps.eval_strategies(config)) - 1
    before = parallel.to_host(state.curriculum)
    is_random = curriculum.strategy_name(before, config.curriculum) == "random"
    is_random &= before.budget == np.float32(config.masking.budget)  # an adaptive one grows
    with run.clock("eval"):
        sums = run.evaluate(state, int(before.stage))
        now = progress.perplexity(sums)
        under_random = now if is_random else progress.perplexity(run.evaluate(state, last))
    after = parallel.to_host(curriculum.update(before, now, config.curriculum))
    progress.evaluation(run.log, config, step, before, perplexity=now, under_random=under_random)
    faults.warn_if_readable(
        now,
        step,
        masked_fraction=progress.ratio(sums["predicted"], sums["eligible"]),
        hidden_per_token=progress.ratio(sums["hidden_covered"], sums["predicted"]),
    )
    progress.switch(run.log, config, step, before, after, perplexity=now)
    return state.replace(curriculum=parallel.replicate(after))
