"""The demo's model against the least perplexity that is reachable on its genome.

    python -m benchmarks.floor --workdir=runs/demo

The synthetic genome is a 5th-order Markov chain of known law, so the exact
posterior of every masked token can be computed (chain_posterior.py). This is
done on the run's own validation windows under the very masks that its
evaluations under `random` use. Three levels stand beside the model: the floor,
an observer who sees the bases but knows only their frequencies, and one who
sees nothing and knows only the k-mers' frequencies.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import chain_posterior
from cmgems_jax import config
from cmgems_jax.config import Config
from cmgems_jax.errors import InputError
from cmgems_jax.pmi import table as pmi_table
from cmgems_jax.pretraining import base_evaluation, steps
from cmgems_jax.runtime import command, run_log
from cmgems_jax.windows import batches, dataset, packing, synthetic_genome

LEVELS = {
    "floor": "floor: the chain's law and every visible base",
    "composition": "visible bases, base frequencies",
    "unigram": "nothing visible, k-mer frequencies",
}

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of a pretraining run on synthetic bases.", required=True
)


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


def main() -> None:
    """Runs the command."""
    workdir = Path(_WORKDIR.value)
    run_config = read_config(workdir)
    evaluated = [one for one in run_log.read(workdir / "metrics.jsonl") if one["kind"] == "eval"]
    if not evaluated:
        raise InputError(f"{workdir / 'metrics.jsonl'}: no record of kind 'eval'")
    last = evaluated[-1]
    nats, num_masked, covered = levels(evaluation_batches(run_config, workdir))
    rows = [(text, nats[name]) for name, text in LEVELS.items()]
    rows.insert(1, (f"model after {last['step']:,} steps", np.log(last["perplexity_random"])))
    print(f"{'under random masks':<48}{'perplexity':>12}{'nats/hidden base':>18}")
    for text, value in rows:
        print(f"{text:<48}{np.exp(value):>12,.3f}{value / covered:>18.4f}")
    print(
        f"{num_masked:,} masked tokens, each covers {covered:.3f} hidden bases\n"
        f"model / floor: {last['perplexity_random'] / np.exp(nats['floor']):.3f}"
    )
    for name, floor in base_floor(run_config, workdir).items():
        if last.get(name) is not None:
            base_levels = [("model", last[name]), ("floor", floor), *last["marks"][name].items()]
            print(f"{name}: " + ", ".join(f"{kind} {value:.4f}" for kind, value in base_levels))


if __name__ == "__main__":
    command.run(main)
