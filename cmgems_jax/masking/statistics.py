"""What the masks of a run are like: their share, what they hide, where they fall.

Axes: W windows, L token positions.
"""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cmgems_jax.config import Config
from cmgems_jax.genome import vocabulary
from cmgems_jax.masking import corruption, curriculum, rows, strategies
from cmgems_jax.windows import dataset
from cmgems_jax.windows.packing import Batch

_MOST_WINDOWS = 2_000
_OFTEN = 2  # times as often as chance


@dataclasses.dataclass(frozen=True)
class MaskStatistics:
    """Of one strategy, over held-out windows of full length."""

    strategy: str
    share: float  # of the k-mers, masked
    hidden_bases_per_token: float  # bases that a masked token covers and nothing shows
    mean_rank: float  # of the masked k-mers, by PMI; 0 = the best, 1 = the worst
    mean_rank_of_all: float  # the same of all k-mers there: chance
    often_masked_positions: float  # share of the positions masked twice as often as chance, or more
    num_windows: int


def describe(config: Config, data_dir: Path, ranks_V: np.ndarray) -> list[MaskStatistics]:
    """Returns the statistics of every strategy of a run's curriculum, in order.

    The budget is the one that a run begins the stage with. Of `random_mask`, equal parts
    of the prepared windows in `data_dir` are masked as in each part of a run. `ranks_V` is
    int32 (4**k,).
    """
    validation = dataset.open_split(data_dir, "validation")
    full = np.flatnonzero(validation.lengths == config.window_bases)
    parts = strategies.NUM_GROWTHS
    full = full[: min(_MOST_WINDOWS, len(full)) // parts * parts]
    if not len(full):
        return []
    bases_WN = validation.read(full)
    begin = curriculum.init(config)
    names = dict.fromkeys(curriculum.strategies(config.curriculum))
    budgets = (curriculum.budget(begin, stage == curriculum.HARD, config) for stage in range(2))
    return [
        _of_strategy(name, config, bases_WN, ranks_V, budget)
        for name, budget in zip(names, budgets, strict=False)
    ]


def _of_strategy(
    strategy: str, config: Config, bases_WN: np.ndarray, ranks_V: np.ndarray, budget: jax.Array
) -> MaskStatistics:
    """Masks every window once."""
    program = jax.jit(
        functools.partial(
            rows.mask_batch,
            strategies=(strategy, strategy),
            ranks_V=jnp.asarray(ranks_V),
            config=config,
        )
    )
    spans = {"k": config.tokens.k, "stride": config.tokens.stride}
    cover = jax.jit(jax.vmap(functools.partial(corruption.hidden_bases, **spans)))
    parts = []
    for growth, part_WN in enumerate(np.split(bases_WN, strategies.NUM_GROWTHS)):
        index = np.arange(len(part_WN), dtype=np.int32)[:, None] + growth * len(part_WN)
        masked = program(
            jax.random.key(config.seed),
            Batch(jnp.asarray(part_WN[:, None]), jnp.asarray(index)),
            jnp.int32(0),
            budget,
            growth=jnp.int32(growth),
        )
        parts.append([np.asarray(x)[:, 0] for x in masked[:3]])
    ids_WL, corrupted_WL, masked_WL = map(np.concatenate, zip(*parts, strict=True))
    eligible_WL = ids_WL >= vocabulary.NUM_SPECIAL
    covered_WL = np.asarray(cover(ids_WL, corrupted_WL, eligible_WL))
    masked_ranks = ranks_V[ids_WL[masked_WL] - vocabulary.NUM_SPECIAL]
    all_ranks = ranks_V[ids_WL[eligible_WL] - vocabulary.NUM_SPECIAL]
    share_L = masked_WL[:, 1:-1].mean(axis=0)  # without [CLS] and [SEP]
    num_masked, worst = max(1, int(masked_WL.sum())), len(ranks_V) - 1
    return MaskStatistics(
        strategy=strategy,
        share=float(share_L.mean()),
        hidden_bases_per_token=int(covered_WL[masked_WL].sum()) / num_masked,
        mean_rank=(int(masked_ranks.sum()) / num_masked - 1) / worst,
        mean_rank_of_all=(float(all_ranks.mean()) - 1) / worst,
        often_masked_positions=float((share_L > _OFTEN * share_L.mean()).mean()),
        num_windows=len(bases_WN),
    )
