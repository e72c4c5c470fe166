"""A study from the first arm to the tables; resumes where it was stopped."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from cmgems_jax import config as config_lib
from cmgems_jax.config import Config
from cmgems_jax.downstream.evaluation import report as evaluation_report
from cmgems_jax.downstream.evaluation.settings import EvaluationSettings
from cmgems_jax.downstream.tasks import table, tasks
from cmgems_jax.errors import InputError
from cmgems_jax.genome import files as genome_files
from cmgems_jax.pretraining import checkpoints, compile_cache
from cmgems_jax.runtime import outputs, run_lock, run_log
from cmgems_jax.studies import arms, reuse, runs, study_report
from cmgems_jax.studies.arms import Arm
from cmgems_jax.studies.runs import Unit
from cmgems_jax.windows import dataset

NAME = "study.json"
PRESETS = {"nano": None, "logo": None, "dnabert": 1_000}  # steps, where not the config's
_LEAST_EVALS = 16  # a curriculum compares them, and curves are plotted of them
_POLL_S = 5.0  # between looks at what other processes do


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a study's folder is made of; it holds one of it."""

    study: str
    preset: str  # for the reader; `config` says what it is
    config: Config
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    evaluation: EvaluationSettings
    rows: dict[str, str]  # of the tasks' units, their digests
    task_dir: Path


def preset(name: str, fasta: str, num_steps: int | None) -> Config:
    """Returns the config of a preset (of `PRESETS`, or as for `config.load`) on a genome.

    With `num_steps` in place of the preset's, what is done every so many steps is
    done at least as often as in `_LEAST_EVALS` evaluations.
    """
    config = config_lib.load(f"{name}6" if name in PRESETS else name, flag="preset")
    fields: dict[str, Any] = {"data.fasta": fasta, "keep_checkpoints": 1}
    num_steps = num_steps or PRESETS.get(name) or config.num_steps
    if num_steps != config.num_steps:
        every = max(1, num_steps // _LEAST_EVALS)
        fields["num_steps"] = num_steps
        fields["eval_every"] = min(config.eval_every or every, every)
        fields["log_every"] = min(config.log_every, every)
        fields["optimizer.warmup_steps"] = min(config.optimizer.warmup_steps, num_steps // 2)
    return config_lib.replace(config, fields)


def make_plan(
    study: str,
    preset: str,
    config: Config,
    num_seeds: int,
    only: Sequence[str],
    reference: str,
    evaluation: EvaluationSettings,
    task_dir: Path,
) -> Plan:
    """Returns a study's plan, with every config and task checked.

    Args:
      study: name in `arms.STUDIES`.
      preset: name of the config.
      config: that every arm changes.
      num_seeds: seeds 0 to num_seeds - 1.
      only: names of arms to run; empty = all.
      reference: name of the arm that the others are compared with; "" = the study's own.
      evaluation: of the few-shot tasks.
      task_dir: holds fewshot/.

    Raises:
      InputError: an unknown arm, a config that cannot work, a task that is not there.
    """
    known = {arm.name: arm for arm in arms.STUDIES[study].arms(config)}
    named = [("arms", name) for name in only] + [("reference", reference)] * bool(reference)
    for flag, name in named:
        if name not in known:
            raise InputError(f"--{flag}={name}: the study {study} has {', '.join(known)}")
    if reference:
        known = {n: dataclasses.replace(arm, reference=reference) for n, arm in known.items()}
    chosen = tuple(arm for arm in known.values() if not only or arm.name in only)
    for arm in chosen:
        arms.config_of(config, arm, 0)
    # Read once now, so that a bad file is found at the start.
    rows = {}
    for task in table.find_all(evaluation.tasks, task_dir):
        if task.suite == "gue":
            raise InputError(
                f"--tasks={task.name}: of GUE; a study has few-shot tasks, or folders of your own"
            )
        for shots in evaluation.shots:
            data = tasks.load(task, task_dir, k=config.tokens.k, shots=shots)
            rows[evaluation_report.unit_name(task.name, shots)] = tasks.digest(data)
    seeds = tuple(range(num_seeds))
    return Plan(study, preset, config, chosen, seeds, evaluation, rows, task_dir)


def run(plan: Plan, output: Path, others: Sequence[Path] = ()) -> None:
    """Runs every unit that is not done, whichever process does it, and writes the tables.

    Args:
      plan: of the study.
      output: made where it is missing; the study resumes where it is the same.
      others: folders of other studies; a finished run of theirs that is the same as a
        unit is copied.

    Raises:
      InputError: `output` holds another study, or one of `others` cannot be used.
    """
    for other in others:
        _check_reusable(other, plan)
    with run_lock.held(output / "claims" / "plan", wait=True):
        check_same(output, plan)
    compile_cache.use(output)
    units = _units(plan, output)
    took_s: list[float] = []
    line = ""
    while left := [one for one in units if not one.is_done]:
        if line != (line := _progress(units, left, took_s)):
            print(line, flush=True)
        if not _run_one(left, plan, output, others, took_s):
            time.sleep(_POLL_S)
    study_report.write(plan, units, output)


def _units(plan: Plan, output: Path) -> list[Unit]:
    """Returns every arm with every seed."""
    return [
        runs.unit(arm, seed, arms.config_of(plan.config, arm, seed), output)
        for seed in plan.seeds
        for arm in plan.arms
    ]


def _run_one(
    left: list[Unit], plan: Plan, output: Path, others: Sequence[Path], took_s: list[float]
) -> bool:
    """Does the first free unit; False where other processes have them all."""
    for one in left:
        with runs.claimed(one, output) as is_mine:
            if not is_mine:
                continue
            start = time.perf_counter()
            print(f"\n== {one.arm.name}, seed {one.seed}", flush=True)
            source = None if one.folder.exists() else reuse.find(one, others)
            if source:
                print(f"the same run as {source}: copied", flush=True)
                about = json.loads((source.parents[1] / NAME).read_text())
                reuse.copy(source, one, with_scores=not _other_units(about, plan))
            has_baselines = one.arm.name == plan.arms[0].name and one.seed == plan.seeds[0]
            settings = dataclasses.replace(plan.evaluation, baselines=has_baselines)
            runs.run(one, settings, plan.task_dir)
            if not source:
                took_s.append(time.perf_counter() - start)
            return True
    return False


def _progress(units: list[Unit], left: list[Unit], took_s: list[float]) -> str:
    """Returns how many units are done, and when the rest will be."""
    done = f"{len(units) - len(left)} of {len(units)} runs done"
    if not took_s:
        return done
    rest = timedelta(seconds=round(len(left) * sum(took_s) / len(took_s)))
    return f"{done}; ETA {rest} by this process alone"


def check_same(output: Path, plan: Plan) -> None:
    """Writes study.json, or refuses a folder of another study or of another genome."""
    now = {
        "study": plan.study,
        "config": {n: v for n, v in config_lib.flatten(plan.config).items() if n != "data.dir"},
        "evaluation": plan.evaluation.fixed(),
    }
    table = Path(plan.config.pmi_source)
    if plan.config.has_pmi_table and table.exists():
        now["pmi_table_sha256"] = genome_files.sha256(str(table))
    path = output / NAME
    if path.exists():
        before = json.loads(path.read_text())
        fields = config_lib.unflatten(before["config"])
        config = checkpoints.binding(config_lib.from_dict(fields, source=str(path)))
        rows = _changed("config", config, checkpoints.binding(plan.config))
        rows += _changed("evaluation", _known(before), now["evaluation"])
        contents = [one.get("pmi_table_sha256") for one in (before, now)]
        if all(contents) and contents[0] != contents[1]:
            rows.append(f"pmi.table: {table} holds another table than before")
        if "rows" in before:  # not of an earlier version
            rows += _other_units(before, plan)
        if before["study"] != plan.study:
            rows.insert(0, f"study: {before['study']} before, {plan.study} now")
        if rows:
            raise InputError(
                f"--output={output}: holds another study ({'; '.join(rows[:5])}); "
                "give another --output"
            )
    elif output.exists() and {path.name for path in output.iterdir()} - {"claims"}:
        raise InputError(f"--output={output}: holds other files; give a new folder")
    units = _units(plan, output)
    left = {one.data_dir for one in units if not one.is_done}
    for folder, config in {one.data_dir: one.config for one in units}.items():
        if folder in left or (folder / dataset.SUMMARY_NAME).is_file():
            dataset.is_prepared(config, folder)
    listed = {
        "preset": plan.preset,
        "question": arms.STUDIES[plan.study].question,
        "arms": {arm.name: dataclasses.asdict(arm) for arm in plan.arms},
        "seeds": list(plan.seeds),
        "modes": list(plan.evaluation.modes),
        "rows": plan.rows,
    }
    outputs.write_json(path, now | listed)
    outputs.write_json(output / "environment.json", run_log.environment())


def _known(record: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of study.json's evaluation; of an earlier version all that there are."""
    return EvaluationSettings().fixed() | record["evaluation"]


def _other_units(record: dict[str, Any], plan: Plan) -> list[str]:
    """Returns how the units or modes of a study.json differ from the plan's; runs have all."""
    before, now = record.get("rows", {}), plan.rows
    settings = {"tasks": sorted(now), "modes": sorted(plan.evaluation.modes)}
    known = {"tasks": sorted(before), "modes": sorted(record.get("modes", ()))}
    others = [unit for unit in now if before.get(unit, now[unit]) != now[unit]]
    return _changed("evaluation", known, settings) + [f"{unit}: other rows" for unit in others]


def _changed(section: str, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Returns the settings that differ, in words."""
    return [
        f"{section}.{name}: {before.get(name)!r} before, {value!r} now"
        for name, value in now.items()
        if before.get(name) != value
    ]


def _check_reusable(other: Path, plan: Plan) -> None:
    """Raises `InputError` where a folder is no study, or was evaluated in another way."""
    path = other / NAME
    if not path.is_file():
        raise InputError(
            f"--reuse={other}: no {NAME} in it; expected the --output of another study"
        )
    before = json.loads(path.read_text())
    if rows := _changed("evaluation", _known(before), plan.evaluation.fixed()):
        raise InputError(
            f"--reuse={other}: its runs were evaluated in another way ({'; '.join(rows)}); "
            "evaluate alike, or leave it out"
        )


@contextlib.contextmanager
def other_processes(number: int, output: Path, arguments: Sequence[str]) -> Iterator[None]:
    """Runs `number` - 1 more processes of the same command beside the block, one per GPU.

    Process i sees the i-th GPU of CUDA_VISIBLE_DEVICES alone (unset: GPU i) and writes to
    OUTPUT/claims/process_I.log; they end with the block, by themselves where it succeeds. Enter
    it before jax looks for devices.

    Raises:
      InputError: CUDA_VISIBLE_DEVICES names fewer GPUs.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    gpus = visible if any(visible) else [*map(str, range(number))]
    if len(gpus) < number:
        raise InputError(
            f"--processes={number}: CUDA_VISIBLE_DEVICES={','.join(gpus)} names {len(gpus)}; give "
            "as many GPUs, or unset it"
        )
    with contextlib.ExitStack() as stack:
        for index in range(1, number):
            (output / "claims").mkdir(parents=True, exist_ok=True)
            log = output / "claims" / f"process_{index}.log"
            other = subprocess.Popen(
                [sys.executable, "-m", "launch.study", *arguments, "--processes=1"],
                env=os.environ | {"CUDA_VISIBLE_DEVICES": gpus[index]},
                stdout=stack.enter_context(log.open("w")),
                stderr=subprocess.STDOUT,
            )
            stack.callback(_end, other, log)
        if number > 1:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus[0]
        yield


def _end(process: subprocess.Popen, log: Path) -> None:
    """Lets a process finish what it does; a run that is stopped saves first."""
    if sys.exc_info()[0]:
        process.terminate()
    if process.wait():
        print(f"a process of the study ended with status {process.returncode}: see {log}")
