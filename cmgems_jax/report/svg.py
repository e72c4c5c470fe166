"""Matplotlib figures as SVG for a page: text stays text and takes the page's colour."""

import contextlib
import io
import re
from collections.abc import Iterator

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmgems_jax.pretraining import curves

_INK = "#010203"  # stands for the page's text colour, light or dark
FAINT = "#8a8f98"
# Told apart on white and on near-black, and by most who see colours differently.
PALETTE = (
    "#3b82c4",
    "#e0862e",
    "#2f9e77",
    "#d1495b",
    "#8e6bbf",
    "#a8791f",
    "#d873a8",
    "#5f9ea8",
    "#7d8590",
)
_STYLE = curves.STYLE | {
    "svg.fonttype": "none",
    "svg.hashsalt": "cmgems",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "grid.color": FAINT,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "figure.facecolor": "none",
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Holds the page's style while a figure is made and written."""
    with matplotlib.rc_context(_STYLE):
        yield


def markup(figure: Figure, name: str, description: str) -> str:
    """Returns a figure that was made within `style` as an <svg> element of a page.

    Args:
      figure: of matplotlib.
      name: unlike that of any other figure of the page; its ids begin with it.
      description: of what is seen, for those who do not see it.
    """
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def horizontal_lines(axes: Axes, names: list[str]) -> None:
    """Names the lines 0, 1, ... of a chart from its top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
