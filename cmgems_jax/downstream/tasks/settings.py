"""What users may set of any labelled task; here stand the defaults of the commands' flags."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """How the rows of a task are read and scored."""

    sequence_column: str = ""  # header of the task's files; "" = a usual name
    label_column: str = ""  # of several, with commas between
    labels: str = ""  # of labels.KINDS; "" = what the file plainly has
    metric: str = ""  # the main one; "" = the task's
    dedupe: bool = False  # drop repeated rows, and train rows that stand in test
    long_sequences: str = "error"  # or "truncate", or "window": see `position_limit.cut`
    reverse_complement: bool = False  # fine-tuning draws the strand of each sequence of a step
    strand: str = ""  # that is predicted from, of `vocabulary.STRANDS`; "" = both where
    # fine-tuning draws the strand, else forward

    @property
    def read_strand(self) -> str:
        """`strand`, resolved."""
        return self.strand or ("both" if self.reverse_complement else "forward")

    @property
    def label_columns(self) -> list[str]:
        """The headers of the labels, in their order; "" = a usual name."""
        return [name.strip() for name in self.label_column.split(",")]


USUAL = TaskSettings()
