"""Four CPU devices, strict shapes and dtypes, compiled programs kept between runs."""

import os

NUM_DEVICES = 4
# Begun first, so that no process of `pytest -n` is left alone with one of them at the end.
SLOWEST = ("test_resume", "test_processes", "test_faults", "test_finetune", "test_steps")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_count = "--xla_force_host_platform_device_count"
if _count not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_count}={NUM_DEVICES}".strip()
os.environ.setdefault("MPLBACKEND", "agg")

import jax  # noqa: E402  (reads the variables above when it is imported)
import pytest  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    """Sets what must hold in every test."""
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    if hasattr(config, "cache"):  # absent with -p no:cacheprovider
        jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the slowest files first; the order within a file stays."""
    place = {name: number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(SLOWEST)))
