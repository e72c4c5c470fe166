"""The import direction of the package, and that importing it does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "cmgems_jax"
MAX_LAUNCH_LINES = 60

# In reading order: a module imports only from modules above its own line.
LAYERS = (
    # layer 0: no arrays on a device
    (
        "errors",
        "roll_call",
        "vocabulary",
        "config",
        "config_checks",
        "genome",
        "outputs",
        "beam_run",
        "command",
    ),
    # layer 1: the method, one concept a module
    (
        "pmi",
        "pmi_table",
        "corpus",
        "beam_counts",
        "synthetic",
        "ranking",
        "masking",
        "corruption",
        "curriculum",
        "attention",
        "attention_check",
        "hardware",
        "packing",
        "masked_rows",
        "initial_values",
        "bert",
        "hlo",
        "plan_targets",
        "optimizer",
        "parallel",
    ),
    # layer 2: files, and the compiled step
    (
        "data.cutting",
        "data.window_files",
        "data.windows",
        "data.beam_windows",
        "data.batches",
        "data.task_files",
        "data.task_store",
        "data.task_folder",
        "data.task_table",
        "data.tasks",
        "synthetic_task",
        "steps",
        "checkpoints",
        "compile_cache",
        "downstream.pretrained",
        "downstream.metrics",
        "run_log",
        "progress",
        "run_lock",
        "faults",
        "signals",
    ),
    # layer 3: loops
    (
        "curves",
        "pmi_report",
        "plan",
        "doctor",
        "pretrain",
        "downstream.recipes",
        "downstream.position_limit",
        "downstream.side_by_side",
        "downstream.subspace",
        "downstream.draw_programs",
        "downstream.classifier",
        "downstream.finetune",
        "downstream.train_classifier",
        "downstream.intrinsic",
        "downstream.probe",
        "downstream.baselines",
        "downstream.methods",
        "downstream.evaluation_report",
        "downstream.evaluate",
        "downstream.sliding",
        "downstream.predict",
        "downstream.embed",
        "downstream.attribution",
        "downstream.contrast",
        "downstream.enrichment",
        "downstream.motifs",
        "downstream.motif_figures",
        "downstream.motif_report",
        "huggingface.names",
        "huggingface.tokenizer",
        "huggingface.card",
        "huggingface.export",
        "huggingface.load",
        "huggingface.hub",
    ),
    # layer 4: many runs
    (
        "studies.arms",
        "studies.statistics",
        "studies.masks",
        "studies.runs",
        "studies.reuse",
        "studies.study_report",
        "studies.study",
        "report.svg",
        "report.figures",
        "report.page",
    ),
)
MODULES = tuple(module for layer in LAYERS for module in layer)


def module_paths() -> dict[str, Path]:
    """Returns {"data.windows": path, ...}, every module but the __init__ files."""
    folder = ROOT / PACKAGE
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts): path
        for path in sorted(folder.rglob("*.py"))
        if path.name != "__init__.py"
    }


def imported_modules(source: str) -> set[str]:
    """Returns the package's modules that the source imports, anywhere in it, by dotted name."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write {PACKAGE}.x"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    inside = {name.removeprefix(f"{PACKAGE}.") for name in names if name.startswith(f"{PACKAGE}.")}
    return {_longest_module(name) for name in inside if not name.startswith("__")}


def _longest_module(name: str) -> str:
    """Returns the module in `errors.InputError` or `data.windows.read`."""
    known = {*MODULES, *module_paths()}
    while name not in known and "." in name:
        name = name.rpartition(".")[0]
    return name


def test_every_module_has_a_place_in_the_layers():
    unlisted = sorted(set(module_paths()) - set(MODULES))
    assert not unlisted, (
        f"{', '.join(unlisted)}: not in LAYERS of {Path(__file__).name}; add each below the "
        "modules that it imports and above those that import it"
    )


@pytest.mark.parametrize("module", module_paths())
def test_a_module_imports_only_from_above_its_own_line(module):
    if module not in MODULES:
        pytest.skip("reported by test_every_module_has_a_place_in_the_layers")
    above = MODULES[: MODULES.index(module)]
    imported = imported_modules(module_paths()[module].read_text())
    wrong = sorted(imported - set(above))
    assert not wrong, f"{module} imports {', '.join(wrong)}, which stands below it in LAYERS"


def test_an_import_inside_a_function_counts_too():
    assert imported_modules("def f():\n    from cmgems_jax.steps import make\n") == {"steps"}
    assert imported_modules("import cmgems_jax.data.windows as w") == {"data.windows"}
    assert imported_modules("from cmgems_jax import config as config_lib") == {"config"}


@pytest.mark.parametrize("path", sorted((ROOT / "launch").glob("*.py")), ids=lambda p: p.name)
def test_launch_files_are_short(path):
    num_lines = len(path.read_text().splitlines())
    assert num_lines <= MAX_LAUNCH_LINES, f"{path.name} has {num_lines} lines: move code down"


IMPORTS = [
    " ".join(f"{PACKAGE}.{module}" for module in module_paths()),
    # Each in a process of its own: they define the same flags.
    *(f"launch.{path.stem}" for path in sorted((ROOT / "launch").glob("*.py"))),
]


@pytest.mark.parametrize("names", IMPORTS, ids=["package", *IMPORTS[1:]])
def test_importing_starts_no_backend_and_no_tensorflow(names):
    program = f"""
import importlib, sys
for name in {names.split()!r}:
    importlib.import_module(name)
    started = "jax" in sys.modules and sys.modules["jax"]._src.xla_bridge.backends_are_initialized()
    assert not started, f"importing {{name}} starts a jax backend"
    assert "tensorflow" not in sys.modules, f"importing {{name}} imports tensorflow"
    assert "torch" not in sys.modules, f"importing {{name}} imports torch"
"""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
