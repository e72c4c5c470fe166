"""The notebook of docs/ runs from its first cell to its last, on any run."""

import os
from pathlib import Path

import nbclient
import nbformat

from tests.helpers import ROOT


def test_the_tour_runs_and_shows_its_pictures(unbroken):
    """On a run of the tests in place of the demo's."""
    notebook = nbformat.read(ROOT / "docs" / "tour.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].source.startswith("run = ")
    code[0].source = f"run = {str(unbroken[0])!r}"
    # A kernel of its own: with its own way to show pictures, and one device.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    del environment["MPLBACKEND"]
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute(env=environment)
    outputs = [output for cell in code for output in cell.outputs]
    texts = [output.get("text", "") for output in outputs]
    assert any("genemask\nGCTTGCAGTG" in text and "#" in text for text in texts)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2


def test_the_tour_names_no_machine():
    text = (ROOT / "docs" / "tour.ipynb").read_text()
    assert str(Path.home()) not in text and str(ROOT) not in text
