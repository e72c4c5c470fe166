"""Every shipped config works, and a wrong one is refused by name before any work starts."""

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
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

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("[!_]*.py"))


def load(path: Path):
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pretrain(
    *arguments: str, config: Path | str = "configs/demo.py"
) -> subprocess.CompletedProcess:
    """Runs the command in a process of its own, on one device."""
    return subprocess.run(
        [sys.executable, "-m", "launch.pretrain", f"--config={config}", *arguments],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("name", ["demo", "dnabert6", "logo6"])
def test_the_recipes_are_there(name):
    assert ROOT / "configs" / f"{name}.py" in CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_validates(path):
    config = load(path).get_config()
    assert isinstance(config, Config)
    config_checks.validate(config)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_says_how_to_run_it(path):
    command = f"python -m launch.pretrain --config=configs/{path.name} --workdir="
    assert command in " ".join((load(path).__doc__ or "").split())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_survives_json(path):
    config = load(path).get_config()
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


def test_a_missing_config_file_is_named_with_overrides_too(tmp_path):
    for arguments in ([], ["--config.num_steps=3"]):
        result = pretrain(*arguments, f"--workdir={tmp_path / 'run'}", config="nowhere.py")
        assert result.returncode == 2, result.stderr
        assert result.stderr.startswith("error: --config=nowhere.py: ")
        assert result.stderr.count("\n") == 1


def test_ctrl_c_outside_the_loop_ends_with_one_line_and_status_130():
    program = (
        "import os, signal\nfrom cmgems_jax import command\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a job may inherit 'ignore'\n"
        "command.run(lambda: os.kill(os.getpid(), signal.SIGINT))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (130, "error: interrupted\n")


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
