"""What users may set of predictions, embeddings, variant scores and tracks."""

import dataclasses

# Of each of `vocabulary.STRANDS`, in which directions windows are read.
IS_REVERSED = {"forward": (False,), "reverse": (True,), "both": (False, True)}


@dataclasses.dataclass(frozen=True)
class WindowSettings:
    """How records of any length are read."""

    window: int | None = None  # bases; None = the longest that the model takes
    stride: int | None = None  # bases between the starts of windows; None = half a window
    batch_size: int = 32  # windows at a time
    strand: str | None = None  # of `vocabulary.STRANDS`; None = what the model was made for


DEFAULT_WINDOWS = WindowSettings()


@dataclasses.dataclass(frozen=True)
class ScoreSettings:
    """How single-base substitutions are scored; here stand the defaults of the flags."""

    strand: str = "both"  # of `vocabulary.STRANDS`; both = the mean
    window: int | None = None  # bases that the model sees; None = as long as in pretraining
    batch_size: int = 32  # windows at a time
    ignore_chr_prefix: bool = False  # take `1` and `chr1` as one contig
    skip_mismatches: bool = False  # leave records unscored that the genome contradicts


@dataclasses.dataclass(frozen=True)
class BaseTrackSettings:
    """How every base of a genome is scored; here stand the defaults of the flags."""

    strand: str = "both"
    window: int | None = None
    spacing: int | None = None  # bases between those hidden in one pass; None = 4 k
    batch_size: int = 32
