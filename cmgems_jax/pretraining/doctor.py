"""Looks at everything that a run needs, before it is started: a table of what is well or not."""

import dataclasses
import importlib.metadata
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import jax
import numpy as np

from cmgems_jax import config_checks
from cmgems_jax.config import Config
from cmgems_jax.model import attention, hardware
from cmgems_jax.pretraining import checkpoints, faults, pretrained, run_inputs, steps, warm_start
from cmgems_jax.pretraining.steps import TrainState
from cmgems_jax.runtime import outputs, parallel, run_log
from cmgems_jax.windows import dataset, packing


@dataclasses.dataclass
class Finding:
    """The outcome of one check."""

    name: str
    is_well: bool
    text: str


def examine(
    config: Config,
    workdir: Path | str,
    *,
    read_source: warm_start.Reader = pretrained.load_masked_lm,
) -> list[Finding]:
    """Runs every check, the later ones as far as the earlier ones allow, and prints the table.

    Trains two steps on random bases, and saves and restores them in a temporary
    folder beside `workdir`, which need not exist. Nothing stays behind. `read_source` is
    that of `loop.pretrain`.
    """
    workdir = Path(workdir)
    findings: list[Finding] = []

    def check(name: str, look: Callable[[], str]) -> None:
        try:
            finding = Finding(name, True, look())
        except Exception as error:  # whatever it is, the user shall read it in the table
            text = str(error).strip() or type(error).__name__
            finding = Finding(name, False, text.replace("\n", " "))
        findings.append(finding)
        print(f"{'ok ' if finding.is_well else 'BAD'}  {name:<12}{finding.text}", flush=True)

    trained: list[TrainState] = []
    check("packages", _packages)
    check("devices", _devices)
    check("config", lambda: _config(config, workdir, read_source))
    check("attention", lambda: _attention(config))
    check("genome", lambda: _genome(config, workdir))
    check("pmi", lambda: _pmi(config, workdir))
    if all(finding.is_well for finding in findings):
        check("step", lambda: _step(config, trained))
    if trained:
        check("disk", lambda: _disk(config, workdir, trained[0]))
        check("checkpoint", lambda: _checkpoint(config, workdir, trained[0]))
    return findings


def _packages() -> str:
    """Returns the versions that matter."""
    return " ".join(f"{name}=={importlib.metadata.version(name)}" for name in run_log.PACKAGES)


def _devices() -> str:
    """Returns what jax sees."""
    device = jax.devices()[0]
    memory = (device.memory_stats() or {}).get("bytes_limit")
    text = f"{jax.device_count()} x {device.device_kind} ({jax.default_backend()})"
    return text + (f", {memory / 2**30:.1f} GiB each" if memory else "")


def _attention(config: Config) -> str:
    """Returns which form of attention runs; a fused kernel is tried on the device."""
    if config.model.attention_dropout:
        return (
            f"plain in training: model.attention_dropout={config.model.attention_dropout} "
            "drops weights, which no fused kernel does"
        )
    way = hardware.resolve(config.model).attention
    if way not in (attention.CUDNN, attention.SPLASH):
        return way
    return f"{way}: agrees with the plain form here, and windows of a row do not meet"


def _config(config: Config, workdir: Path, read_source: warm_start.Reader) -> str:
    """Returns the shape of one step, and whose parameters are the first ones."""
    parallel.check_devices()
    config_checks.validate(config, num_devices=jax.device_count())
    _, source = warm_start.prepare(config, workdir, read_source)
    part = config.batch_size // config.accumulation_steps // jax.device_count()
    return (
        f"{config.batch_size} rows of {config.data.num_tokens} positions per step, "
        f"{part} at a time on each device"
    ) + (f"; begins with the parameters of {source.name}" if source else "")


def _genome(config: Config, workdir: Path) -> str:
    """Returns where the windows come from."""
    folder = config.data_dir(workdir)
    if dataset.is_prepared(config, folder):
        run_inputs.check_windows(workdir, folder)
        return (
            f"prepared in {folder}: {len(dataset.open_split(folder, 'train')):,} training windows"
        )
    if config.data.fasta:
        return f"{config.data.fasta}: will be prepared in {folder}"
    return f"a synthetic genome of {config.data.synthetic_bases:,} bases"


def _pmi(config: Config, workdir: Path) -> str:
    """Returns where the ranks come from."""
    if config.pmi_source == "corpus" and run_inputs.read_ranks(workdir) is None:
        return f"{config.tokens.k}-mers will be counted in the corpus"
    run_inputs.ranks(config, workdir)
    return f"ranks of {4**config.tokens.k:,} {config.tokens.k}-mers from {config.pmi_source}"


def _step(config: Config, trained: list[TrainState]) -> str:
    """Trains two steps on full rows of random bases; `trained` gets the state."""
    ranks_V = np.arange(1, 4**config.tokens.k + 1, dtype=np.int32)
    state, train, _ = steps.make(config, ranks_V)
    num_rows = config.batch_size // jax.process_count()
    batch = parallel.shard(packing.full_rows(config, num_rows), config.accumulation_steps)
    seconds, history = [], []
    with faults.memory_explained(config):
        for _ in range(2):
            start = time.perf_counter()
            state, metrics = train(state, batch)
            history.append(jax.device_get(metrics))
            seconds.append(time.perf_counter() - start)
    packed = packing.pack(np.full(num_rows, config.window_bases), config)
    faults.refuse_non_finite(history, 1, config, packed)
    trained.append(state)
    whole = timedelta(seconds=round(seconds[1] * config.num_steps))
    return (
        f"compiled in {seconds[0]:.1f} s; {seconds[1]:.3f} s per step on random bases, so "
        f"{config.num_steps:,} steps take about {whole}"
    )


def _disk(config: Config, workdir: Path, state: TrainState) -> str:
    """Returns the size of a checkpoint."""
    size = faults.check_disk(workdir, state, config)
    return f"room for {config.keep_checkpoints + 1} checkpoints of {size / 2**20:,.1f} MiB"


def _checkpoint(config: Config, workdir: Path, state: TrainState) -> str:
    """Saves, restores and compares a state beside the work folder."""
    if not parallel.is_first():
        return "left to process 0"
    folder = outputs.nearest_folder(workdir)
    start = time.perf_counter()
    with outputs.hidden_folder(folder / "doctor") as hidden:
        with checkpoints.opened(hidden, config) as manager:
            checkpoints.save(manager, state, config, wait=True)
            again, _ = checkpoints.restore(manager, int(state.step), state)
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(parallel.to_host(one), other)
    return f"saved and restored bit for bit in {folder}, {time.perf_counter() - start:.1f} s"
