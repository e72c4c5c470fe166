"""The demo's model against the least perplexity that is reachable on its genome.

    python -m benchmarks.floor --workdir=runs/demo --output=runs/demo/floor.png

The synthetic genome is a 5th-order Markov chain of known law, so the exact
posterior of every masked token can be computed (chain_posterior.py). This is
done on the run's own validation windows under the very masks that its
evaluations under `random` use. Three levels stand beside the model: the floor,
an observer who sees the bases but knows only their frequencies, and one who
sees nothing and knows only the k-mers' frequencies. Writes the figure and,
beside it, the numbers as .json.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from matplotlib.figure import Figure

from benchmarks import chain_posterior
from cmgems_jax import config
from cmgems_jax.config import Config
from cmgems_jax.errors import InputError
from cmgems_jax.pmi import table as pmi_table
from cmgems_jax.pretraining import base_evaluation, steps
from cmgems_jax.runtime import command, outputs, run_log
from cmgems_jax.windows import batches, dataset, packing, synthetic_genome

CLOSE = 1.15  # the aim: within 15 % of the floor's perplexity
LEVELS = {
    "floor": "floor: the chain's law and every visible base",
    "composition": "visible bases, base frequencies",
    "unigram": "nothing visible, k-mer frequencies",
}

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a pretraining run on synthetic bases.")
_OUTPUT = flags.DEFINE_string("output", None, "The PNG to write; the numbers go beside it, .json.")
flags.mark_flags_as_required(["workdir", "output"])


class Masked(NamedTuple):
    """An evaluation batch."""

    ids: np.ndarray  # int32 (B, L)
    corrupted: np.ndarray  # int32 (B, L)
    masked: np.ndarray  # bool (B, L)


def read_config(workdir: Path) -> Config:
    """Returns the run's config; raises `InputError` unless its law is known."""
    path = workdir / "config.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected the folder of a pretraining run")
    run_config = config.from_dict(json.loads(path.read_text()), source=str(path))
    data = run_config.data
    if data.fasta or not data.synthetic_bases or data.synthetic_repeats:
        raise InputError(
            f"{path}: data.synthetic_bases={data.synthetic_bases}, data.synthetic_repeats="
            f"{data.synthetic_repeats}: only the law of a synthetic genome without repeats is known"
        )
    if (run_config.tokens.k, run_config.tokens.stride) != (synthetic_genome.ORDER + 1, 1):
        raise InputError(
            f"{path}: tokens.k={run_config.tokens.k}, tokens.stride={run_config.tokens.stride}: "
            f"expected {synthetic_genome.ORDER + 1} and 1, the k-mers that are the chain's edges"
        )
    return run_config


def evaluation_batches(run_config: Config, workdir: Path) -> Iterator[Masked]:
    """Yields the run's evaluation batches under `random`, masked as the run masks them."""
    folder = run_config.data_dir(workdir)
    which = jnp.int32(len(steps.eval_strategies(run_config)) - 1)
    # `random` looks at no ranks and takes its budget from the config.
    ranks = np.arange(1, 4**run_config.tokens.k + 1, dtype=np.int32)
    key = jax.random.key_data(jax.random.key(run_config.seed))
    mask = jax.jit(
        lambda batch: steps.eval_masks(
            key, batch, which, jnp.float32(0), ranks_V=ranks, config=run_config
        )
    )
    for batch in batches.eval_batches(dataset.open_split(folder, "validation"), run_config):
        masked = mask(batch)
        is_window_RM = batch.index != packing.EMPTY
        arrays = (masked.ids, masked.corrupted, masked.masked)
        yield Masked(*(np.asarray(x)[is_window_RM] for x in arrays))


def levels(masked_batches: Iterator[Masked]) -> tuple[dict[str, float], int, float]:
    """Returns nats per masked token by level, masked tokens, and hidden bases per token."""
    probability = synthetic_genome.transition(pmi_table.grch38_counts())
    state_share = synthetic_genome.stationary(probability)
    kmer_share = (state_share[:, None] * probability).ravel()
    base_share = kmer_share.reshape(4, -1).sum(axis=1)
    k = chain_posterior.kmer_length(probability)
    sums, count, covered = dict.fromkeys(LEVELS, 0.0), 0, 0.0
    for batch in masked_batches:
        sums["floor"] += chain_posterior.token_losses(*batch, probability, state_share).sum()
        sums["composition"] += chain_posterior.composition_losses(*batch, base_share, k).sum()
        sums["unigram"] += chain_posterior.unigram_losses(batch.ids, batch.masked, kmer_share).sum()
        ones = np.full(4, np.exp(-1))  # a loss of 1 for every hidden base counts them
        covered += chain_posterior.composition_losses(*batch, ones, k).sum()
        count += int(batch.masked.sum())
    nats = {name: float(value / count) for name, value in sums.items()}
    return nats, count, float(covered / count)


def base_floor(run_config: Config, workdir: Path) -> dict[str, float]:
    """Returns the least nats per base that are reachable on what the run's evaluations hide."""
    folder = run_config.data_dir(workdir)
    hidden = base_evaluation.of_run(run_config, dataset.open_split(folder, "validation"))
    probability = synthetic_genome.transition(pmi_table.grch38_counts())
    return {
        name: float(chain_posterior.base_losses(hidden.bases, start_WS, run, probability).mean())
        for name, (start_WS, run) in zip(base_evaluation.NAMES, hidden.ways, strict=True)
    }


def measure(workdir: Path) -> dict[str, Any]:
    """Returns the levels, the run's perplexities under `random`, and how near they came."""
    run_config = read_config(workdir)
    records = run_log.read(workdir / "metrics.jsonl")
    evaluated = [record for record in records if record["kind"] == "eval"]
    if not evaluated:
        raise InputError(f"{workdir / 'metrics.jsonl'}: no record of kind 'eval'")
    nats, num_masked, covered = levels(evaluation_batches(run_config, workdir))
    floor = float(np.exp(nats["floor"]))
    curve = [(record["step"], float(record["perplexity_random"])) for record in evaluated]
    summaries = [record for record in records if record["kind"] == "summary"]
    last = {name: evaluated[-1].get(name) for name in (*base_evaluation.NAMES, "marks")}
    return {
        "base_floor": base_floor(run_config, workdir),
        "base_last": last,
        "masked_tokens": num_masked,
        "hidden_bases_per_token": covered,
        "perplexity": {name: float(np.exp(value)) for name, value in nats.items()},
        "nats_per_hidden_base": {name: value / covered for name, value in nats.items()},
        "curve": curve,
        "last": curve[-1][1],
        "ratio": curve[-1][1] / floor,
        # 0 = no better than base frequencies, 1 = all that the chain's law is worth
        "way": (nats["composition"] - float(np.log(curve[-1][1])))
        / (nats["composition"] - nats["floor"]),
        "steps": curve[-1][0],
        "close_at_step": next((step for step, value in curve if value <= CLOSE * floor), None),
        "seconds": summaries[-1]["total_seconds"] if summaries else None,
        "switches": [record["step"] for record in records if record["kind"] == "switch"],
        "versions": run_log.environment()["packages"],
    }


def table(result: dict[str, Any]) -> str:
    """Returns the result as text."""
    rows = [
        (LEVELS[name], result["perplexity"][name], result["nats_per_hidden_base"][name])
        for name in LEVELS
    ]
    nats = np.log(result["last"]) / result["hidden_bases_per_token"]
    rows.insert(1, (f"model after {result['steps']:,} steps", result["last"], nats))
    lines = [f"{'under random masks':<48}{'perplexity':>12}{'nats/hidden base':>18}"]
    lines += [f"{name:<48}{value:>12,.3f}{nats:>18.4f}" for name, value, nats in rows]
    for name, floor in result["base_floor"].items():
        if (value := result["base_last"][name]) is not None:
            marks = result["base_last"]["marks"][name]
            levels = [("model", value), ("floor", floor), *marks.items()]
            lines.append(f"{name}: " + ", ".join(f"{kind} {nats:.4f}" for kind, nats in levels))
    close = result["close_at_step"]
    seconds = result["seconds"]
    return "\n".join(
        [
            *lines,
            f"{result['masked_tokens']:,} masked tokens, each covers "
            f"{result['hidden_bases_per_token']:.3f} hidden bases",
            f"model / floor: {result['ratio']:.3f}; within {CLOSE - 1:.0%} "
            + (f"from step {close:,} on" if close else "not reached"),
            f"way from base frequencies to the floor, in nats: {max(result['way'], 0):.0%}",
            f"seconds of the run's last start: {seconds:,.0f}" if seconds else "run not finished",
        ]
    )


def draw(result: dict[str, Any], output: Path) -> None:
    """Writes the model's perplexity by step beside the levels."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*result["curve"], strict=True), color="#1b6ca8", marker="o", markersize=3)
    first, last = result["curve"][0][0], result["curve"][-1][0]
    marks = {
        "floor": ("#2a7f4f", "-"),
        "composition": ("#6b6b6b", "--"),
        "unigram": ("#b0b0b0", ":"),
    }
    for name, (color, style) in marks.items():
        value = result["perplexity"][name]
        axes.axhline(value, color=color, linestyle=style, linewidth=1.2)
        below = name == "floor"  # the two lowest levels lie close together
        axes.annotate(
            f"{LEVELS[name]} ({value:,.2f})", (0, value), xytext=(4, -2 if below else 2),
            textcoords="offset points", va="top" if below else "bottom", fontsize=8, color=color,
        )  # fmt: skip
    for step in result["switches"]:
        axes.axvline(step, color="#6b6b6b", linestyle="--", linewidth=1)
        axes.annotate("switch ", (step, 0.5), xycoords=("data", "axes fraction"), fontsize=8,
                      rotation=90, ha="right", va="center")  # fmt: skip
    axes.axhspan(result["perplexity"]["floor"], CLOSE * result["perplexity"]["floor"],
                 color="#2a7f4f", alpha=0.12, linewidth=0)  # fmt: skip
    axes.set(
        yscale="log",
        ylim=(result["perplexity"]["floor"] / 1.6, None),
        xlim=(min(0, first), last),
        xlabel="step",
        ylabel="perplexity under random masks",
        title=f"validation perplexity: {result['last']:,.2f} after {result['steps']:,} steps, "
        f"{result['ratio']:.2f} x the floor (band: within {CLOSE - 1:.0%})",
    )
    axes.title.set_size(10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=120)


def main() -> None:
    """Runs the command."""
    output = Path(_OUTPUT.value)
    result = measure(Path(_WORKDIR.value))
    print(table(result))
    draw(result, output)
    outputs.write_json(output.with_suffix(".json"), result)


if __name__ == "__main__":
    command.run(main)
