"""Matplotlib figures as SVG for a page: text stays text and takes the page's colour."""

import contextlib
import io
import re

import matplotlib
from matplotlib.figure import Figure

from cmgems_jax.runtime import pictures

_INK = "#010203"  # stands for the page's text colour, light or dark
_STYLE = pictures.STYLE | {
    "svg.fonttype": "none",
    "svg.hashsalt": "cmgems",
    "font.family": "sans-serif",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": pictures.FAINT,
    "axes.facecolor": "none",
    "grid.color": pictures.FAINT,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "figure.facecolor": "none",
}


def style() -> contextlib.AbstractContextManager:
    """Returns the context of the page's style, in which a figure is made and written."""
    return matplotlib.rc_context(_STYLE)


def markup(figure: Figure, name: str, description: str) -> str:
    """Returns a figure that was made within `style` as an <svg> element of a page.

    Its ids begin with `name`, which no other figure of the page has; the description is
    for those who do not see it.
    """
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
