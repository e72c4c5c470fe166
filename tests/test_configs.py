"""Every shipped config works, and a wrong one is refused by name before any work starts."""

import dataclasses
import json
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cmgems_jax import config as config_lib
from cmgems_jax import config_checks
from cmgems_jax.config import (
    Config,
    CurriculumConfig,
    DataConfig,
    MaskingConfig,
    ModelConfig,
    OptimizerConfig,
    PmiConfig,
    TokensConfig,
)
from cmgems_jax.errors import InputError
from tests.helpers import ROOT, run_python, xla_flags

CONFIGS = sorted((ROOT / "configs").glob("[!_]*.py"))


def pretrain(
    *arguments: str, config: Path | str = "configs/demo.py"
) -> subprocess.CompletedProcess:
    """Runs the command in a process of its own, on one device."""
    return run_python(
        "-m", "launch.pretrain", f"--config={config}", *arguments, XLA_FLAGS=xla_flags(1)
    )


def elsewhere(
    folder: Path, module: str, *arguments: str, package: Path = ROOT
) -> subprocess.CompletedProcess:
    """Runs a module, or a program behind -c, in a folder that is not the repository's."""
    flag = ["-m"] if module != "-c" else []
    return run_python(*flag, module, *arguments, cwd=folder, PYTHONPATH=str(package))


@pytest.mark.parametrize("name", ["demo", "dnabert6", "logo6"])
def test_the_recipes_are_there(name):
    assert ROOT / "configs" / f"{name}.py" in CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_validates(path):
    config_checks.validate(config_lib.load(path.stem))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_says_how_to_run_it(path):
    command = f"python -m launch.pretrain --config=configs/{path.name} --workdir="
    assert command in " ".join((runpy.run_path(str(path))["__doc__"] or "").split())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_survives_json(path):
    config = config_lib.load(path.stem)
    assert config_lib.from_dict(json.loads(json.dumps(config_lib.to_dict(config)))) == config


@pytest.mark.parametrize("name, value", config_lib.flatten(Config()).items())
def test_every_field_survives_json(name, value):
    changed = {bool: lambda v: not v, str: lambda v: v + "x"}.get(type(value), lambda v: v + 1)
    values = config_lib.to_dict(Config())
    *sections, leaf = name.split(".")
    section = values
    for part in sections:
        section = section[part]
    section[leaf] = changed(value)
    config = config_lib.from_dict(json.loads(json.dumps(values)))
    assert config_lib.flatten(config) == config_lib.flatten(Config()) | {name: changed(value)}


def test_the_defaults_are_those_of_the_paper():
    """SPEC section 6: DNABERT's sizes and the pretraining recipe, by hand."""
    config = Config()
    config_checks.validate(config)
    assert (config.num_steps, config.eval_every) == (10_000, 500)
    # 250 windows a step: a window takes 3/4 of a row on average, and 1 % of a row is padding.
    assert config.batch_size * 0.99 / 0.75 == pytest.approx(250, rel=0.02)
    assert dataclasses.astuple(config.model)[:5] == (12, 768, 12, 3072, 512)
    optimizer = config.optimizer
    assert (optimizer.peak_lr, optimizer.warmup_steps, optimizer.weight_decay) == (4e-4, 500, 0.01)
    assert (optimizer.beta1, optimizer.beta2, optimizer.eps) == (0.9, 0.98, 1e-6)
    assert (config.masking.budget, config.pmi.min_count) == (0.15, 101)
    assert (config.curriculum.name, config.curriculum.threshold) == ("cm_gems", 1.0)
    assert config.window_bases == 515


@pytest.mark.parametrize(
    "values, message",
    [
        ({"num_step": 1}, r"unknown field 'num_step'.*Did you mean 'num_steps'\?"),
        (
            {"model": {"num_layer": 3}},
            r"mine\.json: unknown field 'model\.num_layer': ModelConfig has no 'num_layer'\. "
            r"Did you mean 'num_layers'\?",
        ),
        ({"masking": {"zzzzzzzz": 1}}, r"unknown field 'masking\.zzzzzzzz': .*'zzzzzzzz'\.$"),
    ],
)
def test_an_unknown_field_is_named_with_the_nearest_one(values, message):
    with pytest.raises(InputError, match=message):
        config_lib.from_dict(values, source="mine.json")


@pytest.mark.parametrize(
    "config, message",
    [
        (Config(num_steps="10"), "num_steps='10': expected int, found str"),
        (Config(num_steps=10.0), "num_steps=10.0: expected int, found float"),
        (Config(seed=True), "seed=True: expected int, found bool"),
        (Config(data=DataConfig(fasta=None)), "data.fasta=None: expected str, found NoneType"),
        (
            Config(optimizer=OptimizerConfig(peak_lr="1e-3")),
            "optimizer.peak_lr='1e-3': expected float, found str",
        ),
        (
            Config(model=ModelConfig(dropout=True)),
            "model.dropout=True: expected float, found bool",
        ),
    ],
)
def test_a_wrong_type_is_named(config, message):
    with pytest.raises(InputError, match=re.escape(message)):
        config_checks.validate(config)


def test_an_int_is_a_float():
    config_checks.validate(Config(optimizer=OptimizerConfig(clip_norm=1)))


# One for each rule: the settings, then what the message must name: field, value, remedy.
REFUSED = {
    "choice": (
        Config(masking=MaskingConfig(corruption="tokens")),
        ["masking.corruption='tokens'", "expected one of token, run", "Did you mean 'token'?"],
    ),
    "positions": (
        Config(data=DataConfig(num_tokens=32_766)),
        ["data.num_tokens=32766", "expected 8 to 32765"],
    ),
    "range below": (Config(batch_size=0), ["batch_size=0", "expected 1 or more"]),
    "range above": (
        Config(masking=MaskingConfig(budget=1.5)),
        ["masking.budget=1.5", "expected 0.001 to 0.9"],
    ),
    "nan": (Config(optimizer=OptimizerConfig(peak_lr=float("nan"))), ["optimizer.peak_lr=nan"]),
    "k too large": (
        Config(tokens=TokensConfig(k=9), pmi=PmiConfig(table="corpus")),
        ["tokens.k=9", "expected 3 to 8"],
    ),
    "heads": (
        Config(model=ModelConfig(hidden_size=100, num_heads=12)),
        ["model.hidden_size=100", "multiple of", "model.num_heads=12"],
    ),
    "fused attention with dropped weights": (
        Config(model=ModelConfig(attention="fused")),
        ["model.attention='fused'", "model.attention_dropout=0.1", "model.attention=auto"],
    ),
    "stride over k": (
        Config(tokens=TokensConfig(k=3, stride=4), pmi=PmiConfig(table="corpus")),
        ["tokens.stride=4", "at most tokens.k=3"],
    ),
    "window over positions": (
        Config(data=DataConfig(num_tokens=600)),
        ["data.num_tokens=600", "model.num_positions=512", "lower the first or raise the second"],
    ),
    "accumulation": (
        Config(batch_size=250, accumulation_steps=3),
        ["batch_size=250", "multiple of", "accumulation_steps=3"],
    ),
    "embedded ranks of another k": (
        Config(tokens=TokensConfig(k=4), pmi=PmiConfig(table="grch38")),
        ["pmi.table='grch38'", "tokens.k=4", "pmi.table=corpus"],
    ),
    "warm-up over the run": (
        Config(num_steps=400, eval_every=50, optimizer=OptimizerConfig(warmup_steps=400)),
        ["optimizer.warmup_steps=400", "less than", "num_steps=400"],
    ),
    "no evaluation": (
        Config(eval_every=0),
        ["curriculum.name='cm_gems'", "never switch", "eval_every=0", "curriculum.name=fixed"],
    ),
    "one evaluation": (
        Config(eval_every=5_000),
        ["never switch", "eval_every=5000", "num_steps=10000", "between 1 and 4999"],
    ),
    "hard_to_easy without evaluation": (
        Config(eval_every=0, curriculum=CurriculumConfig(name="hard_to_easy")),
        ["curriculum.name='hard_to_easy'", "never switch", "eval_every"],
    ),
    "stages of a curriculum without any": (
        Config(curriculum=CurriculumConfig(name="fixed", budget_schedule="by_stage")),
        ["budget_schedule=by_stage", "no effect", "curriculum.name=fixed", "masking.budget"],
    ),
    "a hard budget without its schedule": (
        Config(curriculum=CurriculumConfig(hard_budget=0.3)),
        ["curriculum.hard_budget=0.3", "no effect", "budget_schedule=by_stage", "0.15"],
    ),
    "a budget that cannot grow": (
        Config(curriculum=CurriculumConfig(budget_schedule="adaptive", budget_max=0.15)),
        ["budget_schedule=adaptive", "no effect", "masking.budget=0.15", "larger maximum"],
    ),
    "an adaptive budget without evaluations": (
        Config(eval_every=0, curriculum=CurriculumConfig(name="fixed", budget_schedule="adaptive")),
        ["budget_schedule='adaptive'", "never raise", "eval_every=0", "budget_schedule=constant"],
    ),
    "bases hidden beyond all context": (
        Config(masking=MaskingConfig(objective="base", budget=0.6)),
        ["masking.objective=base", "0.6", "at most 0.5", "--config.masking.budget=0.5"],
    ),
    "a threshold of perplexity for nats": (
        Config(curriculum=CurriculumConfig(watch="nats_per_base")),
        ["curriculum.watch=nats_per_base", "curriculum.threshold=1", "1.386", "0.002"],
    ),
    "watched without a switch": (
        Config(curriculum=CurriculumConfig(name="fixed", watch="nats_per_base")),
        ["curriculum.watch=nats_per_base", "no effect", "curriculum.name=fixed"],
    ),
    "threshold of zero": (
        Config(curriculum=CurriculumConfig(threshold=0.0)),
        ["curriculum.threshold=0.0", "never switch", "more than 0", "curriculum.name=fixed"],
    ),
}


@pytest.mark.parametrize("config, parts", REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_refused_with_field_value_and_remedy(config, parts):
    with pytest.raises(InputError) as raised:
        config_checks.validate(config)
    message = str(raised.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message


def test_all_that_is_wrong_is_told_at_once_and_the_flags_told_would_do():
    """A trial of few steps, on a config for many; a value that is wrong by itself beside it."""
    config = Config(num_steps=20, batch_size=250, accumulation_steps=3)
    config.model.num_heads, config.masking.budget = 0, 2.0
    with pytest.raises(InputError) as raised:
        config_checks.validate(config, num_devices=4)
    first, *told, flags = str(raised.value).split("\n  ")
    assert first == "5 settings cannot work:"
    assert {text.partition("=")[0] for text in told} == {
        "masking.budget", "model.num_heads", "batch_size", "optimizer.warmup_steps",
        "curriculum.name",
    }  # fmt: skip
    values = dict(re.findall(r"--config\.([\w.]+)=(\d+)", flags))
    assert values.keys() == {"batch_size", "optimizer.warmup_steps", "eval_every"}
    mended = {name: int(value) for name, value in values.items()}
    wrong = {"model.num_heads": 12, "masking.budget": 0.15}
    config_checks.validate(config_lib.replace(config, mended | wrong), num_devices=4)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 5, 31, 33])
def test_the_flags_that_are_told_would_do_for_any_number_of_steps(num_steps):
    config = Config(num_steps=num_steps)
    with pytest.raises(InputError) as raised:
        config_checks.validate(config)
    values = dict(re.findall(r"--config\.([\w.]+)=(\w+)", str(raised.value)))
    typed = {name: int(value) if value.isdecimal() else value for name, value in values.items()}
    config_checks.validate(config_lib.replace(config, typed))


@pytest.mark.parametrize(
    "config",
    [
        Config(eval_every=4_999),
        Config(eval_every=0, curriculum=CurriculumConfig(name="fixed")),
        Config(eval_every=0, curriculum=CurriculumConfig(name="cm_step")),
        Config(tokens=TokensConfig(k=3, stride=3)),
        Config(tokens=TokensConfig(k=8)),
    ],
    ids=["two evaluations", "fixed", "cm_step", "codons", "k=8"],
)
def test_what_can_work_is_not_refused(config):
    config_checks.validate(config)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config.model.num_layer=3"], "Did you mean 'model.num_layers'?"),
        (["--config.model.num_layers=three"], "num_layers"),
        (["--config.batch_size=0"], "batch_size=0: expected 1 or more"),
        (["--workdri=runs/a"], "workdri"),
        (["extra"], "extra"),
    ],
    ids=["unknown field", "wrong type", "out of range", "unknown flag", "stray argument"],
)
def test_the_command_answers_bad_input_with_one_line_and_status_2(arguments, message, tmp_path):
    workdir = tmp_path / "run"
    result = pretrain(*arguments, f"--workdir={workdir}")
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0], result.stderr
    assert "Traceback" not in result.stderr
    assert not workdir.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config=configs/logo.py"],
        ["-config", "configs/logo.py"],
        ["--config", "configs/logo.py", "--config.num_steps=3"],
        ["-config=configs/logo.py", "-config.no_field=3"],
    ],
    ids=" ".join,
)
def test_a_missing_config_file_is_no_such_file_in_every_form(arguments, tmp_path):
    """With the folder in which it was looked for, and the recipe that may be meant."""
    result = elsewhere(tmp_path, "launch.prepare_data", "--data_dir=data", *arguments)
    assert result.returncode == 2
    assert result.stderr == (
        f"error: --config=configs/logo.py: no such file; the current folder is {tmp_path}. Expected"
        " a .py file, or one of demo, dnabert6, logo6, nano6. Did you mean 'logo6'?\n"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (", "SyntaxError: '(' was never closed"),
        ("def get_config():\n    return open('nowhere')", "line 2: FileNotFoundError: "),
        ("def get_config():\n    return 3", "get_config() returns cmgems_jax.config.Config"),
        ("seed = 3", "get_config() returns cmgems_jax.config.Config"),
    ],
    ids=["no Python", "another file that is missing", "no Config", "no get_config"],
)
def test_what_a_config_file_does_wrong_is_said_with_its_line(text, message, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(text)
    for flag in ("config", "preset"):
        with pytest.raises(InputError) as raised:
            config_lib.load(str(path), flag=flag)
        assert str(raised.value).startswith(f"--{flag}={path}: ") and message in str(raised.value)


def test_all_flags_that_are_missing_are_named_in_one_line(tmp_path):
    result = elsewhere(tmp_path, "launch.study", "--output=x")
    assert result.returncode == 2
    assert result.stderr == "error: --study, --fasta: required, and not given (see --help)\n"


def test_an_unknown_field_is_named_where_the_config_is_a_default_too(tmp_path):
    result = elsewhere(tmp_path, "launch.doctor", "--config.num_step=3")
    assert result.returncode == 2
    assert result.stderr == (
        "error: --config.num_step: no such config field. Did you mean 'num_steps'?\n"
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with what a wheel of this repository puts into site-packages."""
    pytest.importorskip("setuptools", minversion="77", reason="no setuptools to make a wheel with")
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("cmgems_jax", "configs", "launch", "benchmarks", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index"]
        + ["--quiet", f"--wheel-dir={folder}", str(folder / "source")],
        check=True,
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    shutil.rmtree(folder / "source")
    return folder / "site"


def test_an_installed_package_has_the_recipes_by_name_in_any_folder(installed, tmp_path):
    assert sorted(path.name for path in (installed / "configs").iterdir()) == sorted(
        path.name for path in CONFIGS
    )
    assert not (installed / "tests").exists() and not (installed / "benchmarks").exists()
    # A field that is out of range: the recipe was read, and nothing is computed.
    arguments = ["--config=logo6", "--config.batch_size=-1", "--data_dir=data"]
    result = elsewhere(tmp_path, "launch.prepare_data", *arguments, package=installed)
    assert (result.returncode, result.stderr) == (2, "error: batch_size=-1: expected 1 or more\n")
    program = "from cmgems_jax import config; print(config.__file__, config.load('logo6'))"
    result = elsewhere(tmp_path, "-c", program, package=installed)
    assert result.stdout == (
        f"{installed / 'cmgems_jax' / 'config.py'} {config_lib.load('configs/logo6.py')}\n"
    )


def test_ctrl_c_outside_the_loop_ends_with_one_line_and_status_130():
    program = (
        "import os, signal\nfrom cmgems_jax.runtime import command\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a job may inherit 'ignore'\n"
        "command.run(lambda: os.kill(os.getpid(), signal.SIGINT))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 130
    assert result.stderr == (
        "error: interrupted; the same command resumes from what is saved, or begins again\n"
    )


def test_an_unknown_field_in_a_config_file_is_named(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from cmgems_jax.config import Config\n\n\n"
        "def get_config():\n    return Config(num_step=3)\n"
    )
    result = pretrain(f"--workdir={tmp_path / 'run'}", config=path)
    assert result.returncode == 2, result.stderr
    assert "error: " in result.stderr and "num_step" in result.stderr
    assert "Did you mean 'num_steps'?" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_field_of_an_earlier_name_is_read_from_a_runs_config_and_named_on_the_command_line(
    tmp_path,
):
    values = config_lib.to_dict(Config())
    values["data"]["windows_a_row"] = values["data"].pop("windows_per_row") + 1
    assert config_lib.from_dict(values).data.windows_per_row == Config().data.windows_per_row + 1
    done = elsewhere(
        tmp_path, "launch.doctor", "--config=logo6", "--workdir=x", "--config.data.windows_a_row=3"
    )
    assert done.returncode == 2
    assert "Did you mean 'data.windows_per_row'?" in done.stderr
