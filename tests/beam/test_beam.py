"""Apache Beam pipelines give the data set and the counts of the local path, byte for byte.

Where apache_beam is installed (requirements-beam.txt), else skipped; .ci/run makes that
environment.
"""

import functools
import gzip
import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest

from cmgems_jax.beam import counts as beam_counts
from cmgems_jax.beam import run as beam_run
from cmgems_jax.beam import windows as beam_windows
from cmgems_jax.beam.run import Beam
from cmgems_jax.config import Config, DataConfig, TokensConfig
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.pmi import command as pmi_command
from cmgems_jax.pmi import corpus
from cmgems_jax.windows import cutting, dataset
from cmgems_jax.windows import files as window_files
from tests.helpers import ROOT, run_python

GENOMES = ROOT.parent / "shared" / "data" / "genome"
PROCESSES = Beam("DirectRunner", ("direct_num_workers=2",))
# One worker in this process: sees what a test changes in a module.
INSIDE = Beam("DirectRunner", ("direct_running_mode=in_memory", "direct_num_workers=1"))
needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None,
    reason="apache_beam is not installed (requirements-beam.txt)",
)
# Of apache_beam and of what it imports.
beams_warnings = pytest.mark.filterwarnings("ignore")


def write(path: Path, lengths: list[int], seed: int, letters: str = "") -> str:
    """Writes a genome with N in every record, packed where the name says so."""
    rng = np.random.default_rng(seed)
    text = letters
    for number, length in enumerate(lengths):
        bases = vocabulary.decode(rng.integers(0, 4, length).astype(np.uint8))
        text += f">r{number}\n{bases}NN{bases[:3]}N{bases[: length // 2]}\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


@pytest.fixture(scope="module")
def genomes(tmp_path_factory) -> list[str]:
    """Three files, of many, few and one record."""
    folder = tmp_path_factory.mktemp("genomes")
    return [
        write(folder / "many.fa", [400] * 60, 0),
        write(folder / "few.fa.gz", [30_000, 5_000, 17], 1),
        write(folder / "one.fa", [9_000], 2),
    ]


def make_config(paths: list[str], **data) -> Config:
    """Short windows, so that there are many."""
    return Config(
        data=DataConfig(fasta=",".join(paths), num_tokens=34, **data), tokens=TokensConfig(k=4)
    )


def assert_same_folders(one: Path, other: Path) -> None:
    """All files are equal but for the seconds."""
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir()) and len(names) >= 7
    for name in names:
        if name != dataset.SUMMARY_NAME:
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
    first, second = map(dataset.read_summary, (one, other))
    assert first | {"seconds": 0} == second | {"seconds": 0}


@needs_beam
@beams_warnings
@pytest.mark.parametrize("split", ["contig", "window"])
def test_windows_of_several_processes_equal_the_local_ones_byte_for_byte(genomes, tmp_path, split):
    config = make_config(genomes, split=split)
    dataset.prepare(config, tmp_path / "local")
    beam_windows.prepare(config, str(tmp_path / "beam"), PROCESSES)
    assert_same_folders(tmp_path / "local", tmp_path / "beam")
    assert sorted(os.listdir(tmp_path)) == ["beam", "local"]


@needs_beam
@beams_warnings
def test_chunks_are_divided_at_the_ends_of_shards(genomes, tmp_path, monkeypatch):
    """Shards of 100 windows, chunks of 7: 12 or more files, names in order beyond the tenth."""
    monkeypatch.setattr(window_files, "SHARD_WINDOWS", 100)
    monkeypatch.setattr(cutting, "_CHUNK_WINDOWS", 7)
    config = make_config(genomes)
    dataset.prepare(config, tmp_path / "local")
    beam_windows.prepare(config, str(tmp_path / "beam"), INSIDE)
    assert len(list((tmp_path / "beam").glob("*train*"))) >= 12
    assert_same_folders(tmp_path / "local", tmp_path / "beam")


@needs_beam
@beams_warnings
@pytest.mark.skipif(not GENOMES.is_dir(), reason="no ../shared/data")
def test_real_genomes_give_the_local_windows_and_counts(tmp_path):
    paths = [str(GENOMES / f"{name}.fa.gz") for name in ("yeast", "lambda")]
    config = Config(data=DataConfig(fasta=",".join(paths)))
    dataset.prepare(config, tmp_path / "local")
    beam_windows.prepare(config, str(tmp_path / "beam"), PROCESSES)
    assert_same_folders(tmp_path / "local", tmp_path / "beam")
    found = beam_counts.count(paths, 6, settings=PROCESSES, beside=tmp_path / "counts")
    assert_same_corpus(found, corpus.count(paths, 6))


def assert_same_corpus(found: corpus.Corpus, expected: corpus.Corpus) -> None:
    """Counts of every n, and what was read."""
    for one, other in zip(found.counts, expected.counts, strict=True):
        np.testing.assert_array_equal(one, other)
    assert found.summary() == expected.summary()


@needs_beam
@beams_warnings
def test_the_pmi_folder_of_several_processes_equals_the_local_one(genomes, tmp_path):
    arguments = {"counts": "", "k": 5, "segmentation": "published", "min_count": 101}
    pmi_command.make(fasta=genomes, output=tmp_path / "local", **arguments)
    count = functools.partial(beam_counts.count, settings=PROCESSES, beside=tmp_path / "beam")
    pmi_command.make(fasta=genomes, output=tmp_path / "beam", count=count, **arguments)
    for name in ("pmi.csv", "pmi.png"):
        one, other = (tmp_path / folder / name for folder in ("local", "beam"))
        assert one.read_bytes() == other.read_bytes(), name
    timed = {"seconds": 0, "bases_per_second": 0}
    one, other = (
        json.loads((tmp_path / folder / "summary.json").read_text()) for folder in ("local", "beam")
    )
    assert one | timed == other | timed
    assert sorted(os.listdir(tmp_path)) == ["beam", "local"]


@needs_beam
@beams_warnings
def test_bad_files_are_refused_as_they_are_locally_and_nothing_is_left(genomes, tmp_path):
    bad = [write(tmp_path / name, [900], 3, ">p\nMEEPQ\n") for name in ("a.fa", "b.fa")]
    config = make_config([genomes[0], *bad])
    with pytest.raises(InputError) as local:
        dataset.prepare(config, tmp_path / "data")
    with pytest.raises(InputError) as beamed:
        beam_windows.prepare(config, str(tmp_path / "data"), INSIDE)
    assert str(beamed.value) == str(local.value) and "a.fa" in str(local.value)
    with pytest.raises(InputError, match="a.fa: record 'p'"):
        beam_counts.count(config.fasta_paths, 4, settings=INSIDE, beside=tmp_path / "counts")
    (tmp_path / "short.fa").write_text(">x\nACGTACGTACGT\n")
    short = make_config([str(tmp_path / "short.fa")])
    with pytest.raises(InputError, match="too little data"):
        beam_windows.prepare(short, str(tmp_path / "data"), INSIDE)
    assert sorted(os.listdir(tmp_path)) == ["a.fa", "b.fa", "short.fa"]


@needs_beam
@beams_warnings
def test_a_second_prepare_reuses_the_data_set(genomes, tmp_path, capsys, monkeypatch):
    config = make_config(genomes)
    beam_windows.prepare(config, str(tmp_path / "data"), INSIDE)
    monkeypatch.setattr(beam_run, "run", lambda *_: pytest.fail("was made again"))
    beam_windows.prepare(config, str(tmp_path / "data"), PROCESSES)
    assert "reused" in capsys.readouterr().out


@needs_beam
@beams_warnings
def test_remote_files_are_read_and_written_through_beams_file_systems(
    genomes, tmp_path, monkeypatch
):
    """A file system of Beam's own kind stands for a bucket: bucket://x is a folder here."""
    register_bucket(tmp_path / "bucket", monkeypatch)
    for path in genomes:
        (tmp_path / "bucket" / Path(path).name).write_bytes(Path(path).read_bytes())
    remote = [f"bucket://{Path(path).name}" for path in genomes]
    config = make_config(remote)
    beam_windows.prepare(config, "bucket://made", INSIDE)
    dataset.prepare(make_config(genomes), tmp_path / "local")
    made = tmp_path / "bucket" / "made"
    local = dataset.read_summary(tmp_path / "local")
    summary = dataset.read_summary(made)
    assert summary | {"files": 0, "seconds": 0} == local | {"files": 0, "seconds": 0}
    for path in (tmp_path / "local").glob("*.array_record*"):
        assert path.read_bytes() == (made / path.name).read_bytes()
    rows = dataset.open_split(made, "train").read(np.arange(5))
    np.testing.assert_array_equal(
        rows, dataset.open_split(tmp_path / "local", "train").read(np.arange(5))
    )
    with pytest.raises(InputError, match="holds a data set already"):
        beam_windows.prepare(config, "bucket://made", INSIDE)
    settings = Beam("DirectRunner", (*INSIDE.options, "temp_location=bucket://tmp"))
    found = beam_counts.count(remote, 4, settings=settings, beside=tmp_path / "none" / "x")
    for one, other in zip(found.counts, corpus.count(genomes, 4).counts, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(InputError, match="bucket://absent.fa: cannot be read"):
        beam_windows.prepare(make_config(["bucket://absent.fa"]), "bucket://other", INSIDE)


@needs_beam
@beams_warnings
@pytest.mark.parametrize(
    ("fasta", "message"),
    [("", "data.fasta is empty: give files"), ("bucket://x,bucket://x", "bucket://x: named twice")],
)
def test_a_pipeline_without_input_or_with_a_file_twice_is_refused(
    tmp_path, monkeypatch, fasta, message
):
    register_bucket(tmp_path / "bucket", monkeypatch)
    with pytest.raises(InputError, match=message):
        beam_windows.prepare(Config(data=DataConfig(fasta=fasta)), "bucket://made", INSIDE)


def register_bucket(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes Beam know the scheme `bucket`."""
    from apache_beam.io import filesystems
    from apache_beam.io.localfilesystem import LocalFileSystem

    folder.mkdir()

    class Bucket(LocalFileSystem):
        @classmethod
        def scheme(cls) -> str:
            return "bucket"

        def open(self, path: str, *arguments, **options):
            return super().open(str(folder / path.partition("://")[2]), *arguments, **options)

        def create(self, path: str, *arguments, **options):
            place = folder / path.partition("://")[2]
            place.parent.mkdir(parents=True, exist_ok=True)
            return super().create(str(place), *arguments, **options)

        def exists(self, path: str) -> bool:
            return (folder / path.partition("://")[2]).exists()

        def delete(self, paths: list[str]) -> None:
            super().delete([str(folder / path.partition("://")[2]) for path in paths])

    find = filesystems.FileSystems.get_filesystem

    def find_too(path: str):
        is_bucket = path.startswith("bucket://")
        return Bucket(None) if is_bucket else find(path)

    monkeypatch.setattr(filesystems.FileSystems, "get_filesystem", staticmethod(find_too))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Beam("SparkRunner", ("--x=1",)), "--beam_options=--x=1: expected NAME=VALUE"),
        (Beam("SparkRunner", ("runner=Direct",)), "the runner is given by --beam_runner"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(InputError) as error:
        beam_run.check(settings)
    assert message in str(error.value)


def test_without_apache_beam_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"not installed.*pip install -r requirements-beam.txt"):
        beam_run.check(Beam("DirectRunner"))


@pytest.mark.parametrize("name", ["count_pmi", "prepare_data"])
def test_options_without_a_runner_are_bad_input(name, tmp_path):
    flags = {
        "count_pmi": ["--fasta=x.fa", f"--output={tmp_path}/out"],
        "prepare_data": ["--config=configs/demo.py", f"--data_dir={tmp_path}/out"],
    }[name]
    result = run_python("-m", f"launch.{name}", *flags, "--beam_options=a=1")
    assert result.returncode == 2
    assert result.stderr == "error: --beam_options: give --beam_runner too\n"


def test_requirements_of_beam_differ_only_where_beam_asks_for_older_packages():
    names = ("requirements.txt", "requirements-beam.txt")
    here, beams = (
        dict(line.split("==") for line in (ROOT / name).read_text().split() if "==" in line)
        for name in names
    )
    differing = {name for name in here if beams.get(name) != here[name]}
    assert differing == {"pillow", "protobuf", "pyarrow", "python-dateutil"}
