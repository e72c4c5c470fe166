"""The doctor finds what a run would stumble over, and leaves nothing behind."""

import pytest

from cmgems_jax import config as config_lib
from cmgems_jax.pretraining import doctor, run_inputs
from cmgems_jax.runtime import outputs
from cmgems_jax.windows import dataset, synthetic_genome
from tests.helpers import small_config


def test_a_run_that_will_work_is_well_in_every_check_and_nothing_stays(genome, tmp_path, capsys):
    findings = doctor.examine(small_config(genome), tmp_path / "run")
    assert [finding.name for finding in findings] == [
        "packages", "devices", "config", "attention", "genome", "pmi", "step", "disk", "checkpoint",
    ]  # fmt: skip
    assert all(finding.is_well for finding in findings), findings
    assert not list(tmp_path.iterdir())
    assert "BAD" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config", lambda config: setattr(config, "batch_size", 6), "batch_size=6"),
        ("genome", lambda config: setattr(config.data, "fasta", "none.fa"), "no such file"),
        ("genome", lambda config: setattr(config.data, "fasta", ""), "data.fasta is empty"),
        ("pmi", lambda config: setattr(config.pmi, "table", "none.csv"), "no such file"),
    ],
)
def test_what_is_wrong_is_in_the_table_and_the_other_checks_go_on(
    genome, tmp_path, capsys, name, change, message
):
    config = small_config(genome)
    change(config)
    findings = {finding.name: finding for finding in doctor.examine(config, tmp_path / "run")}
    assert not findings[name].is_well and message in findings[name].text
    assert findings["devices"].is_well and "step" not in findings
    assert f"BAD  {name}" in capsys.readouterr().out


def test_the_doctor_refuses_what_the_command_refuses(genome, tmp_path):
    """A run of another config and another genome in the folder."""
    config, workdir = small_config(genome), tmp_path / "run"
    dataset.prepare(config, workdir / "data")
    run_inputs.write(workdir, workdir / "data", run_inputs.ranks(config, workdir))
    outputs.write_json(workdir / "config.json", config_lib.to_dict(config))
    synthetic_genome.write_genome(tmp_path / "other.fa", 40_000, seed=2)
    config.data.fasta, config.masking.budget = str(tmp_path / "other.fa"), 0.2
    findings = {finding.name: finding for finding in doctor.examine(config, workdir)}
    assert "masking.budget: 0.15 before, 0.2 now" in findings["config"].text
    assert "contents of the input files" in findings["genome"].text
    assert not findings["config"].is_well and not findings["genome"].is_well


def test_a_step_that_overflows_is_found(genome, tmp_path):
    config = small_config(genome)
    config.optimizer.peak_lr, config.optimizer.warmup_steps = 1e38, 0
    findings = {finding.name: finding for finding in doctor.examine(config, tmp_path / "run")}
    assert not findings["step"].is_well and "not finite" in findings["step"].text
