"""The documents name only tests, files and fields that exist."""

import re

import pytest

from cmgems_jax import config as config_lib
from tests.helpers import ROOT

ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "faults.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| fault")
]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_the_test_that_a_fault_names_exists(row):
    file, _, name = row[-1].partition("::")
    (path,) = (ROOT / "tests").rglob(file)  # no two test files share a name
    text = path.read_text()
    assert name and re.search(rf"^def {name}\(", text, re.MULTILINE), row[-1]


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_config_field_that_a_page_sets_exists(page):
    fields = set(re.findall(r"--config\.([\w.]+)=", page.read_text()))
    assert fields <= set(config_lib.field_names())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page):
    text = page.read_text()
    for path in re.findall(r"`((?:configs|launch|docs|tests|benchmarks)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"-m ((?:launch|benchmarks)\.\w+)", text):
        assert (ROOT / f"{name.replace('.', '/')}.py").exists(), name
