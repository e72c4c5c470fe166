"""Compiled programs are kept in the work folder and found by the next process."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest

from cmgems_jax.pretraining import compile_cache
from tests.helpers import ROOT

# Compiles something that takes longer than what is not kept; prints how often it was found.
PROGRAM = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp
from cmgems_jax.pretraining import compile_cache

found = []
jax.monitoring.register_event_listener(
    lambda name, **_: found.append(name) if name == "/jax/compilation_cache/cache_hits" else None
)
compile_cache.use(Path(sys.argv[1]))

@jax.jit
def program(x):
    for step in range(150):
        x = jnp.sin(x @ x + step)
    return x

program(jnp.ones((16, 16))).block_until_ready()
print(len(found))
"""


def run(workdir: Path, **environment: str) -> str:
    """Returns what a fresh process prints; its warnings are errors."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(workdir)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
        env={"PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu", **environment},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_the_second_process_finds_what_the_first_has_compiled(tmp_path):
    assert run(tmp_path / "run") == "0"
    (folder,) = (tmp_path / "run" / compile_cache.FOLDER).iterdir()
    assert folder.name.startswith("cpu-") and any(folder.iterdir())
    assert int(run(tmp_path / "run")) >= 1


def test_a_damaged_entry_is_compiled_again(tmp_path):
    run(tmp_path / "run")
    entries = [path for path in (tmp_path / "run").rglob("*-cache") if path.is_file()]
    assert entries
    for path in entries:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "run")],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
        env={"PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_a_folder_that_the_user_chose_is_left(tmp_path):
    run(tmp_path / "run", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own"))
    assert not (tmp_path / "run").exists() and any((tmp_path / "own").iterdir())


@pytest.mark.parametrize("given", ["run", "run/checkpoints/20"])
def test_a_checkpoints_programs_lie_in_its_work_folder(tmp_path, monkeypatch, given):
    (tmp_path / "run" / "checkpoints" / "20").mkdir(parents=True)
    used = []
    monkeypatch.setattr(compile_cache, "use", used.append)
    compile_cache.use_of(tmp_path / given)
    assert used == [tmp_path / "run"]


def test_tests_keep_their_own_folder(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    if before is None:
        pytest.skip("pytest was told to keep no cache")
    compile_cache.use(tmp_path / "run")
    assert jax.config.jax_compilation_cache_dir == before
