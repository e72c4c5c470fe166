"""Says what a run would be on a machine that need not be there: memory, time, kernels.

    python -m launch.plan --config=configs/dnabert6.py --target=v5e:4x4
    python -m launch.plan --config=configs/logo6.py --target=h100:8 --output=plan.json

Compiles the train and evaluation programs for the target, TPUs (v4, v5e, v5p, v6e, with their
topology) or GPUs (h100, h200, a100, l4, with :8 for eight of them), and runs nothing.
Needs the compilers of requirements-plan.txt; `--target=here` needs none.
"""

import dataclasses
from pathlib import Path

from absl import flags

from cmgems_jax.runtime import command

_CONFIG = command.define_config()
_TARGET = flags.DEFINE_string("target", None, "v5e:4x4, v5p:2x2x1, h100, h100:8, here, ...")
_OUTPUT = flags.DEFINE_string("output", "", "JSON file of the same; none: only printed.")
_SEARCHES = flags.DEFINE_integer(
    "searches", 2, "Compilations, at most, to find the largest batch; 0: do not look.", 0
)
flags.mark_flags_as_required(["config", "target"])


def main() -> None:
    """Runs the command."""
    import jax

    from cmgems_jax.plan import plan
    from cmgems_jax.plan import targets as plan_targets
    from cmgems_jax.runtime import outputs

    if _TARGET.value != plan_targets.HERE:
        jax.config.update("jax_platforms", "cpu")  # shapes are computed here, and nothing else
    target = plan_targets.find(_TARGET.value)
    made = plan.make(_CONFIG.value, target, searches=_SEARCHES.value)
    if _OUTPUT.value:
        outputs.write_json(Path(_OUTPUT.value), dataclasses.asdict(made))


if __name__ == "__main__":
    command.run(main)
