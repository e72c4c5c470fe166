"""What "auto" of the model's settings means on the devices that a program is compiled for.

A program may be compiled for devices that are not there (plan.py), so nothing else
asks which kind of device there is.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax

from cmgems_jax.config import ModelConfig
from cmgems_jax.model import attention, attention_check, products


def platform_of(devices: Sequence[jax.Device] | None = None) -> str:
    """Returns "cpu", "gpu" or "tpu".

    Args:
      devices: of the mesh that a program runs on; None = those at hand.
    """
    name = (devices or jax.devices())[0].platform
    return "gpu" if name in ("cuda", "rocm") else name


def resolve(config: ModelConfig, platform: str | None = None) -> ModelConfig:
    """Returns the config with what to compute in, and how, on a platform.

    Args:
      config: of a model; one that is resolved stays as it is.
      platform: of `platform_of`; None = that of the devices at hand, on which a fused
        kernel is tried before it is chosen.

    Returns:
      A config whose dtype and matmul are not "auto", and whose attention is a way of
      `attention.attend`.
    """
    kind = platform or platform_of()
    dtype, matmul, way = config.dtype, config.matmul, config.attention
    if dtype == "auto":
        dtype = "float32" if kind == "cpu" else "bfloat16"
    if matmul == "auto":
        is_faster = kind == "cpu" and products.is_faster_here()
        matmul = products.BFLOAT16 if is_faster else products.FLOAT32
    if dtype != "float32":
        matmul = products.FLOAT32  # nothing of float32 is left to round
    if way in ("auto", "fused"):
        way = attention.FUSED[kind]
        if platform is None and way != attention.BY_HEADS:
            way = _working(way)
    return dataclasses.replace(config, dtype=dtype, matmul=matmul, attention=way)


@functools.cache
def _working(way: str) -> str:
    """Returns the way of attention, or the plain one, and says why."""
    reason = attention_check.fault(way)
    if reason:
        print(f"attention: {way} {reason}; the plain form runs instead", flush=True)
    return attention.PLAIN if reason else way
