"""Memory and work of the compiled train program by model, length and rows; time on accelerators.

    python -m benchmarks.scale_table

Compiles every program here, runs none, and prints what XLA's own analysis says: bytes
of the state, bytes of everything that lives during a step, floating-point operations. The
operations are set beside those of the matrix products alone, counted by hand. From them
follow, by the published numbers of accelerators, the rows that fit and, at an assumed share
of the peak, the time of a step on one device and on many: reasoned, not run.
"""

from typing import NamedTuple

import jax
import numpy as np
from absl import flags

from benchmarks import result, rows
from cmgems_jax.config import Config
from cmgems_jax.plan import plan
from cmgems_jax.pretraining import steps
from cmgems_jax.runtime import command

_ROWS = flags.DEFINE_list("rows", ["8", "32"], "Rows a step on a device.")
_TOKENS = flags.DEFINE_list("tokens", ["128", "512", "2048"], "Positions a row.")
_SHARE = flags.DEFINE_float("share", 0.4, "Share of the published peak that a step reaches.")
_STEP_ROWS = flags.DEFINE_integer("step_rows", 256, "Rows a step, for the reasoned seconds.")
_NUM_DEVICES = (1, 8, 64)
_USABLE = 0.9  # of a device's memory


class Accelerator(NamedTuple):
    """Published numbers of one chip."""

    flops: float  # a second, dense bfloat16
    memory: float  # bytes
    link: float  # bytes a second that leave a chip for others of its host or pod
    host: int = 8  # chips that share the link
    network: float = np.inf  # bytes a second that leave a chip for other hosts, one adapter each


# A pod's chips are all linked; 64 is less than a v5e pod has (256).
ACCELERATORS = {
    "H200 (SXM)": Accelerator(989e12, 141e9, 450e9, network=50e9),
    "A100 (SXM, 80 GB)": Accelerator(312e12, 80e9, 300e9, network=25e9),
    "TPU v5e": Accelerator(197e12, 16e9, 200e9, host=256),
    "TPU v5p": Accelerator(459e12, 95e9, 600e9, host=8_960),
}


class Found(NamedTuple):
    """What XLA says of the train program of one size, on one device."""

    parameters: int
    state_bytes: int
    step_bytes: int  # of everything that lives during a step but the state
    flops: float
    flops_by_hand: float


def main() -> None:
    """Prints both tables."""
    sizes: dict[tuple[str, int], dict[int, Found]] = {}
    heads = ("model", "positions", "rows", "parameters", "state MB", "step MB", "GFLOP", "by hand")
    print("".join(f"{head:>12}" for head in heads))
    for model, get_config in rows.PRESETS.items():
        for tokens in command.integers("tokens", _TOKENS.value):
            for number in command.integers("rows", _ROWS.value):
                config = get_config()
                config.data.num_tokens, config.model.dtype = tokens, "float32"
                # The CPU's own form hides its work in loops from the analysis.
                config.model.attention = "plain"
                config.model.num_positions = max(tokens, config.model.num_positions)
                config.batch_size, config.accumulation_steps = number, 1
                found = analyse(config)
                sizes.setdefault((model, tokens), {})[number] = found
                cells = (
                    model, f"{tokens}", f"{number}", f"{found.parameters:,}",
                    f"{found.state_bytes / 1e6:,.0f}", f"{found.step_bytes / 1e6:,.0f}",
                    f"{found.flops / 1e9:,.0f}", f"{found.flops_by_hand / 1e9:,.0f}",
                )  # fmt: skip
                print("".join(f"{cell:>12}" for cell in cells), flush=True)
    notes = {
        f"{model}, {tokens} positions": {str(n): found._asdict() for n, found in by_rows.items()}
        for (model, tokens), by_rows in sizes.items()
    }
    notes |= {"step rows": _STEP_ROWS.value, "share of the peak": _SHARE.value}
    result.report("scale_table", {}, unit="", notes=notes | {"reasoned": reasoned(sizes)})


def analyse(config: Config) -> Found:
    """Returns what XLA says of the compiled train program on one device."""
    ranks_V = np.arange(1, 4**config.tokens.k + 1, dtype=np.int32)
    state, train, _ = steps.make(config, ranks_V)
    compiled = train.lower(state, rows.full_batch(config)).compile()
    memory = compiled.memory_analysis()
    return Found(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        state_bytes=sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
        step_bytes=memory.temp_size_in_bytes,
        flops=compiled.cost_analysis()["flops"],
        flops_by_hand=plan.flops_by_hand(config),
    )


def reasoned(
    sizes: dict[tuple[str, int], dict[int, Found]],
) -> dict[str, dict[str, float]]:
    """Prints and returns, by accelerator and size, rows that fit and milliseconds of a step."""
    answers: dict[str, dict[str, float]] = {}
    step_rows, share = _STEP_ROWS.value, _SHARE.value
    print(
        f"\nreasoned: rows that fit, and ms a step of {step_rows} rows at {share:.0%} of the peak"
    )
    columns = [f"{number} device{'s' * (number > 1)}" for number in _NUM_DEVICES]
    heads = "".join(f"{column:>12}" for column in ("model", "positions", "rows", *columns))
    print(f"{'':<20}{heads}")
    for name, chip in ACCELERATORS.items():
        for (model, tokens), by_rows in sizes.items():
            most_rows = max(by_rows)
            row_flops = by_rows[most_rows].flops / most_rows
            fitting = rows_that_fit(chip.memory, by_rows)
            cells = {}
            for number in _NUM_DEVICES:
                compute_s = step_rows * row_flops / number / (share * chip.flops)
                sent_s = all_reduce_s(4 * by_rows[most_rows].parameters, chip, number)
                cells[str(number)] = 1e3 * (compute_s + sent_s)
            answers[f"{name}, {model}, {tokens}"] = {"rows that fit": fitting} | cells
            text = "".join(f"{value:>12,.2f}" for value in cells.values())
            print(f"{name:<20}{model:>12}{tokens:>12}{fitting:>12,}{text}")
    return answers


def rows_that_fit(memory: float, by_rows: dict[int, Found]) -> int:
    """Returns the rows at a time that a device has room for, on the line through two analyses."""
    fewest, most = min(by_rows), max(by_rows)
    small, big = by_rows[fewest], by_rows[most]
    bytes_per_row = (big.step_bytes - small.step_bytes) / (most - fewest)
    fixed = small.state_bytes + small.step_bytes - fewest * bytes_per_row
    return max(0, int((_USABLE * memory - fixed) / bytes_per_row))


def all_reduce_s(num_bytes: int, chip: Accelerator, number: int) -> float:
    """Returns the seconds of one all-reduce: a ring within a host, then one across hosts.

    A ring sends nearly all of the bytes twice; across hosts each chip sends its share of them.
    """
    inside = min(number, chip.host)
    outside = number // inside
    inside_s = 2 * (inside - 1) / inside * num_bytes / chip.link
    return inside_s + 2 * (outside - 1) / outside * num_bytes / inside / chip.network


if __name__ == "__main__":
    command.run(main)
