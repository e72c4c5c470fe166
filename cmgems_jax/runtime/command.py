"""What every command shares: flag errors, input errors, exit codes."""

import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from cmgems_jax import config as config_lib
from cmgems_jax import known_motifs, terminal
from cmgems_jax.errors import InputError, TrainingError, did_you_mean
from cmgems_jax.genome import input_files, vocabulary

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130


def run(main: Callable[[], None]) -> None:
    """Parses the flags, runs `main`, and turns bad input into one line and exit status 2.

    Any other exception keeps its traceback and exits with status 1.
    """

    def guarded(argv: list[str]) -> None:
        if len(argv) > 1:
            _stop(f"unexpected argument {argv[1]!r}: flags are written --name=value (see --help)")
        logging.set_verbosity(logging.WARNING)  # orbax tells every step of a save
        try:
            main()
        except InputError as error:
            _stop(str(error))
        except TrainingError as error:
            _stop(str(error), EXIT_FAILED)
        except KeyboardInterrupt:
            _stop(
                "interrupted; the same command resumes from what is saved, or begins again",
                EXIT_INTERRUPTED,
            )

    for flag in flags.FLAGS.get_key_flags_for_module(__name__):  # of `define_...`, for --help
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    terminal.make_streams_unfailing()
    app.run(guarded, flags_parser=_parse)


def _stop(message: str, status: int = EXIT_BAD_INPUT) -> NoReturn:
    """Prints the error on stderr and exits."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def _parse(argv: list[str]) -> list[str]:
    """Parses flags; an unknown config field is named with its nearest neighbour."""
    argv = [argv[0], *map(_expand_home, argv[1:])]
    try:
        return flags.FLAGS(argv)
    except InputError as error:
        _stop(str(error))
    except flags.DuplicateFlagError as error:
        name = re.search(r"'([^']+)'", str(error))[1]
        _stop(f"--{name}: given twice; give it once")
    except flags.Error as error:
        if isinstance(error.__context__, InputError):  # of the config file
            _stop(str(error.__context__))
        if missing := re.findall(r"^flag --(\w+)=None: Flag --\1 must have", str(error), re.M):
            _stop(f"--{', --'.join(missing)}: required, and not given (see --help)")
        _stop(f"{error}" if "see --help" in str(error) else f"{error} (see --help)")
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        _stop(_explain(argv, error))


def _expand_home(argument: str) -> str:
    """Replaces a ~ that begins a flag's value or an item of it: shells leave it in --flag=~/x."""
    return re.sub(
        r'(?<=[=,])(\s*"?)(~[^/,"]*)', lambda m: m[1] + input_files.expand(m[2]), argument
    )


def _explain(argv: list[str], error: Exception) -> str:
    """Says which config field does not exist."""
    known = config_lib.field_names()
    for argument in argv[1:]:
        field = re.match(r"--?config\.([\w.]+)", argument)
        if field and field[1] not in known:
            return f"--config.{field[1]}: no such config field.{did_you_mean(field[1], known)}"
    return f"config: {error}"


class _PathsParser(flags.ArgumentParser):
    """A list of files, as `input_files.expand_list` reads it."""

    def parse(self, argument: str | list[str]) -> list[str]:
        return argument if isinstance(argument, list) else input_files.expand_list(argument)


def define_paths(name: str, default: list[str] | None, text: str, **options: Any) -> Any:
    """Defines a flag of files with commas, quotes and patterns; returns its holder."""
    return flags.DEFINE(
        _PathsParser(), name, default, text, serializer=flags.CsvListSerializer(","), **options
    )


def define_start_flags() -> Callable[[], dict[str, Any]]:
    """Defines the flags of several processes; returns a function of their values, by argument."""
    defined = {
        "coordinator": flags.DEFINE_string(
            "coordinator", "", "Several processes: HOST:PORT of process 0. Under SLURM and on a "
            "TPU pod neither this nor the next two are needed.",
        ),
        "num_processes": flags.DEFINE_integer("num_processes", None, "Processes of this run."),
        "process_id": flags.DEFINE_integer("process_id", None, "Number of this one, from 0."),
        "timeout_s": flags.DEFINE_integer(
            "start_timeout_s", 300, "Seconds that the processes wait for each other.",
            lower_bound=1,
        ),
    }  # fmt: skip
    return lambda: {name: flag.value for name, flag in defined.items()}


def define_checkpoint(what: str) -> Callable[[], str]:
    """Defines --checkpoint, and returns what gives it: by default the package's model, told."""
    default = config_lib.PACKAGED
    help_text = f"{what}; default: {default}, the model that comes with the package."
    flag = flags.DEFINE_string("checkpoint", None, help_text)

    def checkpoint() -> str:
        if flag.value is None:
            print(f"no --checkpoint: {default}, the model that comes with the package", flush=True)
        return flag.value or default

    return checkpoint


def define_window_flags() -> Callable[[], dict[str, Any]]:
    """Defines how a model reads sequences; returns a function of the values, by name."""
    defined = {
        "window": flags.DEFINE_integer(
            "window", None, "Bases of a window; default: the longest that the model takes."
        ),
        "stride": flags.DEFINE_integer(
            "stride", None, "Bases between the starts of windows; default: half a window."
        ),
        "batch_size": flags.DEFINE_integer("batch_size", 32, "Windows at a time.", lower_bound=1),
        "strand": define_strand("Default: forward; both where it was trained on both."),
    }
    return lambda: {name: flag.value for name, flag in defined.items()}


def define_strand(default_text: str) -> flags.FlagHolder[str | None]:
    """Defines --strand, from which strand sequences are read; "" or None = the default."""
    return flags.DEFINE_enum(
        "strand", None, vocabulary.STRANDS,
        "The strand that the model reads; both: the mean of probabilities, or of features aligned "
        f"to the forward strand. {default_text}",
    )  # fmt: skip


def define_known_motifs() -> flags.FlagHolder[str]:
    """Defines --known_motifs, the taxon of JASPAR's motifs that others are compared with."""
    return flags.DEFINE_enum(
        "known_motifs", known_motifs.TAXA[0], (*known_motifs.TAXA, known_motifs.NONE),
        "Taxon of the JASPAR motifs that name what is found, offline; none: nothing is compared.",
    )  # fmt: skip


def define_column_flags() -> Callable[[], dict[str, str]]:
    """Defines the flags of a task's columns; returns a function of their values, by field."""
    defined = {
        name: flags.DEFINE_string(name, "", f"Header of the {what}; default: a usual name.")
        for name, what in (
            ("sequence_column", "sequences"),
            ("label_column", "labels (several: with commas)"),
        )
    }
    return lambda: {name: flag.value for name, flag in defined.items()}


def define_task_flags(default: Any) -> Callable[[], dict[str, Any]]:
    """Defines the flags of a labelled task; returns a function of their values, by field.

    `default` holds the default of every field.
    """
    ways, kinds = ["error", "truncate", "window"], ["classes", "numbers", "multilabel"]
    metrics = ["accuracy", "macro_f1", "mcc", "auroc", "average_precision"]
    metrics += ["pearson", "spearman", "r2"]
    columns = define_column_flags()
    defined = {
        "metric": flags.DEFINE_enum(
            "metric", default.metric, ["", *metrics], 'The main one; "" = the task\'s.'
        ),
        "labels": flags.DEFINE_enum(
            "labels",
            default.labels,
            ["", *kinds],
            "What they are: classes, numbers to regress, "
            'or several labels per row (with ; between); "": what the file plainly has.',
        ),
        "dedupe": flags.DEFINE_bool(
            "dedupe", default.dedupe, "Drop train rows that repeat or are in test."
        ),
        "long_sequences": flags.DEFINE_enum(
            "long_sequences", default.long_sequences, ways, "Beyond the model's positions."
        ),
        "reverse_complement": flags.DEFINE_bool(
            "reverse_complement", default.reverse_complement,
            "Fine-tuning reads each sequence of a step from a strand drawn at random.",
        ),
    }  # fmt: skip
    strand = define_strand("Default: forward, with --reverse_complement both.")
    return lambda: (
        columns()
        | {"strand": strand.value or default.strand}
        | {name: flag.value for name, flag in defined.items()}
    )


def choices(flag: str, values: list[str], allowed: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the values of a list flag, each one of `allowed`."""
    for value in values:
        if value not in allowed:
            raise InputError(
                f"--{flag}={value}: expected one or more of {','.join(allowed)}."
                f"{did_you_mean(value, allowed)}"
            )
    return tuple(values)


def integers(flag: str, values: list[str]) -> tuple[int, ...]:
    """Returns the values of a list flag, each a positive integer."""
    for value in values:
        if not value.isdecimal() or int(value) < 1:
            raise InputError(f"--{flag}={value}: expected integers of 1 or more, with commas")
    return tuple(int(value) for value in values)


class _ConfigParser(flags.ArgumentParser):
    """Turns the value of --config into a Config."""

    def parse(self, argument: str) -> config_lib.Config:
        return config_lib.load(argument)


def define_config(default: str | None = None) -> flags.FlagHolder[config_lib.Config]:
    """Defines --config, a recipe's name or a file, and --config.FIELD for every field."""
    holder = config_flags.DEFINE_config_file(
        "config", None, "A recipe (demo, dnabert6, logo6, nano6) or a Python file with "
        "get_config(). Any field can be set: --config.data.fasta=A.fa.gz --config.num_steps=1000",
    )  # fmt: skip
    # The library's own parser knows no recipes, and puts off a missing file until a field is read.
    flags.FLAGS["config"].parser = _ConfigParser()
    try:
        flags.set_default(holder, default)  # reads the fields' flags, where there is a default
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        _stop(_explain(sys.argv, error))
    return holder


def define_init_from() -> Callable[[config_lib.Config], config_lib.Config]:
    """Defines --init_from; returns what puts its value into a config."""
    path = flags.DEFINE_string(
        "init_from", "", "Short for --config.init_from.path: begin with another model's parameters "
        "and nothing else of it. A run's folder, RUN/checkpoints/STEP, what launch.import_hf made, "
        "or a HuggingFace folder. k, alphabet and the model's sizes must be those of the config "
        "(the error names the flags that set them); positions may be more. To resume, neither the "
        "flag nor the source is needed.",
    )  # fmt: skip

    def with_origin(config: config_lib.Config) -> config_lib.Config:
        config.init_from.path = path.value or config.init_from.path
        return config

    return with_origin
