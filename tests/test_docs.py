"""The documents name only tests, messages, files and fields that exist."""

import re
from pathlib import Path

import pytest

from cmgems_jax import config as config_lib

ROOT = Path(__file__).parents[1]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "faults.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| fault")
]


def source() -> str:
    """Returns the package's code with adjacent string literals joined and braces emptied."""
    code = "\n".join(path.read_text() for path in sorted((ROOT / "cmgems_jax").rglob("*.py")))
    joined = re.sub(r'"\s*\n\s*(?:\+ )?f?"', "", code)
    return re.sub(r"\{[^{}\n]*\}", "…", joined)


SOURCE = source()


def test_there_are_at_least_thirty_faults():
    assert len(ROWS) >= 30


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_faults_test_exists_and_its_message_stands_in_the_code(row):
    _, message, test = row
    file, _, name = test.partition("::")
    text = (ROOT / "tests" / file).read_text()
    assert not name or re.search(rf"^def {name}\(", text, re.MULTILINE), test
    for literal in re.findall(r"`([^`]+)`", message):
        for part in literal.split("…"):
            assert part in SOURCE, part


def test_every_config_field_that_the_readme_sets_exists():
    text = (ROOT / "README.md").read_text()
    fields = set(re.findall(r"--config\.([\w.]+)=", text))
    assert fields and fields <= set(config_lib.field_names())


def test_every_file_that_the_readme_names_exists():
    text = (ROOT / "README.md").read_text()
    for path in re.findall(r"`((?:configs|launch|docs|tests|benchmarks)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"-m ((?:launch|benchmarks)\.\w+)", text):
        assert (ROOT / f"{name.replace('.', '/')}.py").exists(), name
