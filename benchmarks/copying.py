"""When copying ends and sequence begins: perplexity, nats per base and probes by step, one figure.

    python -m benchmarks.copying --runs=runs/study/arms/random_spans_seed0,... \\
        --probes=runs/probes --output=docs/copying.png

Perplexity and nats are those that the runs logged; the probes' accuracies are of `launch.evaluate
--mode=probe --checkpoint=RUN/checkpoints/STEP,...`, whose folder --probes is. Runs named
NAME_seedN are seeds of one line: their mean, and the least and the greatest. Beside the picture
the numbers are written as a .csv.
"""

from pathlib import Path

import matplotlib
import pandas as pd
from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmgems_jax.downstream.evaluation import report
from cmgems_jax.runtime import command, outputs, pictures, run_log

_RUNS = flags.DEFINE_list("runs", None, "Work folders of pretraining runs.", required=True)
_PROBES = flags.DEFINE_string("probes", None, "Folder of launch.evaluate.", required=True)
_SHOTS = flags.DEFINE_integer("shots", 100, "Rows per class of the probes that are shown.", 1)
_OUTPUT = flags.DEFINE_string("output", None, "The picture to write.", required=True)
TICKS = (0, 100, 300, 1_000, 3_000, 10_000)
LOGGED = {
    "perplexity_random": "perplexity under random masks",
    "nats_per_base": "nats per base, one hidden",
    "nats_per_base_k": "nats per base, k hidden",
}


def logged(folder: Path) -> pd.DataFrame:
    """Returns what a run's evaluations say: columns line, seed, step, metric, value, mark."""
    line, _, seed = folder.name.partition("_seed")
    rows = []
    for record in run_log.read(folder / "metrics.jsonl"):
        marks = record.get("marks") or {}
        for metric in LOGGED:
            if record["kind"] == "eval" and record.get(metric):
                mark = marks.get(metric, {}).get("flanks")
                rows.append((line, seed, record["step"], metric, record[metric], mark))
    return pd.DataFrame(rows, columns=["line", "seed", "step", "metric", "value", "mark"])


def probed(folder: Path, shots: int) -> pd.DataFrame:
    """Returns the mean accuracy over draws of each checkpoint and task, in the same columns."""
    table = report.read_table(folder / "results.csv")
    table = table[(table["mode"] == "probe") & (table.shots == shots)]
    parts = table.model.str.extract(r"^(?P<line>.+?)(?:_seed(?P<seed>\d+))?@(?P<step>\d+)$")
    table = table.assign(**parts, metric=table.task).dropna(subset="step").astype({"step": int})
    keys = ["line", "seed", "step", "metric"]
    means = table.groupby(keys, sort=False, dropna=False).accuracy.mean()
    return means.rename("value").reset_index()


def draw(
    axes: Axes, rows: pd.DataFrame, colors: dict[str, str], switches: list[tuple[str, int]]
) -> None:
    """Plots one metric of every line by step."""
    for line, own in rows.groupby("line", sort=False):
        by_step = own.groupby("step").value
        axes.plot(by_step.mean(), color=colors[line], marker="o", markersize=3, label=line)
        axes.fill_between(
            by_step.mean().index, by_step.min(), by_step.max(), color=colors[line], alpha=0.15
        )
    for line, step in switches:
        axes.axvline(step, color=colors[line], linestyle=":", linewidth=1)
    axes.set_xscale("symlog", base=2, linthresh=128)
    axes.set_xticks([step for step in TICKS if step <= rows.step.max()])
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlim=(0, 1.05 * rows.step.max()), xlabel="step")


def main() -> None:
    """Writes the picture and the numbers."""
    folders = [Path(run) for run in _RUNS.value]
    of_runs, of_probes = map(logged, folders), probed(Path(_PROBES.value), _SHOTS.value)
    rows = pd.concat(of_runs, ignore_index=True)
    rows = pd.concat([rows, of_probes[of_probes.line.isin(rows.line)]])
    output = Path(_OUTPUT.value)
    with outputs.replaced_file(output.with_suffix(".csv")) as part:
        rows.drop(columns="mark").to_csv(part, index=False, float_format="%.5g")
    switches = [
        (folder.name.partition("_seed")[0], record["step"])
        for folder in folders
        for record in run_log.read(folder / "metrics.jsonl")
        if record["kind"] == "switch"
    ]
    lines = rows.line.unique()
    colors = dict(zip(lines, pictures.PALETTE, strict=False))
    metrics = rows.metric.unique()
    with matplotlib.rc_context(pictures.STYLE):
        figure = Figure(figsize=(11, 6.2))
        every = figure.subplots(2, -(-len(metrics) // 2), squeeze=False).flat
        for axes, metric in zip(every, metrics, strict=False):
            own = rows[rows.metric == metric]
            draw(axes, own, colors, switches)
            axes.set_title(LOGGED.get(metric, f"{metric}, {_SHOTS.value} rows per class"))
            if metric in LOGGED and own.mark.notna().any():
                axes.axhline(own.mark.mean(), color=pictures.FAINT, linestyle="--", linewidth=1)
        every[0].set_yscale("log")
        every[0].legend(fontsize=8)
        figure.savefig(output, dpi=120)
    print(f"{output}: dashes: a table of 6-mers that sees both flanks; dots: the switch of a run")
    print(f"{output.with_suffix('.csv')}: its numbers")


if __name__ == "__main__":
    command.run(main)
