"""The pretraining loop: windows in, checkpoints and metrics out.

Reader's path: launch/pretrain -> configs/x -> here -> windows/batches -> steps ->
masking/rows -> masking/strategies -> model/heads -> model/bert.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from cmgems_jax import config as config_lib
from cmgems_jax import config_checks
from cmgems_jax.config import Config
from cmgems_jax.masking import curriculum, learned_ranks
from cmgems_jax.pretraining import (
    base_evaluation,
    checkpoints,
    curves,
    faults,
    pretrained,
    progress,
    run_inputs,
    steps,
    warm_start,
)
from cmgems_jax.pretraining.steps import TrainState
from cmgems_jax.runtime import outputs, parallel, run_lock, run_log, signals
from cmgems_jax.windows import batches, dataset, packing
from cmgems_jax.windows.files import StoredWindows
from cmgems_jax.windows.packing import Batch, Packing

EXIT_STOPPED = 75  # a signal came and the state is saved: run the same command again


@dataclasses.dataclass
class _Run:
    """What the parts of the loop share."""

    config: Config
    training: StoredWindows
    packed: Packing  # of the training windows
    log: run_log.RunLog | run_log.NoLog
    clock: run_log.Clock
    manager: ocp.CheckpointManager | None  # in process 0
    train: Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]
    evaluate: Callable[[TrainState, int], dict[str, float]]
    by_base: Callable[[dict], dict[str, float]] | None  # nats per base of replicated parameters
    marks: dict[str, dict[str, float]] | None  # of nats per base, in process 0


def pretrain(
    config: Config,
    workdir: Path | str,
    *,
    resume: str = "auto",
    fallback: bool = False,
    read_source: warm_start.Reader = pretrained.load_masked_lm,
) -> TrainState:
    """Trains to `config.num_steps` and returns the last state; resumes where it was stopped.

    Args:
      workdir: folder of config.json, inputs.json, ranks.npy, environment.json,
        metrics.jsonl, curves.png, tensorboard/, checkpoints/ and, unless `data.dir` is set, data/.
      resume: "auto", "must" or "never", see `checkpoints.check_resume`.
      fallback: use an older checkpoint where the newest is damaged.
      read_source: returns the masked-LM of `init_from.path`.

    Raises:
      InputError: a setting or an input cannot work, or `workdir` holds another run.
      TrainingError: numbers are not finite, or a checkpoint cannot be written.
      SystemExit: with `EXIT_STOPPED`, after SIGTERM or SIGINT and a checkpoint.
    """
    workdir, clock = Path(workdir), run_log.Clock(jax.device_count())
    parallel.check_devices()
    config_checks.validate(config, num_devices=jax.device_count())
    parallel.in_first(lambda: checkpoints.check_resume(workdir, resume))
    prepared = parallel.in_first(lambda: warm_start.prepare(config, workdir, read_source))
    config, source = prepared or (config, None)  # only process 0 reads and writes the origin
    with clock("data"):
        training, validation = _windows(config, workdir)
        packed = packing.pack(training.lengths, config)
    with clock("pmi"):
        ranks_V = run_inputs.ranks(config, workdir)
        parallel.in_first(lambda: run_inputs.tell_ranks(config, config.data_dir(workdir), ranks_V))
    state, train, evaluate = steps.make(config, ranks_V)
    progress.beginning(state, config, packed)
    with contextlib.ExitStack() as stack:
        take = functools.partial(_take_folder, stack, config, workdir, state, source)
        taken = parallel.in_first(lambda: take(fallback=fallback))
        manager, state, clock_before = taken or (None, state, {})
        state = parallel.of_first(state)
        if int(state.step) == config.num_steps:
            print(f"nothing to do: all {config.num_steps:,} steps in {workdir} are done")
            return state
        clock.add(clock_before)
        log = stack.enter_context(_opened_log(workdir, config, ranks_V, int(state.step)))
        evaluator = _evaluator(config, evaluate, validation, clock)
        folder = config.data_dir(workdir)
        by_base = base_evaluation.of_windows(config, folder, validation, clock)
        run = _Run(config, training, packed, log, clock, manager, train, evaluator, *by_base)
        state = _train(run, state)
        progress.summary(log, config, state, clock)
    if parallel.is_first():
        curves.write_png(workdir / "metrics.jsonl", workdir / "curves.png", config.tokens.k)
    last = workdir / checkpoints.FOLDER / str(config.num_steps)
    print(f"checkpoint: {last}\ncurves: {workdir / 'curves.png'}", flush=True)
    return state


def _take_folder(
    stack: contextlib.ExitStack,
    config: Config,
    workdir: Path,
    state: TrainState,
    source: pretrained.Pretrained | None,
    *,
    fallback: bool,
) -> tuple[ocp.CheckpointManager, TrainState, dict]:
    """Returns what process 0 alone reads and writes with, where to begin, and the clock then."""
    faults.check_disk(workdir, state, config)
    stack.enter_context(run_lock.held(workdir))
    manager = stack.enter_context(checkpoints.opened(workdir, config))
    begin = checkpoints.restore_latest(manager, state, fallback=fallback)
    if source is None:
        return manager, *begin
    params = warm_start.params(source, parallel.to_host(state.params), config)
    return manager, state.replace(params=parallel.replicate(params)), {}


def _windows(config: Config, workdir: Path) -> tuple[StoredWindows, StoredWindows]:
    """Returns the training and validation windows, prepared by process 0 where they are missing."""
    folder = config.data_dir(workdir)
    parallel.in_first(lambda: dataset.prepare(config, folder))
    if not parallel.is_first():  # finds it there, unless the folder is not shared
        dataset.prepare(config, folder)
    parallel.in_first(lambda: run_inputs.check_windows(workdir, folder))
    return dataset.open_split(folder, "train"), dataset.open_split(folder, "validation")


@contextlib.contextmanager
def _opened_log(
    workdir: Path, config: Config, ranks_V: np.ndarray, resumed_step: int
) -> Iterator[run_log.RunLog | run_log.NoLog]:
    """Records the run's inputs, config and environment and opens its log, in process 0."""
    if not parallel.is_first():
        yield run_log.NoLog()
        return
    run_inputs.write(workdir, config.data_dir(workdir), ranks_V)
    outputs.write_json(workdir / "config.json", config_lib.to_dict(config))
    environment = run_log.environment()
    if config.init_from.path:
        environment["init_from"] = config_lib.to_dict(config.init_from)
    outputs.write_json(workdir / "environment.json", environment)
    with contextlib.closing(run_log.RunLog(workdir, resumed_step)) as log:
        yield log


def _train(run: _Run, state: TrainState) -> TrainState:
    """Runs the steps that are left; saves and exits when a signal asks for it."""
    config, clock, first = run.config, run.clock, int(state.step) + 1
    window, waited_s = [], clock.input_wait_s
    if config.eval_every and first == 1:  # a signal ends it at once: there is nothing to save
        with faults.memory_explained(config):
            state = _evaluate(run, state, step=0)
    with (
        faults.memory_explained(config),
        signals.stop_requests(parallel.stops_when()) as stop,
        batches.prefetch(
            functools.partial(_read_batch, run), range(first - 1, config.num_steps)
        ) as stream,
    ):
        for step, batch in enumerate(stream, first):
            stopped_by = parallel.agree_on_signal(stop.signal, step, after=state)
            is_saved = bool(stopped_by) or _is_due(step, config.checkpoint_every, config)
            if step == first:
                waited_s -= stream.waited_s  # for the first batch: "setup", not "train"
                with clock("compile"):
                    state, metrics = jax.block_until_ready(run.train(state, batch))
                clock.start_loop(step)
            else:
                state, metrics = run.train(state, batch)
            window.append(metrics)
            clock.steps, clock.input_wait_s = clock.steps + 1, waited_s + stream.waited_s
            # A checkpoint ends a line of the log, so that a resumed run begins with a whole one.
            if is_saved or _is_due(step, config.log_every, config):
                window = jax.device_get(window)
                faults.refuse_non_finite(window, step - len(window) + 1, config, run.packed)
                progress.training(run.log, config, step, window, clock)
                window = []
            if config.eval_every and _is_due(step, config.eval_every, config):
                state = _evaluate(run, state, step)
            if jax.process_count() == 1:  # of several, all must hear of it: at the next save
                checkpoints.check_background(run.manager)
            if is_saved:
                _save(run, state, wait=bool(stopped_by) or step == config.num_steps)
            if stopped_by and step < config.num_steps:  # else the run is done, and says so
                print(
                    f"saved step {step} after {stopped_by}; the same command resumes from it",
                    flush=True,
                )
                raise SystemExit(EXIT_STOPPED)
    return state


def _read_batch(run: _Run, step: int) -> Batch:
    """Returns the batch of a step (0-based), split over this process's devices."""
    rows = batches.read_batch(
        run.training,
        run.packed,
        seed=run.config.seed,
        step=step,
        batch_size=run.config.batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    return parallel.shard(rows, run.config.accumulation_steps)


def _save(run: _Run, state: TrainState, *, wait: bool) -> None:
    """Saves a checkpoint, in process 0."""
    with run.clock("checkpoint"):
        clock = run.clock.state()
        parallel.in_first(
            lambda: checkpoints.save(run.manager, state, run.config, clock, wait=wait)
        )


def _is_due(step: int, every: int, config: Config) -> bool:
    """True every `every` steps, and after the last."""
    return step % every == 0 or step == config.num_steps


def _evaluator(
    config: Config, program: Callable, validation: StoredWindows, clock: run_log.Clock
) -> Callable[[TrainState, int], dict[str, float]]:
    """Returns (state, index of a strategy) -> metrics of the fixed validation windows, summed."""
    rows = batches.eval_batches(
        validation,
        config,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    return progress.sums_over([parallel.shard(part) for part in rows], program, clock)


def _evaluate(run: _Run, state: TrainState, step: int) -> TrainState:
    """Evaluates under the current strategy, under `random` and by base; returns the next state.

    Before the first step (0) it only reports: the curriculum compares what training changed.
    """
    config = run.config
    last = len(steps.eval_strategies(config)) - 1
    before = parallel.to_host(state.curriculum)
    is_random = curriculum.strategy_name(before, config.curriculum) == "random"
    is_random &= before.budget == np.float32(config.masking.budget)  # an adaptive one grows
    with run.clock("eval"):
        sums = run.evaluate(state, int(before.stage))
        now = progress.perplexity(sums)
        values = {
            "perplexity": now,
            "perplexity_random": now
            if is_random
            else progress.perplexity(run.evaluate(state, last)),
            **run.by_base(state.params),
        }
    progress.evaluation(run.log, config, step, before, values, run.marks)
    if step == 0:
        return state
    if not config.init_from.path:  # whose model may know that much
        faults.warn_if_readable(now, step, sums)
    watched = values[config.curriculum.watch]
    after = parallel.to_host(curriculum.update(before, watched, config.curriculum))
    progress.switch(run.log, config, step, before, after, watched=watched)
    ranks = parallel.to_host(state.ranks)
    if ranks is not None:
        ranks = parallel.replicate(learned_ranks.ranked(ranks))
    return state.replace(curriculum=parallel.replicate(after), ranks=ranks)
