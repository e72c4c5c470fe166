"""Matplotlib figures as SVG for a page: text stays text and takes the page's colour."""

import contextlib
import html
import io
import re

import matplotlib
from matplotlib.figure import Figure
from matplotlib.transforms import BboxBase

from cmgems_jax.runtime import pictures

_LARGEST = 1.35  # times its own size that a figure grows on a wide page, and its text with it
_MARGIN = 0.06  # inches around a panel
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
    """Returns the context of the page's style, in which figures are made and written."""
    return matplotlib.rc_context(_STYLE)


def markup(figure: Figure, description: str, box: BboxBase | None = None) -> str:
    """Returns a figure that was made within `style` as an <svg> element.

    The description is for those who do not see it. `box`, in inches, is the part that is
    shown; None = all.
    """
    file = io.StringIO()
    bare = {"Date": None, "Creator": None}
    figure.savefig(file, format="svg", metadata=bare, bbox_inches=box, pad_inches=0)
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    width = float(re.search(r'<svg[^>]* width="([\d.]+)pt"', text)[1])
    style = f'style="max-width: {_LARGEST * width:.0f}pt"'
    label = html.escape(description)
    return text.replace("<svg", f'<svg role="img" {style} aria-label="{label}"', 1)


def with_own_ids(text: str, name: str) -> str:
    """Returns an <svg> element whose ids begin with `name`, which no other of the page has."""
    return re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", text)


def panels(figure: Figure, description: str) -> list[str]:
    """Returns every panel of a figure as an element of its own, so that a phone can stack them."""
    figure.draw_without_rendering()  # lays it out
    figure.set_layout_engine("none")  # what is hidden below keeps its room
    to_inches = figure.dpi_scale_trans.inverted()
    every = figure.axes
    boxes = [axes.get_tightbbox().transformed(to_inches).padded(_MARGIN) for axes in every]
    parts = []
    for shown, box in zip(every, boxes, strict=True):
        for axes in every:
            axes.set_visible(axes is shown)
        title = shown.get_title(loc="left")
        parts.append(markup(figure, f"{description}: {title}", box))
    return parts
