"""Memory and work of the compiled train program by model, length and rows; time on accelerators.

    python -m benchmarks.scale_table

Compiles every program here, runs none, and prints what XLA's own analysis says: bytes
of the state, bytes of everything that lives during a step, floating-point operations. The
operations are set beside those of the matrix products alone, counted by hand. From them
follow, by the published peaks of accelerators and an assumed share of them, the seconds of
a step on one device and on many: reasoned, not run.
"""

from typing import NamedTuple

import jax
import numpy as np
from absl import flags

from benchmarks import result, rows
from cmgems_jax import attention, command, steps
from cmgems_jax.config import Config
from configs import dnabert6, logo6

_ROWS = flags.DEFINE_list("rows", ["8", "32"], "Rows a step on a device.")
_TOKENS = flags.DEFINE_list("tokens", ["128", "512"], "Positions a row.")
_SHARE = flags.DEFINE_float("share", 0.4, "Share of the published peak that a step reaches.")
_STEP_ROWS = flags.DEFINE_integer("step_rows", 256, "Rows a step, for the reasoned seconds.")
_CONFIGS = {"LOGO": logo6.get_config, "DNABERT-6": dnabert6.get_config}
_NUM_DEVICES = (1, 8, 64)


class Accelerator(NamedTuple):
    """Published numbers of one chip."""

    flops: float  # a second, dense bfloat16
    memory: float  # bytes
    link: float  # bytes a second out of one chip to its neighbours, one direction


ACCELERATORS = {
    "H200 (SXM)": Accelerator(989e12, 141e9, 450e9),
    "A100 (SXM, 80 GB)": Accelerator(312e12, 80e9, 300e9),
    "TPU v5e": Accelerator(197e12, 16e9, 100e9),
    "TPU v5p": Accelerator(459e12, 95e9, 300e9),
}


def main() -> None:
    """Prints both tables."""
    attention.attend = unfused  # the CPU's own form hides its work in loops from the analysis
    work, notes = {}, {}
    heads = ("model", "positions", "rows", "parameters", "state MB", "step MB", "GFLOP", "by hand")
    print("".join(f"{head:>12}" for head in heads))
    for model, get_config in _CONFIGS.items():
        for tokens in command.integers("tokens", _TOKENS.value):
            for number in command.integers("rows", _ROWS.value):
                config = get_config()
                config.data.num_tokens, config.model.dtype = tokens, "float32"
                config.batch_size, config.accumulation_steps = number, 1
                found = analyse(config)
                notes[f"{model}, {tokens} positions, {number} rows"] = found
                work[model, tokens] = (found["flops"] / number, found["parameters"])
                cells = (
                    model, f"{tokens}", f"{number}", f"{found['parameters']:,}",
                    f"{found['state_bytes'] / 1e6:,.0f}", f"{found['step_bytes'] / 1e6:,.0f}",
                    f"{found['flops'] / 1e9:,.0f}", f"{found['flops_by_hand'] / 1e9:,.0f}",
                )  # fmt: skip
                print("".join(f"{cell:>12}" for cell in cells), flush=True)
    notes["reasoned"] = reasoned(work)
    result.report("scale_table", {}, unit="", notes=notes)


def analyse(config: Config) -> dict[str, float]:
    """Returns what XLA says of the compiled train program on one device."""
    ranks_V = np.arange(1, 4**config.tokens.k + 1, dtype=np.int32)
    state, train, _ = steps.make(config, ranks_V)
    compiled = train.lower(state, rows.full_batch(config)).compile()
    memory = compiled.memory_analysis()
    num_params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return {
        "parameters": num_params,
        "state_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
        "step_bytes": memory.temp_size_in_bytes,
        "flops": compiled.cost_analysis()["flops"],
        "flops_by_hand": flops_by_hand(config),
    }


def flops_by_hand(config: Config) -> float:
    """Returns the operations of a step's matrix products: two a weight and token, times three.

    The last layer's feed-forward and the head run at the predicted positions alone where
    the model gathers them; counted here as if they ran everywhere but in the head.
    """
    model, tokens = config.model, config.data.num_tokens
    width = model.hidden_size
    layer = 2 * tokens * (4 * width**2 + 2 * width * model.feedforward_size)
    scores = 2 * 2 * tokens**2 * width
    predicted = steps.max_predictions(config, config.batch_size)
    head = 2 * predicted * (width**2 + width * (4**config.tokens.k + 5))
    return 3.0 * (config.batch_size * model.num_layers * (layer + scores) + head)


def unfused(
    q_BQHK: jax.Array, k_BLHK: jax.Array, v_BLHK: jax.Array, segment_BL: jax.Array
) -> jax.Array:
    """`attention.attend` with all scores in memory: the most that any device needs."""
    is_own_BQL = segment_BL[:, : q_BQHK.shape[1], None] == segment_BL[:, None, :]
    return jax.nn.dot_product_attention(q_BQHK, k_BLHK, v_BLHK, mask=is_own_BQL[:, None])


def reasoned(work: dict[tuple[str, int], tuple[float, int]]) -> dict[str, dict[str, float]]:
    """Prints and returns milliseconds of a step by accelerator, model and number of devices."""
    found: dict[str, dict[str, float]] = {}
    share, step_rows = _SHARE.value, _STEP_ROWS.value
    print(f"\nreasoned: ms a step of {step_rows} rows at {share:.0%} of the published peak")
    columns = [f"{number} device{'s' * (number > 1)}" for number in _NUM_DEVICES]
    print(f"{'':<20}{'model':<12}{'positions':>10}" + "".join(f"{c:>14}" for c in columns))
    for name, chip in ACCELERATORS.items():
        for (model, tokens), (row_flops, num_params) in work.items():
            cells = {}
            for number in _NUM_DEVICES:
                compute_s = step_rows * row_flops / number / (share * chip.flops)
                # A ring sends every gradient (float32) nearly twice.
                sent_s = 2 * (number - 1) / number * 4 * num_params / chip.link
                cells[str(number)] = 1e3 * (compute_s + sent_s)
            found[f"{name}, {model}, {tokens}"] = cells
            text = "".join(f"{value:>14,.2f}" for value in cells.values())
            print(f"{name:<20}{model:<12}{tokens:>10}{text}")
    return found


if __name__ == "__main__":
    command.run(main)
