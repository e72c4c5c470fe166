"""What both Apache Beam pipelines share: options, start, and files that every worker sees.

apache_beam is an optional package (requirements-beam.txt), imported when a
pipeline is asked for and never before. Workers are other processes, as a rule on
other machines: paths given to a pipeline lie on a disk that all of them mount,
or on storage that Beam reads by itself (`gs://`, `s3://`, `hdfs://`).
"""

import collections
import contextlib
import dataclasses
import importlib.util
import logging
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from absl import flags

from cmgems_jax.errors import InputError
from cmgems_jax.genome import files as genome_files
from cmgems_jax.runtime import outputs

if TYPE_CHECKING:
    import apache_beam as beam

T = TypeVar("T")
RUNNERS = ("DirectRunner", "DataflowRunner", "SparkRunner", "FlinkRunner")
_HERE = {
    "direct_running_mode": "multi_processing",
    "direct_num_workers": "0",  # one per core
    "default_sdk_harness_log_level": "ERROR",
}
_TEMP_LOCATION = "temp_location"
_AS_IT_IS = "uncompressed"  # CompressionTypes.UNCOMPRESSED: a .gz is copied packed
Refusal = tuple[int, str]  # number of an input file, and what is wrong with it


@dataclasses.dataclass(frozen=True)
class Beam:
    """Where a pipeline runs."""

    runner: str  # one of `RUNNERS`; DirectRunner is this machine
    options: tuple[str, ...] = ()  # of Beam's pipeline, NAME=VALUE or NAME, without dashes


def define_beam_flags() -> Callable[[], Beam | None]:
    """Defines --beam_runner and --beam_options; returns a function of their values."""
    runner = flags.DEFINE_enum(
        "beam_runner", None, RUNNERS, "Run as an Apache Beam pipeline, on this machine "
        "(DirectRunner) or a cluster; needs requirements-beam.txt, see docs/scaling.md.",
    )  # fmt: skip
    options = flags.DEFINE_list(
        "beam_options", [], "Of the pipeline: NAME=VALUE,... as in direct_num_workers=4 or "
        "project=P,region=R,temp_location=gs://BUCKET/tmp.",
    )  # fmt: skip

    def value() -> Beam | None:
        if runner.value is None:
            if options.value:
                raise InputError("--beam_options: give --beam_runner too")
            return None
        settings = Beam(runner.value, tuple(options.value))
        check(settings)
        return settings

    return value


def check(settings: Beam) -> None:
    """Raises `InputError` where apache_beam is missing or an option is none."""
    for option in settings.options:
        if not option or option.startswith("-") or "runner" == option.partition("=")[0]:
            raise InputError(
                f"--beam_options={option}: expected NAME=VALUE without dashes, with commas "
                "between them; the runner is given by --beam_runner"
            )
    if importlib.util.find_spec("apache_beam") is None:
        raise InputError(
            f"--beam_runner={settings.runner}: apache_beam is not installed. It needs an "
            "environment of its own, because it takes older packages than requirements.txt: "
            "python -m venv .venv-beam && .venv-beam/bin/pip install -r requirements-beam.txt, "
            "then give this command to .venv-beam/bin/python"
        )


def run(settings: Beam, build: Callable[["beam.Pipeline"], None]) -> None:
    """Runs the pipeline whose transforms `build` adds, to its end.

    DirectRunner gets one process per core unless the options say otherwise. It is
    Beam's FnApiRunner by name, for the name DirectRunner alone first looks for a
    program of another language to download.
    """
    with _quiet_logs():
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        options = list(settings.options)
        if settings.runner == "DirectRunner":
            given = {option.partition("=")[0] for option in options}
            options += [f"{name}={value}" for name, value in _HERE.items() if name not in given]
        flags = PipelineOptions([f"--{option}" for option in options])
        runner = _here(flags) if settings.runner == "DirectRunner" else settings.runner
        with beam.Pipeline(runner=runner, options=flags) as pipeline:
            build(pipeline)


def _here(flags: Any) -> Any:
    """Returns the runner of this machine, which tells its workers the options."""
    from apache_beam.portability.api import beam_provision_api_pb2
    from apache_beam.runners.portability.fn_api_runner import fn_runner
    from apache_beam.runners.portability.portable_runner import JobServiceHandle

    options = JobServiceHandle.encode_pipeline_options(flags.get_all_options())
    info = beam_provision_api_pb2.ProvisionInfo(pipeline_options=options)
    return fn_runner.FnApiRunner(provision_info=fn_runner.ExtendedProvisionInfo(info))


@contextlib.contextmanager
def _quiet_logs() -> Iterator[None]:
    """Beam logs every stage, and at its import what of Google's cloud is not installed."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def file_systems() -> Any:
    """Returns Beam's access to files, local and remote ones."""
    from apache_beam.io.filesystems import FileSystems

    return FileSystems


def is_remote(path: str) -> bool:
    """True for a path that Beam alone reads, such as gs://bucket/genome.fa.gz."""
    return "://" in path


def check_inputs(paths: Sequence[str]) -> None:
    """Raises `InputError` for files that are missing here, and for any that is named twice."""
    genome_files.check_files([path for path in paths if not is_remote(path)])
    for path, number in collections.Counter(paths).items():
        if number > 1:
            raise InputError(f"{path}: named twice; give it once")


def attempt(
    item: tuple[int, str], work: Callable[[str], T]
) -> tuple[T | None, tuple[Refusal, ...]]:
    """Returns the result of `work` on a local copy of an input file, or what is wrong with it.

    A worker must not raise for a bad file: runners try a failed piece of work
    again, several times, and hide its message. `item` is the file's number and path.
    """
    number, path = item
    copy = path
    try:
        with local_copy(path) as copy:
            return work(copy), ()
    except InputError as error:
        return None, ((number, str(error).replace(copy, path)),)


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
    """Yields a path that this process can open: the path itself, or a copy of a remote file."""
    if not is_remote(path):
        yield path
        return
    from apache_beam.io.filesystem import BeamIOError

    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, path.rsplit("/", 1)[-1])
        try:
            with (
                file_systems().open(path, compression_type=_AS_IT_IS) as source,
                open(copy, "wb") as to,
            ):
                shutil.copyfileobj(source, to, 1 << 24)
        except (BeamIOError, OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({error})") from None
        yield copy


def put(source: Path, path: str) -> None:
    """Copies a local file to a local or remote path, which holds all of it or is not there."""
    if not is_remote(path):
        with outputs.replaced_file(path) as partial:
            shutil.copyfile(source, partial)
        return
    # An object of a bucket appears when it is closed.
    with (
        source.open("rb") as file,
        file_systems().create(path, compression_type=_AS_IT_IS) as to,
    ):
        shutil.copyfileobj(file, to, 1 << 24)


def save(value: Any, path: str) -> None:
    """Writes a value of the pipeline's last stage for `load`."""
    with tempfile.NamedTemporaryFile() as file:
        pickle.dump(value, file)
        file.flush()
        put(Path(file.name), path)


def load(path: str) -> Any:
    """Returns what `save` wrote."""
    with local_copy(path) as copy, open(copy, "rb") as file:
        return pickle.load(file)


@contextlib.contextmanager
def results_folder(settings: Beam, beside: Path) -> Iterator[str]:
    """Yields a folder that the workers write small results to: temp_location, or beside a path."""
    for option in settings.options:
        name, _, value = option.partition("=")
        if name == _TEMP_LOCATION and is_remote(value):
            yield os.path.join(value, f"cmgems_jax-{os.urandom(8).hex()}")
            return
    beside.parent.mkdir(parents=True, exist_ok=True)
    with outputs.hidden_folder(beside) as folder:
        yield str(folder)


def raise_first(refusals: Sequence[Refusal]) -> None:
    """Raises what is wrong with the first bad file, as the local path would."""
    if refusals:
        raise InputError(min(refusals)[1])
