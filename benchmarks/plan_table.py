"""Memory, rows and hours of a run by model, length and target, as launch.plan says.

    python -m benchmarks.plan_table --targets=v5e:2x2,h100 --models=LOGO --tokens=512

in the environment of requirements-plan.txt. Compiles the train and the evaluation program of
192 rows per step for every combination, runs none, and prints a line of a Markdown table for each
(docs/scaling.md). results/plan_table.json keeps them; later calls add to it.
"""

import dataclasses
import json

import jax
from absl import flags

from benchmarks import result, rows
from cmgems_jax.config import Config
from cmgems_jax.plan import plan
from cmgems_jax.plan import targets as plan_targets
from cmgems_jax.runtime import command

_TARGETS = flags.DEFINE_list("targets", ["v5e:2x2", "h100"], "As of launch.plan.")
_MODELS = flags.DEFINE_list("models", ["LOGO", "DNABERT-6", "24 x 1024"], "Which of the three.")
_TOKENS = flags.DEFINE_list("tokens", ["512", "2048"], "Positions per row.")
_REMATS = flags.DEFINE_list("remats", ["none"], "model.remat: none, dots, full.")
_ROWS = flags.DEFINE_integer("rows", 32, "Rows of 512 positions that a device takes at a time.", 1)
_SEARCHES = flags.DEFINE_integer("searches", 0, "Of launch.plan.", 0)
_HEADS = (
    *("target", "model", "positions", "remat", "rows at a time", "GB of a device", "fits"),
    *("most rows", "s per step", "share of the peak", "hours of 10,000 steps", "compiled in"),
)


def main() -> None:
    """Prints and keeps the table."""
    jax.config.update("jax_platforms", "cpu")  # shapes are computed here, and nothing else
    print(f"| {' | '.join(_HEADS)} |\n|{'---|' * len(_HEADS)}", flush=True)
    for name in _TARGETS.value:
        target = plan_targets.find(name)
        for model in _MODELS.value:
            for tokens in command.integers("tokens", _TOKENS.value):
                for remat in _REMATS.value:
                    _add(target, model, tokens, remat)


def _add(target: plan_targets.Target, model: str, tokens: int, remat: str) -> None:
    """Compiles one combination, prints its line and keeps it."""
    config = sized(rows.PRESETS[model](), len(target.devices), tokens, remat)
    made = plan.make(config, target, searches=_SEARCHES.value, say=lambda _: None)
    at_a_time = config.batch_size // (made.devices * config.accumulation_steps)
    seconds, share = made.seconds_per_step, None
    if seconds:
        share = plan.share_of_peak(config, target, seconds)
    used = sum(size for what, size in made.memory.items() if what != "device_bytes")
    cells = (
        *(target.name, model, f"{tokens:,}", remat, at_a_time, f"{used / 1e9:.2f}"),
        *("yes" if made.fits else "no", made.largest_batch_size or ""),
        *((f"{seconds:.3g}", f"{share:.0%}", f"{made.hours:.3g}") if seconds else ("", "", "")),
        f"{made.compile_seconds:.0f} s",
    )
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
    path = result.FOLDER / "plan_table.json"
    table = json.loads(path.read_text()) if path.exists() else {}
    name = f"{target.name}, {model}, {tokens}, {remat}, {at_a_time} rows"
    table[name] = dataclasses.asdict(made) | {"share_of_peak": share}
    path.write_text(json.dumps(dict(sorted(table.items())), indent=1) + "\n")


def sized(config: Config, num_devices: int, tokens: int, remat: str) -> Config:
    """Returns the config with rows of so many positions, in parts that --rows allows."""
    config.data.num_tokens, config.model.remat = tokens, remat
    config.model.num_positions = max(tokens, config.model.num_positions)
    most = max(1, _ROWS.value * 512 // tokens)
    of_device = config.batch_size // num_devices
    config.accumulation_steps = next(
        parts
        for parts in range(1, of_device + 1)
        if of_device % parts == 0 and of_device // parts <= most
    )
    return config


if __name__ == "__main__":
    command.run(main)
