"""Makes one HTML page of studies, runs, evaluations and PMI tables; it needs no other file.

    python -m launch.report --input=runs/strategy --output=report.html
    python -m launch.report --input=runs/demo,runs/pmi --output=report.html

Inputs are folders of launch.study, launch.pretrain (with the evaluation in it),
launch.evaluate and launch.count_pmi. Figures are SVG; the page is for
screens large and small, light and dark, and for paper.
"""

from pathlib import Path

from absl import flags

from cmgems_jax.genome import input_files
from cmgems_jax.runtime import command

_INPUT = flags.DEFINE_multi_string("input", None, "Folders, with commas or by more flags.")
_OUTPUT = flags.DEFINE_string("output", None, "The .html file.")
flags.mark_flags_as_required(["input", "output"])


def main() -> None:
    """Runs the command."""
    from cmgems_jax.report import page

    folders = [Path(path) for given in _INPUT.value for path in input_files.expand_list(given)]
    page.write(folders, Path(_OUTPUT.value))


if __name__ == "__main__":
    command.run(main)
