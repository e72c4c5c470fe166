"""Scores of single-base substitutions: log p(alt) - log p(ref) of a base that is hidden.

The window is centred on the base, every token that covers the base is [MASK], and the score is
the mean over the strands. So no token tells which allele stands there.
Axes: S sites, R rows (sites and strands), N bases, A the four letters, C classes.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from cmgems_jax.downstream.finetuning.classifier import TrainedClassifier
from cmgems_jax.downstream.inference import predict, sliding
from cmgems_jax.downstream.inference.settings import IS_REVERSED, ScoreSettings
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

    @property
    def site(self) -> tuple[str, int]:
        """Contig and position."""
        return self.contig, self.position


class Scorer:
    """Scores alleles of one genome with one model, and with a classifier where there is one."""

    def __init__(
        self,
        model: Pretrained,
        reference: Reference,
        settings: ScoreSettings,
        classifier: TrainedClassifier | None = None,
    ) -> None:
        """Compiles nothing yet; raises `InputError` where --window is out of its range."""
        tokens = model.config.tokens
        tiling = sliding.make_tiling(tokens, model.config.data.num_tokens, settings.window, None)
        self.k, self.token_stride = tokens.k, tokens.stride
        self.num_bases = tiling.window_bases
        why = f"all that the {self.k}-mers around a base cover"
        sliding.check_window(tiling, settings.window, 2 * self.k - 1, why)
        self._reference, self._strands = reference, IS_REVERSED[settings.strand]
        self._map = functools.partial(
            parallel.map_rows,
            batch_size=parallel.whole_batch(settings.batch_size),
            description="",
        )
        network = heads.MaskedLM(model.config.model, tokens)
        self._posterior = base_probabilities.program(network, model.params)
        self.label_names = classifier.label_names if classifier else []
        if classifier:  # whose windows are those that it was trained on
            tiling = sliding.make_tiling(
                classifier.config.tokens, classifier.max_tokens, None, None
            )
            self._classifier_bases = tiling.window_bases
            self._predictions = parallel.rows_program(
                predict.predictions_function(classifier), classifier.params
            )
        self.dtype = np.dtype(
            [("reason", "u1"), ("score", "<f4"), ("change", "<f4", (len(self.label_names),))]
        )

    def score(self, alleles: Sequence[Allele]) -> np.ndarray:
        """Returns a row of `dtype` for each allele.

        `score` is in nats, below 0 where the model finds alt less probable than ref; `change`
        what the classifier predicts with alt minus that with ref. Both NaN without a score.
        """
        rows = np.zeros(len(alleles), self.dtype)
        rows["score"], rows["change"] = np.nan, np.nan
        reason_at = functools.cache(self._reason)
        rows["reason"] = [allele.reason or reason_at(*allele.site) for allele in alleles]
        kept = np.flatnonzero(rows["reason"] == SCORED)
        if len(kept):
            chosen = [alleles[number] for number in kept]
            sites = list(dict.fromkeys(allele.site for allele in chosen))
            log_at = dict(zip(sites, self.log_posteriors(sites), strict=True))
            rows["score"][kept] = [
                log_at[allele.site][allele.alt] - log_at[allele.site][allele.ref]
                for allele in chosen
            ]
            if self.label_names:
                rows["change"][kept] = self._changes(chosen)
        return rows

    def log_posteriors(self, sites: Sequence[tuple[str, int]]) -> np.ndarray:
        """Returns log p of A, T, C, G at sites, the mean over the strands: float32 (S, A)."""
        bases_RN, offset_R = self._windows(sites, self.num_bases)
        log_R1A = self._map(self._posterior, bases_RN, offset_R[:, None])
        log_SRA = log_R1A.reshape(len(sites), len(self._strands), 4)
        for number, is_reverse in enumerate(self._strands):
            if is_reverse:
                log_SRA[:, number] = log_SRA[:, number, _OTHER_STRAND]
        return log_SRA.mean(axis=1)

    def _changes(self, alleles: Sequence[Allele]) -> np.ndarray:
        """Returns what is predicted with alt minus that with ref: float32 (alleles, C)."""
        variants = list(
            dict.fromkeys(
                (allele.site, base) for allele in alleles for base in (allele.ref, allele.alt)
            )
        )
        bases_RN, offset_R = self._windows([site for site, _ in variants], self._classifier_bases)
        base_R = np.repeat([base for _, base in variants], len(self._strands))
        is_reverse_R = np.tile(self._strands, len(variants))
        base_R = np.where(is_reverse_R, _OTHER_STRAND[base_R], base_R)
        bases_RN[np.arange(len(base_R)), offset_R] = base_R
        share_RC = self._map(self._predictions, bases_RN)
        share_VC = share_RC.reshape(len(variants), len(self._strands), -1).mean(axis=1)
        share_of = dict(zip(variants, share_VC, strict=True))
        return np.array([share_of[a.site, a.alt] - share_of[a.site, a.ref] for a in alleles])

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

    def _windows(
        self, sites: Sequence[tuple[str, int]], num_bases: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns a row for each site and strand: bases uint8 (R, N) and the site among them (R,).

        A row is in its strand's direction, and padded.
        """
        rows = [(*site, num_bases, is_reverse) for site in sites for is_reverse in self._strands]
        bases_RN = np.full((len(rows), num_bases), vocabulary.PADDING, np.uint8)
        offset_R = np.zeros(len(rows), np.int32)
        for number, row in enumerate(rows):
            bases, offset_R[number] = self._window(*row)
            bases_RN[number, : len(bases)] = bases
        return bases_RN, offset_R

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
