"""What each study compares: its arms, as changes of one config (SPEC section 7)."""

import dataclasses
from collections.abc import Callable
from typing import Any

from cmgems_jax import config as config_lib
from cmgems_jax import config_checks
from cmgems_jax.config import Config

FACTORS = (0.5, 1.0, 1.5, 2.0)  # of the published threshold, and of GLOBAL's m


@dataclasses.dataclass(frozen=True)
class Arm:
    """One line of a study's tables."""

    name: str  # of its folder
    fields: dict[str, Any]  # dotted config fields that it sets
    reference: str  # the arm that it is compared with; its own name: none


@dataclasses.dataclass(frozen=True)
class Study:
    """A question, and the arms that answer it."""

    question: str
    arms: Callable[[Config], list[Arm]]  # of the preset


def config_of(preset: Config, arm: Arm, seed: int) -> Config:
    """Returns the arm's config.

    Raises:
      InputError: the preset and the arm's fields do not fit together.
    """
    config = config_lib.replace(preset, arm.fields | {"seed": seed})
    config_checks.validate(config)
    return config


def _fixed(strategy: str) -> dict[str, Any]:
    """One strategy from the first step to the last."""
    return {"curriculum.name": "fixed", "curriculum.strategy": strategy}


STRATEGIES = {
    "random": _fixed("random"),
    "genemask": _fixed("genemask"),
    "global": _fixed("global"),
    "cm_gems": {"curriculum.name": "cm_gems"},
    "cm_step": {"curriculum.name": "cm_step"},
    "random_spans": _fixed("random_spans"),
    "genemask_by_position": _fixed("genemask_by_position"),
    "global_by_position": _fixed("global_by_position"),
    "random_mask": _fixed("random_mask"),
}
_PLAIN_INIT = {"model.embedding_init": "bert", "model.position_init": "bert"}
_STRUCTURED_INIT = {"model.embedding_init": "bases", "model.position_init": "sinusoidal"}


def _strategy(preset: Config) -> list[Arm]:
    """Every strategy and every control, against DNABERT's."""
    return [Arm(name, fields, "random") for name, fields in STRATEGIES.items()]


def _threshold(preset: Config) -> list[Arm]:
    """Multiples of the preset's threshold: 0.5, 1, 1.5, 2 of the published one."""
    return [
        Arm(
            f"threshold_{value:g}",
            STRATEGIES["cm_gems"] | {"curriculum.threshold": value},
            f"threshold_{preset.curriculum.threshold:g}",
        )
        for value in (round(factor * preset.curriculum.threshold, 6) for factor in FACTORS)
    ]


def _kmer(preset: Config) -> list[Arm]:
    """Lengths of the k-mers; PMI of k other than 6 is counted from the corpus.

    A threshold in units of perplexity is scaled with the vocabulary, 4**k, which is the
    perplexity of a model that knows nothing: 100 of 4,096 are 1.6 of 64.
    """
    arms = []
    for k in range(3, 8):
        fields = STRATEGIES["cm_gems"] | {"tokens.k": k}
        if preset.curriculum.threshold_kind == "absolute":
            fields["curriculum.threshold"] = preset.curriculum.threshold * 4.0 ** (k - 6)
        arms.append(Arm(f"k{k}", fields, "k6"))
    return arms


def _top_m(preset: Config) -> list[Arm]:
    """How many tokens GLOBAL chooses."""
    return [Arm(f"m_{m:g}", STRATEGIES["cm_gems"] | {"masking.top_m": m}, "m_1") for m in FACTORS]


def _runtime(preset: Config) -> list[Arm]:
    """One run, for its table of costs."""
    return [Arm("cm_gems", STRATEGIES["cm_gems"], "cm_gems")]


def _init(preset: Config) -> list[Arm]:
    """BERT's initial values against structured ones, two learning rates, two curricula."""
    arms = []
    for strategy in ("random", "cm_gems"):
        for factor in (1 / 3, 1):
            rate = float(f"{preset.optimizer.peak_lr * factor:.1g}")
            ending = f"{strategy}_lr{rate:g}"
            for kind, fields in (("bert", _PLAIN_INIT), ("structured", _STRUCTURED_INIT)):
                changes = STRATEGIES[strategy] | fields | {"optimizer.peak_lr": rate}
                arms.append(Arm(f"{kind}_{ending}", changes, f"bert_{ending}"))
    return arms


def _corruption(preset: Config) -> list[Arm]:
    """One sample per masked token against one per masked run."""
    return [
        Arm(
            f"{strategy}_{kind}",
            STRATEGIES[strategy] | {"masking.corruption": kind},
            f"{strategy}_token",
        )
        for strategy in ("random", "genemask", "global", "cm_gems")
        for kind in ("token", "run")
    ]


def _difficulty(preset: Config) -> list[Arm]:
    """Is PMI the right difficulty? Random spans against PMI, and against what controls for it."""
    fields = {
        name: STRATEGIES[name]
        for name in ("random_spans", "random", "genemask", "global", "cm_gems")
    }
    for kind in ("shuffled", "learned"):
        fields[f"rank_{kind}"] = STRATEGIES["cm_gems"] | {"masking.ranks": kind}
    for name in ("random_spans", "cm_gems"):
        fields[f"base_{name}"] = STRATEGIES[name] | {"masking.objective": "base"}
    return [Arm(name, changes, "random_spans") for name, changes in fields.items()]


STUDIES = {
    "strategy": Study("Which masks teach the most, and is it PMI that does it?", _strategy),
    "threshold": Study("When should the curriculum switch?", _threshold),
    "kmer": Study("How long should a k-mer be?", _kmer),
    "top_m": Study("How many tokens should GLOBAL choose?", _top_m),
    "runtime": Study("What does a run cost, and where does the time go?", _runtime),
    "init": Study("Do structured initial values save steps, and does it last?", _init),
    "corruption": Study("Does hiding whole runs alike help?", _corruption),
    "difficulty": Study("Is PMI the right difficulty, or is any?", _difficulty),
}
