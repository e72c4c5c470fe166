"""What each base does to a classifier's answer: by input gradients, or by trying every base.

Both speak of the log-odds of a class, log p / (1 - p), which a softmax does not
saturate. Axes: N sequences, M bases, B batch, L token positions, D hidden, C classes.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cmgems_jax.config import TokensConfig
from cmgems_jax.downstream.finetuning.classifier import TrainedClassifier
from cmgems_jax.downstream.inference import predict
from cmgems_jax.errors import InputError
from cmgems_jax.genome import vocabulary
from cmgems_jax.model import strands
from cmgems_jax.runtime import parallel


def log_odds(logits_BC: jax.Array, label: int) -> jax.Array:
    """Returns log p / (1 - p) of the class `label`: float32 (B,), nats."""
    others = [index for index in range(logits_BC.shape[1]) if index != label]
    others_BC = logits_BC[:, np.array(others)]
    return logits_BC[:, label] - jax.nn.logsumexp(others_BC, axis=1)


def base_scores(
    classifier: TrainedClassifier,
    bases_NM: np.ndarray,
    label: int,
    *,
    batch_size: int = 32,
    strand: str = "forward",
) -> np.ndarray:
    """Returns how much each base speaks for a class, to first order in its substitution.

    Gradient times input, with the input measured against what could stand there: the
    score of a base is the change of the class log-odds, linearised in the word
    embeddings, from the mean of the other three bases in its place to the base itself,
    summed over the k-mers that hold it. So a score falls on the base, though k k-mers
    share it (a k-mer's own score, spread over its bases, would blur k bases on either side).

    Args:
      bases_NM: uint8 (N, M), `vocabulary.PADDING` behind.
      batch_size: sequences per batch, rounded up to a multiple of the local devices.
      strand: of `vocabulary.STRANDS`, that sequences are read from; of both, the mean of
        the scores.

    Returns:
      float32 (N, M), nats; 0 at padding, and at bases that only k-mers with
      ambiguous letters hold.

    Raises:
      InputError: a sequence is longer than the classifier takes.
    """
    check_length(classifier, bases_NM)
    tokens, logits = classifier.config.tokens, predict.logits_function(classifier)

    def scores(params: dict, bases_BM: jax.Array) -> jax.Array:
        ids_BL = vocabulary.model_ids(bases_BM, tokens.k, tokens.stride)
        table_VD = params["encoder"]["word_embeddings"]["embedding"]

        def total(shift_BLD: jax.Array) -> jax.Array:
            with nn.intercept_methods(_shifted_embeddings(shift_BLD)):
                return log_odds(logits(params, bases_BM), label).sum()

        gradient_BLD = jax.grad(total)(jnp.zeros((*ids_BL.shape, table_VD.shape[1])))
        return scores_from_gradients(
            gradient_BLD[:, 1:-1], ids_BL[:, 1:-1], table_VD, bases_BM.shape[1], tokens
        )

    function = strands.on_strand(scores, strand, strands.align_bases)
    return parallel.map_rows(
        parallel.rows_program(function, classifier.params),
        bases_NM,
        batch_size=parallel.whole_batch(batch_size),
        description="scoring",
    )


def _shifted_embeddings(shift_BLD: jax.Array) -> Callable:
    """Returns an interceptor that adds to the output of the word table."""

    def intercept(
        method: Callable, args: tuple, options: dict, context: nn.module.InterceptorContext
    ) -> jax.Array:
        output = method(*args, **options)
        if isinstance(context.module, nn.Embed) and context.method_name == "__call__":
            return output + shift_BLD.astype(output.dtype)
        return output

    return intercept


def scores_from_gradients(
    gradient_BTD: jax.Array,
    ids_BT: jax.Array,
    table_VD: jax.Array,
    num_bases: int,
    tokens: TokensConfig,
) -> jax.Array:
    """Returns float32 (B, M): the bases' scores from the gradients at their k-mers' embeddings.

    Args:
      gradient_BTD: float32, of a scalar with respect to the word embeddings.
      ids_BT: int32, the k-mers; special tokens score nothing.
      table_VD: float32, word embeddings.
      num_bases: M of the sequences.
    """
    k, stride, num_kmers = tokens.k, tokens.stride, ids_BT.shape[1]
    code_BT = jnp.maximum(ids_BT - vocabulary.NUM_SPECIAL, 0)
    score_BM = jnp.zeros((len(ids_BT), num_bases))
    for offset in range(k):
        step = 4 ** (k - 1 - offset)
        base_BT = code_BT // step % 4
        alternative_4 = step * jnp.arange(4, dtype=jnp.int32)
        others_BT4 = (code_BT - base_BT * step)[:, :, None] + alternative_4[None, None]
        vectors_BT4D = table_VD[others_BT4 + vocabulary.NUM_SPECIAL]
        effect_BT4 = jnp.einsum("btd,btad->bta", gradient_BTD, vectors_BT4D)
        own_BT = jnp.take_along_axis(effect_BT4, base_BT[:, :, None], axis=2)[:, :, 0]
        score_BT = own_BT - (effect_BT4.sum(axis=2) - own_BT) / 3
        score_BT = jnp.where(ids_BT >= vocabulary.NUM_SPECIAL, score_BT, 0)
        last = offset + (num_kmers - 1) * stride
        score_BM = score_BM.at[:, offset : last + 1 : stride].add(score_BT)
    return score_BM


def mutagenesis(
    classifier: TrainedClassifier, label: int, *, batch_size: int = 32, strand: str = "forward"
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function of one sequence: the effect of every substitution of one base.

    It is compiled once per length, and raises `InputError` where the classifier takes no sequence
    of that length.

    Args:
      batch_size: mutants per batch, rounded up to a multiple of the local devices.
      strand: of `vocabulary.STRANDS`, that they are read from; of both, of the mean probability.

    Returns:
      `bases_M -> change_M4`. bases_M: uint8 (M,), codes 0..4. change_M4: float32 (M, 4),
      the change of the class log-odds in nats; columns A, T, C, G as in `vocabulary`; 0
      at the sequence's own base.
    """
    logits = predict.logits_function(classifier, strand)
    program = parallel.rows_program(
        lambda params, bases_BM: log_odds(logits(params, bases_BM), label), classifier.params
    )

    def changes(bases_M: np.ndarray) -> np.ndarray:
        check_length(classifier, bases_M[None])
        position_R, base_R = np.nonzero(bases_M[:, None] != np.arange(4))
        mutants_RM = np.repeat(bases_M[None], len(position_R) + 1, axis=0)
        # The last row stays the reference.
        mutants_RM[np.arange(len(position_R)), position_R] = base_R
        log_odds_R = parallel.map_rows(
            program,
            mutants_RM,
            batch_size=parallel.whole_batch(batch_size),
            description="mutagenesis",
        )
        change_M4 = np.zeros((len(bases_M), 4), np.float32)
        change_M4[position_R, base_R] = log_odds_R[:-1] - log_odds_R[-1]
        return change_M4

    return changes


def check_length(
    classifier: TrainedClassifier, bases_NM: np.ndarray, names: Sequence[str] = ()
) -> None:
    """Raises `InputError` where a sequence is longer than the classifier takes, or too short.

    It is told by its name, without `names` by its number from 1.
    """
    tokens = classifier.config.tokens
    longest = vocabulary.num_bases(classifier.max_tokens - 2, tokens.k, tokens.stride)
    length_N = (bases_NM != vocabulary.PADDING).sum(axis=1)
    for wrong in (length_N > longest, length_N < tokens.k):
        if wrong.any():
            row = int(wrong.argmax())
            raise InputError(
                f"sequence {names[row] if names else row + 1}: {length_N[row]} bases; the "
                f"classifier takes {tokens.k} to {longest} at a time; cut the sequences, or leave "
                "this one out"
            )
