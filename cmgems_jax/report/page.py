"""The page: what its inputs are, its sections, its template."""

import dataclasses
import importlib.resources
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from cmgems_jax import __version__
from cmgems_jax import config as config_lib
from cmgems_jax.config import Config
from cmgems_jax.downstream.evaluation import report as evaluation_report
from cmgems_jax.downstream.evaluation import resampled, statistics
from cmgems_jax.errors import InputError
from cmgems_jax.genome import input_files
from cmgems_jax.masking import statistics as mask_statistics
from cmgems_jax.pmi import table as pmi_table
from cmgems_jax.pretraining import run_inputs
from cmgems_jax.report import figures, svg
from cmgems_jax.runtime import outputs, run_log
from cmgems_jax.studies import runs, study, study_report, study_tables
from cmgems_jax.studies.arms import Arm
from cmgems_jax.windows import dataset

_TEMPLATE = "template.html"


@dataclasses.dataclass
class Section:
    """A heading and what is under it, in order."""

    title: str
    intro: str = ""
    sentences: list[str] = dataclasses.field(default_factory=list)
    figures: list[list[str]] = dataclasses.field(default_factory=list)  # <svg> elements of each
    tables: list[tuple[str, list[list[str]]]] = dataclasses.field(default_factory=list)


def write(inputs: Sequence[Path | str], output: Path | str) -> None:
    """Writes one HTML file that needs no other.

    Args:
      inputs: folders of launch.study, launch.pretrain, launch.evaluate or
        launch.count_pmi, in the order of the page.
      output: the .html file.

    Raises:
      InputError: a folder is none of these, or the file cannot be made.
    """
    inputs, output = list(map(Path, input_files.listed(inputs))), Path(output)
    outputs.check_file(output, (".html",))
    makers = [_maker(path) for path in inputs]
    sections: list[Section] = []
    for maker, path in zip(makers, inputs, strict=True):
        with svg.style():
            made = maker(path)
        for section in made if len(inputs) > 1 else ():
            section.title = f"{path.resolve().name}: {section.title}"
        sections += made
    numbers = itertools.count()
    for section in sections:
        section.figures = [
            [svg.with_own_ids(element, f"f{next(numbers)}") for element in figure]
            for figure in section.figures
        ]
    environments = (path / "environment.json" for path in inputs)
    environment = next((path.read_text() for path in environments if path.is_file()), "{}")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        (importlib.resources.files("cmgems_jax.report") / _TEMPLATE).read_text()
    )
    page = template.render(
        title=", ".join(path.resolve().name for path in inputs),
        sections=sections,
        environment=json.loads(environment),
        version=__version__,
    )
    with outputs.replaced_file(output) as part:
        part.write_text(page, encoding="utf-8")
    print(f"{output}: {len(sections)} sections, {len(page) / 1e6:.1f} MB, no other file needed")


def _maker(path: Path) -> Callable[[Path], list[Section]]:
    """Returns what makes the sections of a folder, by the file that only its command writes."""
    if not path.is_dir():
        raise InputError(f"--input={path}: no such folder")
    for name, maker in _MAKERS.items():
        if (path / name).is_file():
            return maker
    raise InputError(
        f"--input={path}: expected a folder of launch.study, launch.pretrain, launch.evaluate or "
        f"launch.count_pmi (with {study.NAME}, metrics.jsonl, suite.json or pmi.csv in it)"
    )


def _cells(table: pd.DataFrame) -> list[list[str]]:
    """Returns a table as its heads and rows of text."""
    heads = list(map(str, table.columns))
    rows = table.itertuples(index=False)
    return [heads, *([study_report.number_text(cell) for cell in row] for row in rows)]


def _some(title: str, table: pd.DataFrame) -> list[tuple[str, list[list[str]]]]:
    """Returns a table of a section, none where it has no rows."""
    return [(title, _cells(table))] if len(table) else []


def _pmi(path: Path) -> list[Section]:
    """The folder of count_pmi."""
    summary = json.loads((path / "summary.json").read_text())
    table = pmi_table.read(path / "pmi.csv", summary["k"])
    section = _pmi_section(table, f"Counted: {path.name}")
    section.sentences = [f"The {text}." for text in summary.get("known_motifs", {}).values()]
    return [section]


def _pmi_section(table: pmi_table.PmiTable, intro: str) -> Section:
    """Which k-mers PMI ranks first."""
    return Section("Pointwise mutual information", intro, figures=[figures.pmi(table)])


def _ranks_section(config: Config) -> list[Section]:
    """The ranks of a run, where they can be had without its genome."""
    has_moved = config.has_pmi_table and not Path(config.pmi_source).exists()
    if config.pmi_source == "corpus" or has_moved:
        return []  # count_pmi's folder, as a further input, shows them
    intro = "The embedded counts of GRCh38."
    if config.has_pmi_table:
        intro = f"The table {Path(config.pmi_source).name}."
    return [_pmi_section(pmi_table.table_for(config, []), intro)]


def _settings(config: Config) -> list[list[str]]:
    """Returns the fields that differ from the defaults."""
    defaults = config_lib.flatten(Config())
    rows = [
        [name, str(value), str(defaults[name])]
        for name, value in config_lib.flatten(config).items()
        if value != defaults[name] and name not in ("data.dir", "data.fasta")
    ]
    fasta = ", ".join(Path(path).name for path in config.fasta_paths)
    return [["field", "value", "default"], *rows, ["data.fasta", fasta, ""]]


def _run(path: Path) -> list[Section]:
    """A pretraining run, and the evaluation in it where there is one."""
    config = config_lib.from_dict(json.loads((path / "config.json").read_text()))
    records = run_log.read(path / "metrics.jsonl")
    last = [record for record in records if record["kind"] == "summary"]
    intro = f"{path.resolve().name}: {config.num_steps:,} steps, {config.curriculum.name}"
    figure = figures.run_curves(records, config.tokens.k)
    run = Section("Pretraining", intro, figures=[figure])
    run.sentences = [record["why"] for record in records if record["kind"] == "switch"]
    run.tables.append(("Settings that differ from the defaults", _settings(config)))
    if last:
        rows = [[part, f"{value:,.1f}"] for part, value in last[-1]["seconds_by_part"].items()]
        run.tables.append(("Seconds by part", [["part", "seconds"], *rows]))
    data_dir = config.data_dir(path)
    ranks_V = run_inputs.read_ranks(path)  # at the start: what was learned since is not in it
    has_masks = ranks_V is not None and config.masking.ranks != "learned"
    if has_masks and (data_dir / dataset.SUMMARY_NAME).is_file():
        masks = pd.DataFrame(
            map(dataclasses.asdict, mask_statistics.describe(config, data_dir, ranks_V))
        )
        run.tables.append(("Masks by stage, over held-out windows", _cells(masks)))
    sections = [run, *_ranks_section(config)]
    inside = path / runs.EVALUATION
    return sections + (_evaluation(inside) if (inside / "results.csv").is_file() else [])


def _evaluation(path: Path) -> list[Section]:
    """A folder of launch.evaluate."""
    if not (path / "results.csv").is_file():
        raise InputError(f"--input={path}: no task is evaluated yet; wait for the first")
    results = resampled.attach(evaluation_report.read_table(path / "results.csv"), path)
    means = statistics.summary(results, "model")
    rows = evaluation_report.named_rows(means)
    section = Section(
        "Labelled tasks",
        "Means with 95 % intervals; gray: what stands beside the models. "
        f"{evaluation_report.method(means)}",
        figures=[figures.means(rows)],
    )
    section.tables.append(("Means", _cells(study_report.means_table(rows))))
    first = json.loads((path / "suite.json").read_text()).get("models", [{}])[0].get("name")
    compared = evaluation_report.differences(results, first or results.model.iloc[0])
    section.sentences = evaluation_report.sentences(compared, first or results.model.iloc[0])
    notes = evaluation_report.read_notes(path)
    noted = [[unit, note] for unit, texts in notes.items() for note in texts]
    if noted:
        section.tables.append(("What is to be known of the data", [["task", "note"], *noted]))
    return [section]


def _study(path: Path) -> list[Section]:
    """A folder of launch.study; of one that is not done, the runs that are."""
    study_file = path / study.NAME
    about = json.loads(study_file.read_text())
    config = config_lib.from_dict(config_lib.unflatten(about["config"]), source=str(study_file))
    arms = [Arm(**values) for values in about["arms"].values()]
    tables, missing = _study_tables(path, about, config, arms)
    reached, masks, costs = (tables[name] for name in ("reached", "masks", "costs"))
    logs = {
        arm: [
            run_log.read(folder / "metrics.jsonl")
            for folder in (runs.folder(path, arm, seed) for seed in about["seeds"])
            if (folder / "metrics.jsonl").is_file()
        ]
        for arm in about["arms"]
    }
    changes = [
        [arm.name, ", ".join(f"{n}={v}" for n, v in arm.fields.items()), arm.reference]
        for arm in arms
    ]
    return [
        _outcome(tables, missing, about, config),
        _scores(tables),
        Section(
            "Learning curves",
            "A line per seed; a dot where the curriculum switched.",
            figures=[figures.study_curves(logs)],
            tables=[
                *_some(study_report.BASES_TITLE, tables["hidden_bases"]),
                ("Steps to a perplexity under random masks", _cells(reached)),
            ],
        ),
        Section(
            "Masks",
            "Each arm's strategies on held-out windows of full length.",
            figures=[figures.mask_bars(masks)],
            tables=[("Masks", _cells(masks))],
        ),
        Section(
            "Cost",
            "Measured: the parts add up, and input_wait is within train. The hours for other "
            "numbers of steps are extrapolated.",
            figures=[figures.cost_bars(costs)],
            tables=[("Seconds by part", _cells(costs))],
        ),
        *_ranks_section(config),
        Section(
            "Settings",
            "What all arms share, then what each changes.",
            tables=[
                ("Arms", [["arm", "fields", "reference"], *changes]),
                ("Shared settings that differ from the defaults", _settings(config)),
            ],
        ),
    ]


def _study_tables(
    path: Path, about: dict[str, Any], config: Config, arms: Sequence[Arm]
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Returns the tables of a study, of what is done of it, and a sentence about what is not."""
    units = [runs.unit(arm, seed, config, path) for seed in about["seeds"] for arm in arms]
    if (path / "study.md").is_file():
        names = ("summary", "reached", "masks", "costs", "results")
        tables = {name: evaluation_report.read_table(path / f"{name}.csv") for name in names}
        reached = tables["reached"]
        told = {*zip(reached.arm, reached.seed, strict=True)}
        if told == {(one.arm.name, one.seed) for one in units}:  # else others were asked for since
            tables["power"] = study_tables.power(tables["results"], arms)
            tables["hidden_bases"] = study_tables.hidden_bases(tables["reached"], arms)
            tables["differences"] = study_report.read_differences(path / "differences.csv")
            return tables | {study_tables.BASELINE_SUMMARY: study_report.read_baselines(path)}, []
    done = [one for one in units if one.is_done]
    if not done:
        raise InputError(f"--input={path}: no run of the study is done yet; wait for the first")
    missing = f"{len(done)} of {len(units)} runs are done; the page is of these."
    return study_tables.tables(done, arms), [missing]


def _outcome(
    tables: dict[str, pd.DataFrame], missing: list[str], about: dict[str, Any], config: Config
) -> Section:
    """What a study asks, and what its differences show."""
    differences, num_arms = tables["differences"], len(about["arms"])
    num_seeds = int(tables["results"].groupby("arm").seed.nunique().min())
    section = Section(
        f"Study: {about['question']}",
        f"{evaluation_report.counted(num_arms, 'arm')}, "
        f"{evaluation_report.counted(num_seeds, 'seed')}, {config.num_steps:,} steps each. "
        f"{study_report.rule()}.",
        missing
        + study_report.sentences(differences, num_arms)
        + study_report.base_sentences(tables["hidden_bases"])
        + study_report.caution(num_seeds, about["evaluation"]["num_draws"]),
    )
    if len(differences):
        section.figures.append(figures.differences(differences))
        table = study_report.differences_table(differences)
        section.tables.append(("Differences", _cells(table)))
    section.tables += _some(study_report.POWER_TITLE, tables["power"])
    return section


def _scores(tables: dict[str, pd.DataFrame]) -> Section:
    """The labelled tasks of a study."""
    means = tables["summary"]
    rows = evaluation_report.named_rows(means, tables[study_tables.BASELINE_SUMMARY])
    return Section(
        "Labelled tasks",
        f"Means with 95 % intervals; gray: baselines. {evaluation_report.method(means)}",
        figures=[figures.means(rows)],
        tables=[("Means", _cells(study_report.means_table(rows)))],
    )


_MAKERS = {
    study.NAME: _study,
    "metrics.jsonl": _run,
    "suite.json": _evaluation,
    "pmi.csv": _pmi,
}
