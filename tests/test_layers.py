"""The import direction of the package's rooms, and that importing them does nothing."""

import ast

import pytest

from tests.helpers import ROOT, run_python

PACKAGE = "cmgems_jax"
# In reading order: a room imports only from rooms above its own line.
ROOMS = """
    errors terminal genome known_motifs config config_checks runtime pmi windows masking model
    pretraining plan downstream.tasks downstream.finetuning downstream.evaluation
    downstream.inference downstream.motifs studies report huggingface beam face
""".split()
FILES = sorted((ROOT / PACKAGE).rglob("*.py"))
MAX_LAUNCH_LINES = 60


def room(module: str) -> str:
    """Returns the room of a dotted name below the package: its longest beginning that is one."""
    while module not in ROOMS and "." in module:
        module = module.rpartition(".")[0]
    return module


def imported_rooms(source: str) -> set[str]:
    """Returns the rooms that the source imports from, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write {PACKAGE}.x"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    inside = {name.removeprefix(f"{PACKAGE}.") for name in names if name.startswith(f"{PACKAGE}.")}
    return {room(name) for name in inside if not name.startswith("__")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / PACKAGE)))
def test_a_room_imports_only_from_rooms_above_it(path):
    own = room(".".join(path.relative_to(ROOT / PACKAGE).with_suffix("").parts))
    if own in ("__init__", "downstream"):  # the face, and a folder of rooms
        return
    above = {*ROOMS[: ROOMS.index(own) + 1]}
    wrong = sorted(imported_rooms(path.read_text()) - above)
    assert not wrong, f"{own} imports {', '.join(wrong)}, which stands below it in ROOMS"


def test_an_import_inside_a_function_counts_too():
    source = "def f():\n    from cmgems_jax.pretraining.steps import make\n"
    assert imported_rooms(source) == {"pretraining"}
    assert imported_rooms("import cmgems_jax.windows.dataset as d") == {"windows"}
    assert imported_rooms("from cmgems_jax import config as config_lib") == {"config"}


@pytest.mark.parametrize("path", sorted((ROOT / "launch").glob("*.py")), ids=lambda p: p.name)
def test_launch_files_are_short(path):
    num_lines = len(path.read_text().splitlines())
    assert num_lines <= MAX_LAUNCH_LINES, f"{path.name} has {num_lines} lines: move code down"


IMPORTS = """
import importlib, os, sys

def check(name):
    importlib.import_module(name)
    started = "jax" in sys.modules and sys.modules["jax"]._src.xla_bridge.backends_are_initialized()
    assert not started, f"importing {name} starts a jax backend"
    assert "tensorflow" not in sys.modules, f"importing {name} imports tensorflow"
    assert "torch" not in sys.modules, f"importing {name} imports torch"

package, launchers = (names.split() for names in sys.argv[1:])
for name in package:
    check(name)
for name in launchers:
    if not (child := os.fork()):  # each in a process of its own: they define the same flags
        check(name)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, name
"""


def test_importing_starts_no_backend_and_no_tensorflow():
    package = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES)
    launchers = (f"launch.{path.stem}" for path in sorted((ROOT / "launch").glob("*.py")))
    result = run_python("-c", IMPORTS, " ".join(package), " ".join(launchers))
    assert result.returncode == 0, result.stderr
