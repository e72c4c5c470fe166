"""What a run would be on machines that need not be there, by their own compilers.

The train and the evaluation program of a config are compiled for a target's devices and
not run: what memory they take, what the devices send each other, which kernels run.
Memory and collectives are facts; times are what the compiler expects, or follow from
bytes and operations, and leave out the collectives.
"""

import dataclasses
import os
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cmgems_jax import config_checks
from cmgems_jax.config import Config
from cmgems_jax.errors import InputError
from cmgems_jax.masking import rows as masked_rows
from cmgems_jax.plan import hlo
from cmgems_jax.plan import targets as plan_targets
from cmgems_jax.plan.targets import Target
from cmgems_jax.pretraining import steps
from cmgems_jax.windows.packing import Batch

_UNIT = 8  # rows of a device: the largest batch is a multiple, beyond twice as many
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass
class Plan:
    """The outcome, as it is written to --output; seconds and cycles are of one step."""

    target: str
    devices: int
    fits: bool
    largest_batch_size: int | None  # in one part; None where it was not looked for
    attention: str  # kernels, or "plain"
    compile_seconds: float  # of the train program
    seconds_per_step: float | None
    hours: float | None
    cycles: dict[str, int] | None  # by part, and in total; of TPUs
    collectives: list[dict[str, Any]]
    memory: dict[str, float]


@dataclasses.dataclass
class _Compiled:
    """A program, or that it was refused for its size."""

    seconds: float
    memory: dict[str, float]
    program: hlo.Program | None  # None = does not fit

    @property
    def used(self) -> float:
        """Bytes of a device that it takes."""
        return sum(self.memory[name] for name in self.memory if name != "device_bytes")


def make(
    config: Config, target: Target, *, searches: int = 2, say: Callable[[str], None] = print
) -> Plan:
    """Compiles a config's programs for a target, tells what they are, and returns it.

    Args:
      config: of the run.
      target: of `plan_targets.find`.
      searches: compilations, at most, to find the largest batch.
      say: takes each line.

    Raises:
      InputError: the batch cannot be shared by the devices.
    """
    config_checks.validate(config)
    config, num_devices = _shared(config, target, say), len(target.devices)
    train = _compile(config, target)
    say(f"compiled     the train program in {train.seconds:.0f} s")
    device_bytes = train.memory["device_bytes"]
    plan = Plan(
        target=target.name,
        devices=num_devices,
        fits=train.program is not None and train.used <= device_bytes,
        largest_batch_size=None,
        attention="plain",
        compile_seconds=round(train.seconds, 1),
        seconds_per_step=None,
        hours=None,
        cycles=None,
        collectives=[],
        memory=train.memory,
    )
    say(_memory_line(train, plan.fits))
    if train.program is not None:
        _read(plan, train.program, config, target, say)
    evaluation = _compile(config, target, evaluation=True)
    plan.fits &= evaluation.program is not None and evaluation.used <= device_bytes
    say(
        f"evaluation   its program in {evaluation.seconds:.0f} s; it takes "
        f"{evaluation.used / 1e9:.2f} GB"
    )
    largest = _largest_rows(config, target, train, searches, say)
    if largest is not None:
        plan.largest_batch_size = largest * num_devices
        say(_rows_line(config, num_devices, largest))
    return plan


def flops_by_hand(config: Config) -> float:
    """Returns the operations of a step's matrix products: two a weight and token, times three.

    Behind the attention of the last layer, and in the head, only the predicted positions count:
    nothing else is computed there.
    """
    model, tokens = config.model, config.data.num_tokens
    width, layers = model.hidden_size, model.num_layers
    predicted = masked_rows.max_predictions(config, config.batch_size)
    attention = 2 * tokens * 3 * width**2 + 2 * 2 * tokens**2 * width  # a row and layer
    behind = 2 * (width**2 + 2 * width * model.feedforward_size)  # a position and layer
    head = 2 * predicted * (width**2 + width * (4**config.tokens.k + 5))
    positions = (layers - 1) * config.batch_size * tokens + predicted
    return 3.0 * (config.batch_size * layers * attention + positions * behind + head)


def share_of_peak(config: Config, target: Target, seconds_per_step: float) -> float:
    """Returns the share of its chips' peak that the matrix products of a step reach."""
    return flops_by_hand(config) / len(target.devices) / seconds_per_step / target.chip.flops


def _shared(config: Config, target: Target, say: Callable[[str], None]) -> Config:
    """Returns the config with as many accumulation steps as the devices allow."""
    num_devices = len(target.devices)
    num_parts, size = config.accumulation_steps, config.batch_size
    if size % num_devices:
        raise InputError(
            f"batch_size={size}: expected a multiple of the {num_devices} devices of "
            f"--target={target.name}"
        )
    parts = next(n for n in range(num_parts, 0, -1) if size % (num_devices * n) == 0)
    device = target.devices[0]
    say(
        f"target       {target.name}: {num_devices} x {device.device_kind}; {size} rows of "
        f"{config.data.num_tokens} positions a step, {size // (num_devices * parts)} at a time "
        f"on each (accumulation_steps={parts}{'' if parts == num_parts else f', not {num_parts}'})"
    )
    return dataclasses.replace(config, accumulation_steps=parts)


def _compile(config: Config, target: Target, *, evaluation: bool = False) -> _Compiled:
    """Compiles the train or the evaluation program; nothing is made but shapes."""
    ranks_V = np.arange(1, 4**config.tokens.k + 1, dtype=np.int32)
    init, train, evaluate = steps.programs(config, ranks_V, target.devices)
    state, batch = jax.eval_shape(init), _batch(config, len(target.devices), evaluation)
    which = (jax.ShapeDtypeStruct((), np.int32),)
    # The fastest of several variants of a product is chosen on the card itself: not here.
    is_absent = target.name != plan_targets.HERE and target.chip and target.chip.description
    options = {"xla_gpu_autotune_level": 0} if is_absent else None
    begun = time.perf_counter()
    try:
        lowered = evaluate.lower(state, batch, *which) if evaluation else train.lower(state, batch)
        compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        memory = _memory(None, batch, state, target) | {"temporaries_bytes": needed(str(error))}
        return _Compiled(time.perf_counter() - begun, memory, None)
    seconds = time.perf_counter() - begun
    memory = _memory(compiled.memory_analysis(), batch, state, target)
    return _Compiled(seconds, memory, hlo.Program(compiled.as_text()))


def _batch(config: Config, num_devices: int, evaluation: bool) -> Batch:
    """Returns the shapes of a step's batch over the devices."""
    parts = config.accumulation_steps
    rows = config.batch_size // (num_devices * parts)
    lead = (num_devices, 1 if evaluation else parts, rows, config.data.windows_per_row)
    return Batch(
        jax.ShapeDtypeStruct((*lead, config.window_bases), np.uint8),
        jax.ShapeDtypeStruct(lead, np.int32),
    )


def _memory(analysis: Any, batch: Batch, state: Any, target: Target) -> dict[str, float]:
    """Returns bytes of a device by what they hold."""
    batch_bytes = sum(x.size * x.dtype.itemsize for x in batch) / len(target.devices)
    state_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    temporaries_bytes = program_bytes = 0
    if analysis is not None:
        state_bytes = analysis.argument_size_in_bytes - batch_bytes
        results = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
        temporaries_bytes = analysis.temp_size_in_bytes + max(results, 0)
        program_bytes = analysis.generated_code_size_in_bytes
    if target.chip:
        device_bytes = target.chip.memory_bytes
    else:  # a machine's memory is shared by its devices
        device_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        device_bytes /= len(target.devices)
    return {
        "state_bytes": state_bytes,
        "batch_bytes": batch_bytes,
        "temporaries_bytes": temporaries_bytes,
        "program_bytes": program_bytes,
        "device_bytes": device_bytes,
    }


def needed(error: str) -> float:
    """Returns the bytes that a compiler's message asks for; infinite where it does not say."""
    match = re.search(r"[Uu]sed ([\d.]+)([KMGT])i?B? of", error)
    return float(match.group(1)) * _UNITS[match.group(2)] if match else float("inf")


def _largest_rows(
    config: Config, target: Target, first: _Compiled, searches: int, say: Callable[[str], None]
) -> int | None:
    """Returns the most rows that a device takes at a time, as far as `searches` find it.

    Memory grows evenly with the rows; from what two programs take follows what fits.
    """
    num_devices = len(target.devices)
    rows = config.batch_size // (num_devices * config.accumulation_steps)
    device_bytes = first.memory["device_bytes"]
    largest = rows if first.used <= device_bytes and first.program is not None else 0
    fixed = first.memory["state_bytes"] * 4 / 3 + first.memory["program_bytes"]  # and gradients
    known = [(0, min(fixed, first.used / 2)), (rows, first.used)]
    for _ in range(searches):
        guess = next_rows(known, device_bytes)
        if guess < 1 or guess in [tried for tried, _ in known]:
            break
        alone = dataclasses.replace(config, batch_size=guess * num_devices, accumulation_steps=1)
        trial = _compile(alone, target)
        is_well = trial.program is not None and trial.used <= device_bytes
        say(
            f"             {guess} rows a device: {'fit' if is_well else 'do not fit'} "
            f"({trial.seconds:.0f} s)"
        )
        known.append((guess, trial.used))
        if is_well:
            largest = max(largest, guess)
    return largest if searches else None


def next_rows(known: list[tuple[int, float]], device_bytes: float) -> int:
    """Returns the rows that should just fit: on the line through the last two (rows, bytes).

    Half of the last ones where a compiler did not say how much they take.
    """
    finite = [pair for pair in known if pair[1] != float("inf")][-2:]
    if len(finite) < 2:
        return known[-1][0] // 2
    (rows, used), (more, used_more) = sorted(finite)
    slope = max((used_more - used) / max(more - rows, 1), 1.0)
    guess = int(rows + (device_bytes - used) / slope)
    return guess if guess < 2 * _UNIT else guess - guess % _UNIT


def _memory_line(train: _Compiled, fits: bool) -> str:
    """Returns what takes how much."""
    gb = {name: f"{value / 1e9:.2f}" for name, value in train.memory.items()}
    return (
        f"memory       {'fits' if fits else 'DOES NOT FIT'}: {train.used / 1e9:.2f} of "
        f"{gb['device_bytes']} GB (state {gb['state_bytes']}, batch {gb['batch_bytes']}, "
        f"temporaries {gb['temporaries_bytes']}, program {gb['program_bytes']})"
    )


def _rows_line(config: Config, num_devices: int, largest: int) -> str:
    """Returns the largest batch, and what the configured one needs."""
    if not largest:
        return "rows         not one fits on a device"
    a_device = config.batch_size // num_devices
    parts = next(
        n for n in range(1, a_device + 1) if a_device % n == 0 and a_device // n <= largest
    )
    return (
        f"rows         {largest} a device at a time: batch_size up to {largest * num_devices} "
        f"without accumulation; {config.batch_size} with accumulation_steps={parts}"
    )


def _read(
    plan: Plan, program: hlo.Program, config: Config, target: Target, say: Callable[[str], None]
) -> None:
    """Fills in what the train program's text says."""
    plan.attention = ", ".join(program.kernels()) or "plain"
    plan.collectives = program.collectives()
    plan.cycles = program.cycles()
    sent = ", ".join(
        f"{one['count']} {one['kind']} of {one['bytes'] / 1e6:.1f} MB" for one in plan.collectives
    )
    say(f"attention    {plan.attention}\ncollectives  {sent or 'none'}")
    if target.chip is None:
        return
    if plan.cycles:
        costs: dict[str, float] = dict(plan.cycles)
        kernels_s = program.kernel_operations() / target.chip.flops
        plan.seconds_per_step = costs["total"] / target.chip.clock_hz + kernels_s
        kernels = f"{kernels_s * target.chip.clock_hz / 1e6:.1f} M for the attention's kernels"
        source = f"{costs['total'] / 1e6:.1f} M cycles of the compiler, {kernels} at the peak"
    else:
        costs = program.seconds(target.chip.flops, target.chip.bytes_per_s)
        plan.seconds_per_step = costs["total"]
        source = "bytes and operations at the card's published rates"
    plan.hours = plan.seconds_per_step * config.num_steps / 3_600
    shares = ", ".join(
        f"{name} {costs[name] / costs['total']:.0%}"
        for name in sorted(hlo.PARTS, key=lambda name: -costs[name])
        if costs[name] >= 0.005 * costs["total"]
    )
    rate = config.batch_size * config.window_bases / plan.seconds_per_step
    share = share_of_peak(config, target, plan.seconds_per_step)
    say(
        f"time         {shares}\n"
        f"estimate     {plan.seconds_per_step:.4f} s a step, {rate:,.0f} bases/s, "
        f"{plan.hours:.2f} hours of {config.num_steps:,} steps, {share:.0%} of the peak ({source})"
    )
