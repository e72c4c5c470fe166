"""Four CPU devices, strict shapes and dtypes, compiled programs kept between runs."""

import os

NUM_DEVICES = 4
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
