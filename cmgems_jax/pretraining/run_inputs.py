"""What a run learns from, recorded in its folder: at every start the same windows and ranks.

Files move. WORKDIR/inputs.json therefore holds what identifies the data set, and
WORKDIR/ranks.npy the k-mers' ranks, so that a run resumes without the genome and
without the PMI table that it was begun with.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from cmgems_jax.config import Config
from cmgems_jax.errors import InputError
from cmgems_jax.masking import curriculum
from cmgems_jax.pmi import counts as pmi_counts
from cmgems_jax.pmi import table as pmi_table
from cmgems_jax.runtime import outputs
from cmgems_jax.windows import dataset

NAME = "inputs.json"
RANKS_NAME = "ranks.npy"
FAR = 0.8  # Spearman's correlation of two rankings, below which they are far from each other


def write(workdir: Path, data_dir: Path, ranks_V: np.ndarray) -> None:
    """Records what a run learns from: its prepared windows, and int32 (4**k,) ranks."""
    with outputs.replaced_file(workdir / RANKS_NAME) as partial:
        np.save(partial, ranks_V)
    outputs.write_json(workdir / NAME, {"windows": dataset.identity(data_dir)})


def read(workdir: Path) -> dict[str, Any] | None:
    """Returns the identity of a run's data set; None where its first start recorded none."""
    path = workdir / NAME
    try:
        return json.loads(path.read_text())["windows"]
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError):
        raise InputError(f"{path}: damaged; remove it to resume without a comparison") from None


def check_windows(workdir: Path, data_dir: Path) -> None:
    """Raises `InputError` where the run in `workdir` was begun with another data set."""
    before = read(workdir)
    if before is None:
        return
    now = dataset.identity(data_dir)
    # Files may be packed otherwise; a data set of an earlier version has no content.
    names = (before.keys() & now.keys()) - {"sha256"}
    differing = sorted(name for name in names if before[name] != now[name])
    if differing:
        raise InputError(
            f"{data_dir}: not the data set that the run in {workdir} was begun with (its "
            f"{', '.join(differing)} differ); give that one with data.dir or data.fasta, or "
            "another --workdir"
        )


def ranks(config: Config, workdir: Path) -> np.ndarray:
    """Returns int32 (4**k,), the ranks that a run was begun with, or those of a new one.

    Its windows are prepared.

    Raises:
      InputError: the PMI table is another one, or, where the ranks are not recorded,
        it cannot be read.
    """
    before_V, is_counted = read_ranks(workdir), config.pmi_source == "corpus"
    if before_V is not None:
        if is_counted:  # in the windows' input, which has been compared
            return before_V
        if config.has_pmi_table and not Path(config.pmi_source).exists():
            print(
                f"note: {config.pmi_source}: no such file; resuming with the ranks in "
                f"{workdir / RANKS_NAME}",
                flush=True,
            )
            return before_V
    paths = dataset.input_paths(config, config.data_dir(workdir)) if is_counted else []
    now_V = pmi_table.ranks_for(config, paths)
    if before_V is not None and not np.array_equal(before_V, now_V):
        raise InputError(
            f"pmi.table={config.pmi.table}: gives other ranks than those that the run in {workdir} "
            "was begun with; give that table, or another --workdir"
        )
    return now_V


def tell_ranks(config: Config, data_dir: Path, ranks_V: np.ndarray) -> None:
    """Prints by which ranks a run masks; warns where those of its own windows are far from them.

    Nothing where no strategy looks at them. The windows' counts are those that `nats_per_base`
    is measured with, so the comparison costs nothing.
    """
    by_rank = {"genemask", "global"}
    names = {name.partition("_by_")[0] for name in curriculum.strategies(config.curriculum)}
    if not names & by_rank:
        return
    k, settings, source = config.tokens.k, config.pmi, config.pmi_source
    if config.masking.ranks != "pmi":
        control = {"shuffled": "a permutation of PMI's", "learned": "the model's own losses"}
        print(f"pmi: a control, ranks by {control[config.masking.ranks]}", flush=True)
        return
    what = {
        "grch38": "GRCh38's ranks (k=6); --config.pmi.table=corpus counts your genome",
        "corpus": f"your genome's own ranks (k={k})",
    }
    print(f"pmi: {what.get(source, f'the ranks of {source} (k={k})')}", flush=True)
    if source == "corpus" or k != 6:
        return
    counts = pmi_counts.counts_from_kmers(dataset.train_sixmers(data_dir))
    own = pmi_table.make(
        counts, k, segmentation=settings.segmentation, min_count=settings.min_count
    )
    spearman = float(np.corrcoef(own.rank, ranks_V)[0, 1])
    if spearman < FAR:
        print(
            f"warning: pmi: the training windows rank their 6-mers otherwise (Spearman "
            f"{spearman:.2f}, below {FAR:g}): what these ranks hide together need not belong "
            "together in your genome; --config.pmi.table=corpus takes its own",
            flush=True,
        )


def read_ranks(workdir: Path) -> np.ndarray | None:
    """Returns the ranks that a run recorded, int32 (4**k,), or None."""
    path = workdir / RANKS_NAME
    try:
        return np.load(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read ({error}); remove it") from None
