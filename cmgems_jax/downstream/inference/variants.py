"""Scores of single-base substitutions: log p(alt) - log p(ref) of a base that is hidden.

The window is centred on the base, every token that covers the base is [MASK], and the score is
the mean over the strands. So no token tells which allele stands there.
Axes: S sites, R rows (sites and strands), N bases, A the four letters, C classes.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from cmgems_jax.downstream.finetuning.classifier import TrainedClassifier
from cmgems_jax.downstream.inference import predict, sliding
from cmgems_jax.downstream.inference.settings import IS_REVERSED, ScoreSettings
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.genome.reference import Reference
from cmgems_jax.model import base_probabilities, heads
from cmgems_jax.pretraining.pretrained import Pretrained
from cmgems_jax.runtime import parallel

# Why an allele has no score; its number is its code in the kept rows.
REASONS = {
    "scored": "it has a score",
    "not_snv": "no substitution of one base (an insertion, a deletion, several bases, *)",
    "ref_mismatch": "REF is not what the genome has there",
    "no_contig": "the genome has no such contig",
    "contig_end": "within k-1 bases of an end of the contig, where tokens are cut off",
    "ambiguous": "an N or another ambiguous letter in the window",
}
SCORED, NOT_SNV, REF_MISMATCH, NO_CONTIG, CONTIG_END, AMBIGUOUS = range(len(REASONS))
_OTHER_STRAND = np.array([1, 0, 3, 2])  # the letters' complements


@dataclasses.dataclass(frozen=True, slots=True)
class Allele:
    """A substitution, or (`reason` > 0) something that gets no score."""

    contig: str = ""  # as the genome calls it
    position: int = 0  # 0-based
    ref: int = 0  # base codes
    alt: int = 0
    reason: int = SCORED


@dataclasses.dataclass
class _Windows:
    """What a network sees around sites."""

    bases_RN: np.ndarray  # uint8, each row in its strand's direction, padded
    offset_R: np.ndarray  # int32, the site in its row


class Scorer:
    """Scores alleles of one genome with one model, and with a classifier where there is one."""

    def __init__(
        self,
        model: Pretrained,
        reference: Reference,
        settings: ScoreSettings,
        classifier: TrainedClassifier | None = None,
    ) -> None:
        """Compiles nothing yet.

        Args:
          model: from `pretrained.load_masked_lm`.
          reference: the genome.
          settings: see there.
          classifier: whose predictions are compared too.

        Raises:
          InputError: --window is out of its range.
        """
        tokens = model.config.tokens
        tiling = sliding.make_tiling(tokens, model.config.data.num_tokens, settings.window, None)
        self.k, self.token_stride = tokens.k, tokens.stride
        self.num_bases = tiling.window_bases
        if self.num_bases < 2 * self.k - 1:
            raise InputError(
                f"--window={settings.window}: expected {2 * self.k - 1} bases or more, all that "
                f"the {self.k}-mers around a base cover"
            )
        self._reference, self._strands = reference, IS_REVERSED[settings.strand]
        self._batch_size = parallel.whole_batch(settings.batch_size)
        network = heads.MaskedLM(model.config.model, tokens)
        self._posterior = base_probabilities.program(network, model.params)
        self.label_names = classifier.label_names if classifier else []
        if classifier:
            self._prepare(classifier)
        self.dtype = np.dtype(
            [("reason", "u1"), ("score", "<f4"), ("change", "<f4", (len(self.label_names),))]
        )

    def _prepare(self, classifier: TrainedClassifier) -> None:
        """Makes the classifier's program; its windows are those that it was trained on."""
        tiling = sliding.make_tiling(classifier.config.tokens, classifier.max_tokens, None, None)
        self._classifier_bases = tiling.window_bases
        self._predictions = parallel.rows_program(
            predict.predictions_function(classifier), classifier.params
        )

    def score(self, alleles: Sequence[Allele]) -> np.ndarray:
        """Returns a row of `dtype` for each allele.

        `score` is in nats, below 0 where the model finds alt less probable than ref; `change`
        what the classifier predicts with alt minus that with ref. Both NaN without a score.
        """
        rows = np.zeros(len(alleles), self.dtype)
        rows["score"], rows["change"] = np.nan, np.nan
        rows["reason"] = [allele.reason for allele in alleles]
        reason_of: dict[tuple[str, int], int] = {}
        for allele in alleles:
            site = allele.contig, allele.position
            if allele.reason == SCORED and site not in reason_of:
                reason_of[site] = self._reason(*site)
        number_of = {site: number for number, site in enumerate(
            site for site, reason in reason_of.items() if reason == SCORED
        )}  # fmt: skip
        for row, allele in zip(rows, alleles, strict=True):
            row["reason"] = row["reason"] or reason_of[allele.contig, allele.position]
        kept = [number for number, row in enumerate(rows) if row["reason"] == SCORED]
        if kept:
            log_SA = self.log_posteriors(list(number_of))
            chosen = [alleles[number] for number in kept]
            site = [number_of[allele.contig, allele.position] for allele in chosen]
            ref, alt = ([getattr(allele, name) for allele in chosen] for name in ("ref", "alt"))
            rows["score"][kept] = log_SA[site, alt] - log_SA[site, ref]
            if self.label_names:
                rows["change"][kept] = self._changes(chosen)
        return rows

    def log_posteriors(self, sites: Sequence[tuple[str, int]]) -> np.ndarray:
        """Returns log p of A, T, C, G at sites, the mean over the strands: float32 (S, A)."""
        windows = self._windows(sites, self.num_bases)
        log_RA = self._in_batches(self._posterior, windows.bases_RN, windows.offset_R[:, None])
        log_RA = log_RA[:, 0].reshape(len(sites), len(self._strands), 4)
        for number, is_reverse in enumerate(self._strands):
            if is_reverse:
                log_RA[:, number] = log_RA[:, number, _OTHER_STRAND]
        return log_RA.mean(axis=1)

    def _changes(self, alleles: Sequence[Allele]) -> np.ndarray:
        """Returns what is predicted with alt minus that with ref: float32 (alleles, C)."""
        variants = dict.fromkeys(
            (allele.contig, allele.position, base)
            for allele in alleles
            for base in (allele.ref, allele.alt)
        )
        number_of = {variant: number for number, variant in enumerate(variants)}
        windows = self._windows([variant[:2] for variant in variants], self._classifier_bases)
        base_R = np.repeat([base for _, _, base in variants], len(self._strands))
        is_reverse_R = np.tile(self._strands, len(variants))
        base_R = np.where(is_reverse_R, _OTHER_STRAND[base_R], base_R)
        windows.bases_RN[np.arange(len(base_R)), windows.offset_R] = base_R
        share_RC = self._in_batches(self._predictions, windows.bases_RN)
        share_VC = share_RC.reshape(len(variants), len(self._strands), -1).mean(axis=1)
        ref, alt = (
            [number_of[a.contig, a.position, getattr(a, name)] for a in alleles]
            for name in ("ref", "alt")
        )
        return share_VC[alt] - share_VC[ref]

    def _reason(self, contig: str, position: int) -> int:
        """Returns why a site cannot be scored, or SCORED."""
        for is_reverse in self._strands:
            bases, offset = self._window(contig, position, self.num_bases, is_reverse)
            num_tokens = vocabulary.num_tokens(len(bases), self.k, self.token_stride)
            last = (num_tokens - 1) * self.token_stride  # start of the last token
            if not self.k - 1 <= offset <= last:
                return CONTIG_END
            if bases.max() >= vocabulary.AMBIGUOUS:
                return AMBIGUOUS
            if self.label_names:
                bases, _ = self._window(contig, position, self._classifier_bases, is_reverse)
                if bases.max() >= vocabulary.AMBIGUOUS:
                    return AMBIGUOUS
        return SCORED

    def _windows(self, sites: Sequence[tuple[str, int]], num_bases: int) -> _Windows:
        """Returns the windows around the sites, for each in every strand."""
        num_rows = len(sites) * len(self._strands)
        bases_RN = np.full((num_rows, num_bases), vocabulary.PADDING, np.uint8)
        offset_R = np.zeros(num_rows, np.int32)
        row = 0
        for contig, position in sites:
            for is_reverse in self._strands:
                bases, offset_R[row] = self._window(contig, position, num_bases, is_reverse)
                bases_RN[row, : len(bases)] = bases
                row += 1
        return _Windows(bases_RN, offset_R)

    def _window(
        self, contig: str, position: int, num_bases: int, is_reverse: bool
    ) -> tuple[np.ndarray, int]:
        """Returns the bases around a site, and the site's offset among them.

        All is reckoned in the strand's own direction, so that either strand of a genome gets
        the same windows. At the contig's ends the window is shifted inside.
        """
        length = self._reference.lengths[contig]
        if is_reverse:
            position = length - 1 - position
        start = max(0, min(position - num_bases // 2, length - num_bases))
        end = min(start + num_bases, length)
        if is_reverse:
            bases = self._reference.fetch(contig, length - end, length - start)
            return vocabulary.reverse_complement(bases), position - start
        return self._reference.fetch(contig, start, end), position - start

    def _in_batches(self, program: Callable, *rows: np.ndarray) -> np.ndarray:
        """Returns a program's outputs for all rows."""
        return parallel.map_rows(program, *rows, batch_size=self._batch_size, description="")
