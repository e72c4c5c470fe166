"""Faults of a run: what is lost (nothing), what is said, and how it exits."""

import contextlib
import functools
import os
import shutil
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from cmgems_jax.config import Config
from cmgems_jax.errors import InputError, TrainingError
from cmgems_jax.pretraining import checkpoints, faults, steps
from cmgems_jax.pretraining import loop as pretraining_loop
from cmgems_jax.runtime import parallel, run_lock
from cmgems_jax.windows import packing
from tests.helpers import records, run_python, small_config, xla_flags

# tensorstore's other reads fail after orbax has left the loop, when a checkpoint is damaged.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
SAVE = checkpoints.save


@pytest.fixture
def copy(unbroken, tmp_path) -> Path:
    """A copy of the run to damage; it has checkpoints at 6 and 12."""
    shutil.copytree(unbroken[0], tmp_path / "run")
    return tmp_path / "run"


def array_files(checkpoint: Path) -> list[Path]:
    """Returns every file of a checkpoint with arrays; of some only a part is in use."""
    return sorted((checkpoint / "state").rglob("d/*"))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(bytes(content))


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove(path: Path) -> None:
    path.unlink()


DAMAGES = [flip_a_bit, cut_in_half, remove]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_stops_the_run_and_nothing_is_changed(
    copy, genome, damage
):
    for path in array_files(copy / checkpoints.FOLDER / "12"):
        damage(path)
    before = sorted(path for path in copy.rglob("*") if path.is_file())
    with pytest.raises(InputError) as error:
        pretraining_loop.pretrain(small_config(genome), copy)
    assert f"{copy / checkpoints.FOLDER / '12'}: damaged checkpoint" in str(error.value)
    assert "--fallback goes back to step 6" in str(error.value)
    assert {*before} <= {path for path in copy.rglob("*") if path.is_file()}


def test_fallback_goes_to_the_checkpoint_before_and_ends_in_the_same_state(
    copy, unbroken, genome, capsys
):
    for path in array_files(copy / checkpoints.FOLDER / "12"):
        flip_a_bit(path)
    state = pretraining_loop.pretrain(small_config(genome), copy, fallback=True)
    printed = capsys.readouterr().out
    assert "WARNING" in printed and "resumed from step 6" in printed
    assert (copy / checkpoints.DAMAGED_FOLDER / "12").exists()
    jax.tree.map(np.testing.assert_array_equal, parallel.to_host(state), unbroken[1])


def test_a_number_changed_behind_the_files_own_checks_is_found_by_the_checksums(
    copy, genome, monkeypatch
):
    """The state is saved again with one parameter changed, its checksums as before."""
    config = small_config(genome)
    state, _, _ = steps.make(config, np.arange(1, 65, dtype=np.int32))
    true = checkpoints.checksums(parallel.to_host(state))
    changed = state.replace(step=state.step + 20, key=state.key + np.uint32(1))
    monkeypatch.setattr(checkpoints, "checksums", lambda host: true)
    with checkpoints.opened(copy, config) as manager:
        checkpoints.save(manager, changed, config, wait=True)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"20: damaged checkpoint \(array \.(key|step): its check"):
        pretraining_loop.pretrain(config, copy)


def test_every_checkpoint_damaged_is_an_error_even_with_fallback(copy, genome):
    for step in ("6", "12"):
        for path in array_files(copy / checkpoints.FOLDER / step):
            cut_in_half(path)
    for _ in range(2):  # the last stays where it is, so that nothing begins anew in its place
        with pytest.raises(InputError, match="6: damaged .*no checkpoint that is whole"):
            pretraining_loop.pretrain(small_config(genome), copy, fallback=True)


def test_an_unfinished_checkpoint_is_named_and_ignored(copy, genome, capsys):
    unfinished = copy / checkpoints.FOLDER / "13.orbax-checkpoint-tmp"
    shutil.copytree(copy / checkpoints.FOLDER / "12", unfinished)
    pretraining_loop.pretrain(small_config(genome), copy)
    printed = capsys.readouterr().out
    assert "ignored an unfinished checkpoint: 13.orbax-checkpoint-tmp" in printed
    assert "resumed from step 12" in printed and not unfinished.exists()


def test_resume_must_and_never_hold(copy, genome, tmp_path):
    with pytest.raises(InputError, match="--resume=must, but there is no checkpoint"):
        pretraining_loop.pretrain(small_config(genome), tmp_path / "new", resume="must")
    assert not (tmp_path / "new").exists()  # before the genome is read
    with pytest.raises(InputError, match="--resume=never, but it holds the checkpoint of step 12"):
        pretraining_loop.pretrain(small_config(genome), copy, resume="never")


def test_checkpoints_without_a_config_are_refused(copy, genome):
    (copy / "config.json").unlink()
    with pytest.raises(InputError, match="holds checkpoints/ but no config.json"):
        pretraining_loop.pretrain(small_config(genome), copy)


def test_a_second_writer_is_refused_with_the_first_ones_name(copy, genome):
    with run_lock.held(copy), pytest.raises(InputError) as error:
        pretraining_loop.pretrain(small_config(genome), copy)
    assert f"in use by process {os.getpid()} on " in str(error.value)
    pretraining_loop.pretrain(small_config(genome), copy)  # freed


def test_a_lock_left_by_a_dead_process_does_not_block(tmp_path):
    program = (
        "import os, pathlib, sys\nfrom cmgems_jax.runtime import run_lock\n"
        "run_lock.held(pathlib.Path(sys.argv[1])).__enter__()\nos._exit(9)"
    )
    dead = run_python("-c", program, tmp_path)
    assert dead.returncode == 9 and (tmp_path / run_lock.NAME).read_text()
    with run_lock.held(tmp_path):
        pass


def test_a_non_finite_loss_stops_with_its_place_and_keeps_the_good_checkpoint(genome, tmp_path):
    """A learning rate that overflows after the warm-up; the checkpoint of step 1 stays."""
    config = small_config(genome, checkpoint_every=1, eval_every=0, log_every=12)
    config.curriculum.name = "fixed"
    config.optimizer.peak_lr, config.optimizer.warmup_steps = 1e38, 1
    with pytest.raises(TrainingError) as error:
        pretraining_loop.pretrain(config, tmp_path)
    message = str(error.value)
    for part in ("not finite: loss sum", "gradient norm", "learning rate 9.09e+37",
                 "training windows", "lower optimizer.peak_lr"):  # fmt: skip
        assert part in message
    step = int(message.split("step ")[1].split(":")[0])
    saved = {int(path.name) for path in (tmp_path / checkpoints.FOLDER).iterdir()}
    assert saved and max(saved) < step


def test_windows_of_the_bad_batch_are_those_that_were_read():
    config = Config(batch_size=3, num_steps=1_000)
    metrics = [{"loss_sum": 1.0, "grad_norm": 2.0}, {"loss_sum": 1.0, "grad_norm": np.inf}]
    packed = packing.pack(np.repeat([515, 100], 50), config)
    with pytest.raises(TrainingError, match="step 8: not finite") as error:
        faults.refuse_non_finite(metrics, 7, config, packed)
    rows = faults.batches.batch_rows(packed, seed=0, step=7, batch_size=3)
    named = ", ".join(str(number) for number in rows.ravel() if number != packing.EMPTY)
    assert f"training windows {named}." in str(error.value)
    faults.refuse_non_finite(metrics[:1], 7, config, packed)


def test_a_perplexity_near_one_so_early_is_warned_of_with_the_spans(tmp_path, capsys):
    """A genome of one base: every masked token is known."""
    fasta = tmp_path / "poly.fa"
    fasta.write_text(">a\n" + "A" * 4_000 + "\n>b\n" + "A" * 4_000 + "\n")
    config = small_config(fasta, num_steps=40, eval_every=20)
    config.curriculum.name = "fixed"
    pretraining_loop.pretrain(config, tmp_path / "run")
    printed = capsys.readouterr().out
    assert "masked tokens are readable from their neighbours" in printed
    assert "of the tokens are masked and each covers" in printed


def test_too_small_a_disk_is_refused_before_training(genome, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="0 MiB free, but 4 more checkpoints of"):
        pretraining_loop.pretrain(small_config(genome), tmp_path / "run")
    assert not (tmp_path / "run" / checkpoints.FOLDER).exists()


def test_checkpoints_that_are_there_need_no_room(unbroken, genome, tmp_path, monkeypatch):
    """Two of the three that are kept: one more, and one beside it."""
    workdir, state = unbroken
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    usage = shutil.disk_usage(tmp_path)._replace(free=2 * size)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert faults.check_disk(workdir, state, small_config(genome)) == size
    with pytest.raises(InputError, match="4 more checkpoints"):
        faults.check_disk(tmp_path / "new", state, small_config(genome))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")
def test_a_full_disk_stops_the_run_and_the_older_checkpoint_leads_to_the_same_end(
    genome, unbroken, tmp_path, monkeypatch
):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        config = small_config(genome, checkpoint_every=2, keep_checkpoints=1)
        config.data.dir = str(tmp_path / "data")
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "save", functools.partial(save_on_a_full_disk, disk))
            with pytest.raises(TrainingError) as error:
                pretraining_loop.pretrain(config, disk / "run")
        assert "could not be written" in str(error.value)
        assert "the checkpoint of step 2 is intact" in str(error.value)
        state = pretraining_loop.pretrain(config, disk / "run", resume="must")
        jax.tree.map(np.testing.assert_array_equal, parallel.to_host(state), unbroken[1])
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def save_on_a_full_disk(disk: Path, manager, state, config, clock, *, wait: bool) -> None:
    """Saves; at step 4 with the disk filled to the last byte, which is freed after it."""
    ballast = disk / "ballast"
    if int(state.step) == 4:
        manager.wait_until_finished()
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
    try:
        SAVE(manager, state, config, clock, wait=True)
    finally:
        ballast.unlink(missing_ok=True)


_OOM = """
import resource, sys
from cmgems_jax.pretraining import loop as pretrain
from tests.helpers import small_config
from pathlib import Path
config = small_config(Path(sys.argv[1]), batch_size=60_000)
config.model.feedforward_size = 4096
resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
try:
    pretrain.pretrain(config, Path(sys.argv[2]))
except Exception as error:
    print(type(error).__name__, error)
"""


def test_out_of_memory_names_what_to_lower(genome, tmp_path):
    """In a process that may hold 12 GiB of addresses and asks for more."""
    result = run_python("-c", _OOM, genome, tmp_path / "run", XLA_FLAGS=xla_flags(1))
    assert "InputError out of memory on cpu: 60000 rows at a time" in result.stdout, (
        result.stdout[-2_000:] + result.stderr[-2_000:]
    )
    for field in ("accumulation_steps (now 1)", "batch_size (now 60000)", "data.num_tokens"):
        assert field in result.stdout


def test_a_folder_that_cannot_be_written_is_refused(genome, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), run_lock.held(tmp_path / "file"):
        pass
    for name in ("file", "file/run"):
        with pytest.raises(InputError, match="file.*cannot be made .*give another"):
            pretraining_loop.pretrain(small_config(genome), tmp_path / name)


def test_metrics_of_a_failed_run_are_kept(genome, tmp_path):
    config = small_config(genome, checkpoint_every=2, log_every=1)
    config.optimizer.peak_lr, config.optimizer.warmup_steps = 1e38, 5
    with pytest.raises(TrainingError):
        pretraining_loop.pretrain(config, tmp_path)
    assert records(tmp_path, "train")
