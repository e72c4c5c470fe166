"""Every setting of a pretraining run: its unit, its default, the paper's value, its check.

A config file is a Python file with `get_config() -> Config`; the command line
overrides single fields (`--config.optimizer.peak_lr=2e-4`). Defaults are
DNABERT-6 with the CM-GEMS curriculum as published (ECAI 2024, section 4).
"""

import dataclasses
import re
import runpy
import traceback
import typing
from pathlib import Path
from typing import Any

from cmgems_jax.errors import InputError, did_you_mean
from cmgems_jax.genome import input_files, vocabulary

STRATEGIES = (
    "random",
    "genemask",
    "global",
    # a rival and the controls of the studies, see masking/strategies.py
    "random_mask",
    "genemask_by_position",
    "global_by_position",
    "random_spans",
)
CURRICULA = ("cm_gems", "cm_step", "hard_to_easy", "fixed")
RENAMED = {  # fields of earlier runs' config.json
    "data.windows_a_row": "windows_per_row",
    "data.synthetic_promoters": "synthetic_repeats",  # 0 in both: none
}
PACKAGED = "human6-nano"  # the model that comes with the package
RECIPES = Path(__file__).parents[1] / "configs"  # beside the package, in a wheel too


@dataclasses.dataclass
class DataConfig:
    """Where the bases come from and how they are cut into windows."""

    fasta: str = ""  # FASTA (.gz, bgzip) or .2bit files, separated by commas; patterns such as
    # *.fa.gz too; a name that holds a comma stands in double quotes
    dir: str = ""  # folder of the prepared TFDS data set; "" = WORKDIR/data
    num_tokens: int = 512  # positions per window, [CLS] and [SEP] included (paper: 512)
    full_length_share: float = 0.5  # windows of full length; the others are shorter (paper: 0.5)
    windows_per_row: int = 2  # at most, that share a row of the model; 1 = a padded row for each
    validation_fraction: float = 0.1  # of the windows, or of the bases with held-out contigs
    split: str = "auto"  # "contig", "window", or "auto": contigs where they come to about
    # validation_fraction, else blocks of windows (of a single contig: windows)
    reverse_complement: bool = False  # train windows are read from a strand drawn by their key
    synthetic_bases: int = 0  # > 0: no FASTA, a genome sampled from the embedded 6-mer counts
    synthetic_repeats: float = 0.0  # share of its bases that are copies of a repeat, 0 to 0.5


@dataclasses.dataclass
class TokensConfig:
    """What a token is."""

    k: int = 6  # bases per token, 3..8 (paper: 6)
    stride: int = 1  # bases between token starts, 1..k (paper: 1, overlapping)
    alphabet: str = "dna"  # "dna" or "rna": how k-mers are spelled


@dataclasses.dataclass
class PmiConfig:
    """Where the ranks of the k-mers come from (SPEC: ranks by NPMI)."""

    table: str = "auto"  # a pmi.csv; "corpus" = count data.fasta; "grch38" = embedded (k=6);
    # "auto" = grch38 for k=6, corpus for other k
    segmentation: str = "published"  # "published" or "full"; for counts made here
    min_count: int = 101  # the constant c of NPMI (paper: 101)


@dataclasses.dataclass
class MaskingConfig:
    """How much is masked, and how masked tokens are corrupted."""

    budget: float = 0.15  # share of the tokens (paper: 0.15)
    objective: str = "token"  # the loss: "token" (paper) = of the masked k-mers; "base" = of the
    # hidden bases, every token that touches one being [MASK] (docs/method.md)
    ranks: str = "pmi"  # what strategies go by: "pmi" (paper); controls: "shuffled" = the same
    # ranks, permuted once; "learned" = by each k-mer's own loss, anew at every evaluation
    min_distance: int = 0  # tokens between the centers of `global` (paper: 0, none)
    corruption: str = "token"  # "token" (paper: 80/10/10 for each token) or "run"
    top_m: float = 1.0  # tokens that `global` chooses, as a multiple of the paper's number
    max_predictions: int = 0  # masked tokens per window at most, the first ones; 0 = all


@dataclasses.dataclass
class CurriculumConfig:
    """Which strategy masks, and when it changes."""

    name: str = "cm_gems"  # cm_gems, cm_step, hard_to_easy, fixed
    strategy: str = "random"  # of `fixed`: random, genemask, global, or a control (STRATEGIES)
    watch: str = "perplexity"  # what the switch looks at: "perplexity" (paper) or "nats_per_base"
    threshold: float = 1.0  # switch when the smallest change of it is below (paper: 1.0)
    threshold_kind: str = "absolute"  # "absolute" (paper) or "relative" to the value before
    budget_schedule: str = "constant"  # "constant" (paper), "by_stage", "adaptive"
    hard_budget: float = 0.15  # of the hard strategy's batches, for by_stage
    budget_step: float = 0.05  # for adaptive: added each time improvement stalls
    budget_max: float = 0.3  # for adaptive


@dataclasses.dataclass
class ModelConfig:
    """BERT's sizes and initial values. Defaults: DNABERT."""

    num_layers: int = 12  # (LOGO: 2)
    hidden_size: int = 768  # (LOGO: 256)
    num_heads: int = 12  # (LOGO: 8)
    feedforward_size: int = 3072
    num_positions: int = 512  # rows of the position table
    dropout: float = 0.1  # of embeddings and sublayers (LOGO: 0)
    attention_dropout: float = 0.1  # of attention weights (LOGO: 0); 0 allows fused attention
    dtype: str = "auto"  # of the computation: "float32", "bfloat16"; "auto" = float32 on CPU,
    # bfloat16 on GPU and TPU. Parameters, softmax and loss are float32.
    matmul: str = "float32"  # of float32's products: "bfloat16" = of rounded operands, summed in
    # float32 (not where attention weights are dropped); "auto" = that on a CPU with units for it
    attention: str = "auto"  # "fused" = the device's kernel, scores never in memory; "plain" =
    # XLA's; "auto" = fused, but plain where attention weights are dropped
    remat: str = "none"  # what the backward pass computes again, for less memory: "dots" = all of a
    # layer but the products with its weights, "full" = a whole layer
    embedding_init: str = "bert"  # "bert" = normal(0.02); "bases" = a sum of per-base vectors
    embedding_scale: float = 0.2  # standard deviation for embedding_init="bases"
    position_init: str = "bert"  # "bert" = normal(0.02); "sinusoidal"
    position_scale: float = 0.2  # amplitude for position_init="sinusoidal"


@dataclasses.dataclass
class InitFromConfig:
    """Another model's parameters to begin with; the run fills in step and sha256."""

    path: str = ""  # WORKDIR, WORKDIR/checkpoints/STEP, an import, a HuggingFace folder; "" = none
    step: int = 0  # updates that the weights had seen; 0 where that is not known
    sha256: str = ""  # of the weights (names and bytes); where it is given, it must be theirs


@dataclasses.dataclass
class OptimizerConfig:
    """AdamW, warm-up, decay, clipping, as published."""

    peak_lr: float = 4e-4  # (GeneMask's script: 8e-4)
    warmup_steps: int = 500  # linear from 0 (paper: 500)
    decay: str = "linear"  # to 0 at num_steps: "linear" (paper) or "cosine"
    weight_decay: float = 0.01  # not on biases and LayerNorm
    clip_norm: float = 1.0  # global norm of the gradient
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6


def _section(cls: type) -> Any:
    """A nested dataclass with its own defaults."""
    return dataclasses.field(default_factory=cls)


@dataclasses.dataclass
class Config:
    """One pretraining run."""

    seed: int = 0  # of everything random: windows, order, masks, initial values, dropout
    num_steps: int = 10_000  # optimizer updates (paper: 10,000; also 1,000)
    batch_size: int = 192  # rows of data.num_tokens positions per step, over all devices and
    # accumulation; they hold about 4/3 as many windows (paper: 250 windows)
    accumulation_steps: int = 1  # parts of a step, one after another (paper: 25 of 10 windows)
    log_every: int = 100  # steps; a checkpoint ends a line of the log too
    eval_every: int = 500  # steps; 0 = never (paper: 500)
    eval_windows: int = 1_000  # validation windows per evaluation; 0 = all
    checkpoint_every: int = 500  # steps; the last step is always saved
    keep_checkpoints: int = 3  # the newest ones
    keep_every: int = 0  # steps; checkpoints at its multiples stay for good; 0 = none
    data: DataConfig = _section(DataConfig)
    tokens: TokensConfig = _section(TokensConfig)
    pmi: PmiConfig = _section(PmiConfig)
    masking: MaskingConfig = _section(MaskingConfig)
    curriculum: CurriculumConfig = _section(CurriculumConfig)
    model: ModelConfig = _section(ModelConfig)
    optimizer: OptimizerConfig = _section(OptimizerConfig)
    init_from: InitFromConfig = _section(InitFromConfig)

    @property
    def window_bases(self) -> int:
        """Bases of a full window: 515 for 512 positions and k=6."""
        return vocabulary.num_bases(self.data.num_tokens - 2, self.tokens.k, self.tokens.stride)

    @property
    def pmi_source(self) -> str:
        """`pmi.table` with "auto" resolved: "grch38", "corpus" or a path."""
        if self.pmi.table != "auto":
            return input_files.expand(self.pmi.table)
        return "grch38" if self.tokens.k == 6 else "corpus"

    @property
    def has_pmi_table(self) -> bool:
        """Whether `pmi.table` is a path."""
        return self.pmi_source not in ("grch38", "corpus")

    @property
    def fasta_paths(self) -> list[str]:
        """The files of `data.fasta`."""
        return input_files.expand_list(self.data.fasta)

    def data_dir(self, workdir: str | Path) -> Path:
        """Returns the folder of the prepared windows of a run in `workdir`."""
        return Path(input_files.expand(self.data.dir or Path(workdir) / "data"))

    @property
    def largest_budget(self) -> float:
        """The largest masking budget that the curriculum can reach."""
        return {
            "constant": self.masking.budget,
            "by_stage": max(self.masking.budget, self.curriculum.hard_budget),
            "adaptive": max(self.masking.budget, self.curriculum.budget_max),
        }[self.curriculum.budget_schedule]


def load(name: str, *, flag: str = "config") -> Config:
    """Returns what the `get_config()` of a shipped recipe, or of another Python file, returns.

    Args:
      name: of a recipe, such as "logo6", whatever the current folder; or a path.
      flag: that gave the name, for messages.

    Raises:
      InputError: there is no such file, or it makes no Config.
    """
    recipes = {path.stem: path for path in sorted(RECIPES.glob("[!_]*.py"))}
    path = recipes.get(name) or Path(name).expanduser()
    if not path.exists():
        raise InputError(
            f"--{flag}={name}: no such file; the current folder is {Path.cwd()}. Expected a .py "
            f"file, or one of {', '.join(recipes)}.{did_you_mean(path.stem, recipes)}"
        )
    input_files.check(path, f"for --{flag} a .py file")
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        config = get_config() if get_config else None
    except Exception as error:  # whatever the file does wrong
        raise InputError(f"--{flag}={name}: {_reason(error, path)}") from error
    if not isinstance(config, Config):
        raise InputError(
            f"--{flag}={name}: expected a Python file whose get_config() returns "
            f"cmgems_jax.config.Config, for example {RECIPES / 'demo.py'}"
        )
    return config


def _reason(error: Exception, path: Path) -> str:
    """Returns what a config file raised, and at which of its lines."""
    steps = traceback.extract_tb(error.__traceback__)
    lines = [f"line {step.lineno}: " for step in steps if step.filename == str(path)]
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown:
        leaves = {field.rsplit(".", 1)[-1] for field in field_names()}
        what = f"unknown field {unknown[1]!r}.{did_you_mean(unknown[1], leaves)}"
    else:
        what = f"{type(error).__name__}: {error}"
    return "".join(lines[-1:]) + what


def to_dict(config: Any) -> dict[str, Any]:
    """Returns the config as nested dicts of plain values, for JSON."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any], *, source: str = "config") -> Config:
    """Returns a Config from nested dicts; unknown fields raise `InputError`."""
    return _build(Config, values, source, "")


def _build(cls: type, values: dict[str, Any], source: str, prefix: str) -> Any:
    """Builds a dataclass and the ones in it."""
    names = {field.name: field for field in dataclasses.fields(cls)}
    arguments = {}
    for written, value in values.items():
        name = RENAMED.get(f"{prefix}{written}", written)
        if name not in names:
            raise InputError(
                f"{source}: unknown field '{prefix}{name}': {cls.__name__} has no '{name}'."
                f"{did_you_mean(name, names)}"
            )
        kind = typing.get_type_hints(cls)[name]
        nested = dataclasses.is_dataclass(kind)
        arguments[name] = _build(kind, value, source, f"{prefix}{name}.") if nested else value
    return cls(**arguments)


def replace(config: Config, fields: dict[str, Any]) -> Config:
    """Returns a copy with some fields set, given by their dotted names."""
    return from_dict(unflatten(flatten(config) | fields))


def unflatten(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns nested dicts of fields given by their dotted names, for `from_dict`."""
    values: dict[str, Any] = {}
    for name, value in fields.items():
        section, _, leaf = name.rpartition(".")
        (values.setdefault(section, {}) if section else values)[leaf] = value
    return values


def flatten(config: Config) -> dict[str, Any]:
    """Returns {"model.num_layers": 12, ...}, every field by its dotted name."""
    flat = {}
    for name, value in to_dict(config).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{leaf}": one for leaf, one in value.items()}
        else:
            flat[name] = value
    return flat


def field_names() -> list[str]:
    """Returns the dotted names of every field."""
    return list(flatten(Config()))
