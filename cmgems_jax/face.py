"""A trained model from Python: what `cmgems_jax.load` returns.

Thin: each method calls what the command of the same name calls, so both give the same numbers.
Axes: N sequences, T k-mers of a sequence, M bases of a sequence, D hidden, V vocabulary,
C classes, A the letters A, T, C, G in this order.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cmgems_jax.config import STRATEGIES
from cmgems_jax.downstream.finetuning import classifier
from cmgems_jax.downstream.finetuning.classifier import TrainedClassifier
from cmgems_jax.downstream.inference import embed, predict
from cmgems_jax.downstream.inference.embed import Embedder
from cmgems_jax.downstream.inference.settings import WindowSettings
from cmgems_jax.errors import InputError, did_you_mean
from cmgems_jax.genome import input_files, vocabulary
from cmgems_jax.genome import sequences as sequences_lib
from cmgems_jax.genome.sequences import Sequences
from cmgems_jax.huggingface import load as huggingface
from cmgems_jax.masking import strategies
from cmgems_jax.model import base_probabilities, heads
from cmgems_jax.pmi import table as pmi_table
from cmgems_jax.pretraining import packaged, pretrained, run_inputs
from cmgems_jax.pretraining.pretrained import Pretrained
from cmgems_jax.runtime import parallel

_BATCH = 32  # windows at a time, as of the commands
_COLUMNS = 80  # of a mask as text


@dataclasses.dataclass
class Mask:
    """Which k-mers of a sequence a strategy masks; as text, what that hides."""

    sequence: str
    masked_T: np.ndarray  # bool (T,)
    hidden_M: np.ndarray  # bool (M,), bases that no visible k-mer shows
    stride: int

    def __str__(self) -> str:
        """Returns the sequence, a # where a masked k-mer starts, and the sequence as it is seen."""
        marks = np.full(len(self.sequence), " ")
        marks[: len(self.masked_T) * self.stride : self.stride] = np.where(self.masked_T, "#", ".")
        seen = np.where(self.hidden_M, "_", [*self.sequence])
        lines = self.sequence, "".join(marks), "".join(seen)
        blocks = [
            "\n".join(line[start : start + _COLUMNS] for line in lines)
            for start in range(0, len(self.sequence), _COLUMNS)
        ]
        return "\n\n".join(blocks)


class Model:
    """A masked-LM (a run, an import) or a classifier, on all local devices.

    Sequences are strings, lists of strings, or the path of a FASTA or .2bit file; a single
    string counts as a list of one. Letters other than A, C, G, T, U are [UNK] tokens.

    Attributes:
      name: of its folder.
      config: of its pretraining.
      label_names: of the classes 0, 1, ...; None where it is no classifier.
    """

    def __init__(self, path: Path | str) -> None:
        """Reads the parameters; see `cmgems_jax.load`."""
        path = Path(input_files.expand(path))
        if (path / classifier.RECORD).exists():
            whole = classifier.load_classifier(path)
        elif huggingface.is_huggingface(path):
            whole = huggingface.read(path)
        else:
            whole = pretrained.load_masked_lm(path)
        is_classifier = isinstance(whole, TrainedClassifier)
        self._folder, self.config = path, whole.config
        self._classifier: TrainedClassifier | None = whole if is_classifier else None
        self._masked_lm: Pretrained | None = None if is_classifier else whole
        self.name: str = path.resolve().name if is_classifier else whole.name
        self.label_names: list[str] | None = whole.label_names if is_classifier else None

    def __repr__(self) -> str:
        """Returns kind, name and sizes."""
        kind = f"classifier of {', '.join(self.label_names)}" if self.label_names else "masked-LM"
        model, tokens = self.config.model, self.config.tokens
        sizes = f"{model.num_layers} layers x {model.hidden_size}, {tokens.k}-mers"
        return f"<{kind} '{self.name}', {sizes}>"

    def tokens(self, sequence: str) -> list[str]:
        """Returns the T k-mers that the model sees, "[UNK]" where a letter is no base."""
        (bases_M,) = sequences_lib.bases(sequence)
        names = vocabulary.tokens(self.config.tokens.k, self.config.tokens.alphabet)
        return [names[number] for number in vocabulary.tokenize(bases_M, *self._spans)]

    def embed(
        self,
        sequences: Sequences,
        *,
        pooling: str = "mean",
        strand: str | None = None,
        batch_size: int = _BATCH,
    ) -> np.ndarray | list[np.ndarray]:
        """Returns float32 (N, D), or for "tokens" N arrays (T, D); as launch.embed does.

        Args:
          sequences: of any length; long ones are read in overlapping windows.
          pooling: "mean" over the k-mers, "cls", or "tokens": every k-mer.
          strand: "forward", "reverse", "both" (the mean); None = what the model was made for.
          batch_size: windows at a time.
        """
        if pooling not in embed.POOLINGS:
            raise InputError(f"pooling={pooling!r}: expected one of {', '.join(embed.POOLINGS)}")
        settings = WindowSettings(strand=_strand(strand), batch_size=batch_size)
        windows, _, _ = embed.run(
            self._embedder,
            sequences_lib.records(sequences, self.config.tokens.k),
            pooling,
            settings,
        )
        if pooling == "tokens":
            return [np.concatenate(parts) for _, parts in embed.record_states(windows)]
        return np.stack([embedding_D for _, embedding_D in embed.record_rows(windows)])

    def predict(
        self, sequences: Sequences, *, strand: str | None = None, batch_size: int = _BATCH
    ) -> np.ndarray:
        """Returns float32 (N, C), the probabilities of `label_names`; as launch.predict does.

        Arguments as for `embed`.
        """
        if self._classifier is None:
            raise InputError(
                f"{self._folder}: a pretrained model predicts no classes; fine-tune it first "
                "(python -m launch.finetune), and load its --output"
            )
        settings = WindowSettings(strand=_strand(strand), batch_size=batch_size)
        windows, _, _ = predict.run(
            self._classifier, sequences_lib.records(sequences, self.config.tokens.k), settings
        )
        means = [mean_C for _, _, mean_C in predict.record_means(windows)]
        return np.stack(means).astype(np.float32)

    def logits(self, sequence: str, hidden: Sequence[int] = ()) -> np.ndarray:
        """Returns float32 (T, V), the scores of every token id at every k-mer.

        Args:
          sequence: of at most as many bases as the model sees at a time.
          hidden: bases, from 0, to hide: every k-mer that touches one is [MASK].
        """
        bases_M = self._single(sequence)
        longest = vocabulary.num_bases(self.config.model.num_positions - 2, *self._spans)
        if len(bases_M) > longest:
            raise InputError(
                f"a sequence of {len(bases_M):,} bases: expected at most {longest:,}, what the "
                "model sees at a time; give a part of it"
            )
        hidden_M = np.zeros(len(bases_M), bool)
        if not all(0 <= base < len(bases_M) for base in hidden):
            raise InputError(f"hidden={list(hidden)}: expected bases from 0 to {len(bases_M) - 1}")
        hidden_M[list(hidden)] = True
        ids_L = vocabulary.model_ids(bases_M, *self._spans)
        masked_T = np.asarray(base_probabilities.touching(hidden_M[None], *self._spans))[0]
        ids_L[1:-1][masked_T] = vocabulary.MASK
        return np.asarray(self._logits(self._lm.params, ids_L[None]))

    def base_probabilities(self, sequences: Sequences) -> list[np.ndarray]:
        """Returns float32 (M, A) per sequence: each base's probabilities, given all the others.

        The base is hidden, with every k-mer that touches it, in a window around it that is as
        long as the model takes.
        """
        k = self.config.tokens.k
        return [self._posterior(bases_M) for bases_M in sequences_lib.bases(sequences, k)]

    def mask(self, sequence: str, strategy: str = "genemask", key: int | jax.Array = 0) -> Mask:
        """Returns what a strategy masks of a sequence, under the run's ranks and budget.

        Args:
          sequence: of at least k bases.
          strategy: one of `config.STRATEGIES`: random, genemask, global, ...
          key: a seed, or a PRNG key.
        """
        if strategy not in STRATEGIES:
            raise InputError(
                f"strategy={strategy!r}: expected one of {', '.join(STRATEGIES)}."
                f"{did_you_mean(strategy, STRATEGIES)}"
            )
        bases_M = self._single(sequence)
        k, stride = self._spans
        settings = self.config.masking
        masked_L = strategies.sample_mask(
            jax.random.key(key) if isinstance(key, int) else key,
            jnp.asarray(vocabulary.model_ids(bases_M, k, stride)),
            jnp.asarray(self._ranks),
            strategy=strategy,
            budget=settings.budget,
            k=k,
            stride=stride,
            min_distance=settings.min_distance,
            top_m=settings.top_m,
        )
        masked_T = np.asarray(masked_L)[1:-1]
        shown_1N = base_probabilities.covered(~masked_T[None], k=k, stride=stride)
        hidden_M = np.zeros(len(bases_M), bool)  # no k-mer reaches those behind N
        hidden_M[: shown_1N.shape[1]] = ~np.asarray(shown_1N[0])
        text = vocabulary.decode(bases_M, self.config.tokens.alphabet)
        return Mask(text, masked_T, hidden_M, stride)

    @property
    def _spans(self) -> tuple[int, int]:
        """k and stride."""
        return self.config.tokens.k, self.config.tokens.stride

    @property
    def _lm(self) -> Pretrained:
        """The masked-LM, which a classifier is not."""
        if self._masked_lm is None:
            raise InputError(f"{self._folder}: a classifier has no masked-LM head; load the run")
        return self._masked_lm

    @functools.cached_property
    def _embedder(self) -> Embedder:
        """The encoder alone."""
        if self._classifier is not None:
            return embed.of_classifier(self._classifier)
        encoder = dataclasses.replace(self._lm, params=self._lm.params["encoder"])
        return embed.of_pretrained(encoder)

    @functools.cached_property
    def _network(self) -> heads.MaskedLM:
        """The masked-LM's network."""
        return heads.MaskedLM(self.config.model, self.config.tokens)

    @functools.cached_property
    def _logits(self):
        """(params, ids (1, L)) -> float32 (T, V)."""
        return jax.jit(
            lambda params, ids_BL: self._network.apply(
                {"params": params}, ids_BL, jnp.arange(1, ids_BL.shape[1] - 1, dtype=jnp.int32)
            )
        )

    @functools.cached_property
    def _posteriors(self):
        """(bases_BM, hidden_B1) -> log probabilities (B, 1, A)."""
        return base_probabilities.program(self._network, self._lm.params)

    @functools.cached_property
    def _ranks(self) -> np.ndarray:
        """The run's PMI ranks, int32 (4**k,)."""
        is_run = not (packaged.is_name(self._folder) or huggingface.is_huggingface(self._folder))
        if self._masked_lm is not None and is_run:
            workdir, _ = pretrained.locate(self._folder)
            if (ranks_V := run_inputs.read_ranks(workdir)) is not None:
                return ranks_V
        if self.config.pmi_source == "corpus":
            raise InputError(
                f"{self._folder}: no ranks of {self.config.tokens.k}-mers are recorded with it, "
                "and none are embedded; masks need those of a pretraining run"
            )
        return pmi_table.ranks_for(self.config, [])

    def _single(self, sequence: str) -> np.ndarray:
        """Returns the base codes of one sequence."""
        each = sequences_lib.bases(sequence, self.config.tokens.k)
        if len(each) != 1:
            raise InputError(f"{len(each):,} sequences: expected one")
        return each[0]

    def _posterior(self, bases_M: np.ndarray) -> np.ndarray:
        """Returns float32 (M, A): each base in a window around it."""
        num_bases, width = len(bases_M), min(len(bases_M), self.config.window_bases)
        base_M = np.arange(num_bases)
        start_M = np.clip(base_M - width // 2, 0, num_bases - width)
        log_MA = parallel.map_rows(
            lambda *rows: self._posteriors(*rows)[:, 0],
            np.lib.stride_tricks.sliding_window_view(bases_M, width)[start_M],
            (base_M - start_M)[:, None].astype(np.int32),
            batch_size=parallel.whole_batch(_BATCH),
            description="hiding bases",
        )
        return np.exp(log_MA)


def _strand(strand: str | None) -> str | None:
    """Returns the strand, which must be one."""
    if strand not in (None, *vocabulary.STRANDS):
        raise InputError(f"strand={strand!r}: expected one of {', '.join(vocabulary.STRANDS)}")
    return strand
