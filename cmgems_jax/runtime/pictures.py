"""How all pictures look, files and the figures of the page alike."""

import textwrap

from matplotlib.axes import Axes

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
MAIN, OTHER, FAINT = PALETTE[0], PALETTE[3], "#8a8f98"
BASES = {"A": PALETTE[2], "C": PALETTE[0], "G": PALETTE[1], "T": PALETTE[3]}
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def wrapped(name: str, longest: int = 36) -> str:
    """Returns a name in lines of so many letters, that leave room for what it names."""
    return textwrap.fill(name, longest)


def name_lines(axes: Axes, names: list[str]) -> None:
    """Names the lines 0, 1, ... of a chart from its top."""
    axes.set_yticks(range(len(names)), [wrapped(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
