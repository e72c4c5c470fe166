"""Four CPU devices, strict shapes and dtypes, compiled programs kept between runs."""

import os
import signal
import threading
from pathlib import Path

NUM_DEVICES = 4
LEAST_COMPILE_S = 0.1  # shorter programs are not kept
# Begun first, so that no process of `pytest -n` is left alone with one of them at the end.
SLOWEST = ("test_resume", "test_processes", "test_faults", "test_finetune", "test_steps")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")

import jax  # noqa: E402  (reads JAX_PLATFORMS when it is imported)
import pytest  # noqa: E402

from tests.helpers import xla_flags  # noqa: E402

os.environ.setdefault("XLA_FLAGS", xla_flags(NUM_DEVICES))  # read when a device is first used


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds what `bash launch/test.sh --thorough` passes on."""
    parser.addoption("--thorough", action="store_true", help="kill runs 20 times instead of 5")


@pytest.fixture(scope="session")
def num_kills(request: pytest.FixtureRequest) -> int:
    """How many times a run is killed by one signal."""
    return 20 if request.config.getoption("--thorough") else 5


def pytest_configure(config: pytest.Config) -> None:
    """Sets what must hold in every test."""
    if threading.current_thread() is threading.main_thread():
        # As Ctrl-C does, so that a test that is ended ends the processes that it has started.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    if hasattr(config, "cache"):  # absent with -p no:cacheprovider
        folder = str(config.cache.mkdir("jax"))
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_COMPILE_S)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder  # for the processes that tests start
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = str(LEAST_COMPILE_S)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the slowest files first; the order within a file stays."""
    place = {name: number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(SLOWEST)))


@pytest.fixture(scope="module", autouse=True)
def _no_programs_are_left():
    """Frees a file's compiled programs, which jax keeps for the life of the process.

    Each is a few hundred mappings of memory; a process that reaches Linux's 65,530 crashes.
    """
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def genome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small genome of several contigs."""
    from cmgems_jax.windows import synthetic_genome

    path = tmp_path_factory.mktemp("genome") / "small.fa"
    synthetic_genome.write_genome(path, 40_000, seed=1)
    return path


@pytest.fixture(scope="session")
def unbroken(genome: Path, tmp_path_factory: pytest.TempPathFactory):
    """A whole run of `small_config`, to read and to copy: its folder and last state."""
    from cmgems_jax.pretraining import loop as pretraining_loop
    from cmgems_jax.runtime import parallel
    from tests.helpers import small_config

    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    state = pretraining_loop.pretrain(small_config(genome), workdir)
    return workdir, parallel.to_host(state)
