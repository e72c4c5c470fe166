"""A run is bound to the content of its windows and of its ranks, not to where they lie."""

from pathlib import Path

import numpy as np
import pytest

from cmgems_jax import config as config_lib
from cmgems_jax import config_checks
from cmgems_jax.config import Config, CurriculumConfig, PmiConfig
from cmgems_jax.errors import InputError
from cmgems_jax.pmi import table as pmi_table
from cmgems_jax.pretraining import checkpoints, run_inputs
from cmgems_jax.runtime import outputs
from cmgems_jax.windows import dataset, synthetic_genome
from tests.helpers import small_config


@pytest.fixture
def begun(tmp_path) -> tuple[Config, Path]:
    """A run's config and folder as its first start leaves them; k=3, ranks of the corpus."""
    synthetic_genome.write_genome(tmp_path / "a.fa", 30_000, seed=1)
    config, workdir = small_config(tmp_path / "a.fa"), tmp_path / "run"
    config_checks.validate(config)
    dataset.prepare(config, workdir / "data")
    ranks_V = run_inputs.ranks(config, workdir)
    run_inputs.write(workdir, workdir / "data", ranks_V)
    outputs.write_json(workdir / "config.json", config_lib.to_dict(config))
    return config, workdir


def test_a_run_needs_its_genome_no_more_once_windows_and_ranks_are_there(begun, tmp_path):
    config, workdir = begun
    before_V = run_inputs.ranks(config, workdir)
    (tmp_path / "a.fa").rename(tmp_path / "b.fa")
    for fasta in (tmp_path / "a.fa", tmp_path / "b.fa", ""):
        config.data.fasta = str(fasta)
        checkpoints.refuse_other_run(workdir, config)
        dataset.prepare(config, workdir / "data")
        run_inputs.check_windows(workdir, workdir / "data")
        np.testing.assert_array_equal(run_inputs.ranks(config, workdir), before_V)


def test_another_data_set_is_refused_and_a_copy_is_not(begun, tmp_path):
    config, workdir = begun
    dataset.prepare(config, tmp_path / "copy")
    run_inputs.check_windows(workdir, tmp_path / "copy")
    synthetic_genome.write_genome(tmp_path / "c.fa", 30_000, seed=2)
    config.data.fasta = str(tmp_path / "c.fa")
    dataset.prepare(config, tmp_path / "other")
    with pytest.raises(InputError, match="other: not the data set that the run in .* content"):
        run_inputs.check_windows(workdir, tmp_path / "other")


def test_a_run_of_an_earlier_version_goes_on(begun):
    _, workdir = begun
    (workdir / run_inputs.NAME).unlink()
    run_inputs.check_windows(workdir, workdir / "data")


def test_a_pmi_table_is_its_ranks_wherever_it_lies(begun, tmp_path, capsys):
    config, workdir = begun
    tables = []
    for number, name in enumerate(("one.csv", "two.csv")):
        rng = np.random.default_rng(number)
        counts = [rng.integers(200, 900, 4**n) for n in (1, 2, 3)]
        tables.append(pmi_table.make(counts, 3))
        pmi_table.write(tables[-1], tmp_path / name)
    config.pmi.table = str(tmp_path / "one.csv")
    run_inputs.write(workdir, workdir / "data", tables[0].rank)
    outputs.write_json(workdir / "config.json", config_lib.to_dict(config))
    (tmp_path / "one.csv").rename(tmp_path / "moved.csv")
    for name, notes in (("moved.csv", 0), ("one.csv", 1)):
        config.pmi.table = str(tmp_path / name)
        checkpoints.refuse_other_run(workdir, config)
        np.testing.assert_array_equal(run_inputs.ranks(config, workdir), tables[0].rank)
        assert capsys.readouterr().out.count("note: ") == notes
    config.pmi.table = str(tmp_path / "two.csv")
    with pytest.raises(InputError, match="two.csv: gives other ranks than those"):
        run_inputs.ranks(config, workdir)
    config.pmi.table = "corpus"
    with pytest.raises(InputError, match="pmi.table: 'a file' before, 'corpus' now"):
        checkpoints.refuse_other_run(workdir, config)


@pytest.mark.parametrize(
    ("strategy", "table", "own", "expected"),
    [
        ("genemask", "auto", "grch38", "pmi: GRCh38's ranks (k=6); --config.pmi.table=corpus"),
        ("global", "auto", "another", "warning: pmi: the training windows rank their 6-mers"),
        ("genemask", "corpus", "another", "pmi: your genome's own ranks (k=6)"),
        ("random_spans", "auto", "another", ""),
    ],
)
def test_a_run_tells_its_ranks_and_warns_where_the_windows_rank_otherwise(
    tmp_path, capsys, strategy, table, own, expected
):
    """The windows' counts stand beside them: GRCh38's, or those in another order."""
    counts_V = pmi_table.grch38_counts()
    if own == "another":
        counts_V = np.random.default_rng(0).permutation(counts_V)
    np.save(tmp_path / dataset.SIXMERS_NAME, counts_V)
    config = Config(
        pmi=PmiConfig(table=table), curriculum=CurriculumConfig(name="fixed", strategy=strategy)
    )
    ranks_V = pmi_table.ranks_for(Config(), [])
    run_inputs.tell_ranks(config, tmp_path, ranks_V)
    printed = capsys.readouterr().out
    assert expected in printed and bool(printed) == bool(expected)
    assert ("warning" in printed) == (own == "another" and table == "auto" and bool(expected))
