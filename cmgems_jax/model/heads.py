"""What stands on the encoder: the masked-LM head, and a classifier's two kinds of head.

Axes: B batch, L positions, D hidden, P predicted positions, V vocabulary, F features, C classes.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cmgems_jax.config import ModelConfig, TokensConfig
from cmgems_jax.genome import vocabulary
from cmgems_jax.model import bert, hardware, products
from cmgems_jax.windows.packing import Layout

CLS, FEATURES = KINDS = ("cls", "features")  # of a classifier's head
NUM_PARTS = 16  # equal ones of a sequence, whose means are features too
NUM_OTHER_FEATURES = 3 + NUM_PARTS  # hidden sizes of `pooled_features` beside the layers' means
PART_WEIGHT = 0.25  # of the parts' features in a probe, see `feature_weights`


class MaskedLM(nn.Module):
    """Encoder and masked-LM head; logits only at the predicted positions."""

    config: ModelConfig
    tokens: TokensConfig

    def setup(self) -> None:
        """Creates the encoder and the head; the decoder is the word table."""
        dtype = bert.compute_dtype(self.config)
        self.matmul = hardware.resolve(self.config).matmul
        self.encoder = bert.Encoder(self.config, self.tokens)
        self.transform = bert.dense(self.config.hidden_size, None, dtype=dtype, matmul=self.matmul)
        self.transform_norm = bert.layer_norm(dtype, None)
        self.decoder_bias = self.param(
            "decoder_bias", nn.initializers.zeros_init(), (vocabulary.size(self.tokens.k),)
        )

    def __call__(
        self,
        ids_BL: jax.Array,
        positions_P: jax.Array,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> jax.Array:
        """Returns float32 logits (P, V) at `positions_P`.

        Args:
          ids_BL: int32 (B, L), corrupted ids.
          positions_P: int32 (P,), where to predict: b * L + l.
          keys_B: one dropout key per row; None = evaluation.
          layout: of packed rows, see `Encoder`.
        """
        states_PD = self.encoder.states_at(ids_BL, positions_P, keys_B, layout)
        states_PD = bert.gelu(self.transform(states_PD))
        states_PD = self.transform_norm(states_PD)
        table_VD = self.encoder.word_embeddings.embedding.astype(states_PD.dtype)
        with jax.named_scope("head"):
            if self.matmul == products.BFLOAT16:
                logits_PV = products.rounded(states_PD, table_VD.T)
            else:
                logits_PV = jnp.einsum(
                    "pd,vd->pv", states_PD, table_VD, preferred_element_type=jnp.float32
                )
            return logits_PV + self.decoder_bias[None]


class Classifier(nn.Module):
    """Encoder and a head over the classes.

    `head_kind` CLS is the published one: the pooler over [CLS] and a linear layer (Devlin et al.
    2019). FEATURES is one linear layer over `pooled_features`.
    """

    config: ModelConfig
    tokens: TokensConfig
    num_classes: int
    head_kind: str = CLS

    def setup(self) -> None:
        """Creates the encoder and the head."""
        self.encoder = bert.Encoder(self.config, self.tokens)
        if self.head_kind == CLS:
            dtype = bert.compute_dtype(self.config)
            self.pooler = bert.dense(self.config.hidden_size, None, dtype=dtype)
        self.classifier = bert.dense(self.num_classes, None, dtype=jnp.dtype(jnp.float32))

    def __call__(self, ids_BL: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Returns float32 logits (B, C).

        Args:
          ids_BL: int32 (B, L), [CLS] first.
          keys_B: one dropout key per sequence; None = evaluation.
        """
        if self.head_kind == FEATURES:
            states = self.encoder.all_states(ids_BL, keys_B)
            return self.classifier(pooled_features(states, ids_BL))
        return self.head(self.encoder.cls_state(ids_BL, keys_B), keys_B)

    def head(self, state_BD: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Returns float32 logits (B, C) from the last state at [CLS]."""
        pooled_BD = nn.tanh(self.pooler(state_BD))
        site = 4 * self.config.num_layers + 1  # behind those of the encoder
        pooled_BD = bert.dropout(pooled_BD, keys_B, self.config.dropout, site)
        return self.classifier(pooled_BD.astype(jnp.float32))


def pooled_features(states: Sequence[jax.Array], ids_BL: jax.Array) -> jax.Array:
    """Returns what a linear layer reads of each sequence: float32 (B, F), F = (layers + 19) * D.

    The means over the k-mers of the embeddings and of every layer's states, the maximum
    over them of the last layer's, the last state at [CLS], and the means of the last layer's
    over each of `NUM_PARTS` equal parts of the k-mers, which keep what stands where (splice
    sites need it). [SEP], [PAD] and [UNK] do not count; a part without a k-mer, and a
    sequence without one of the vocabulary, has zeros.

    Args:
      states: of `bert.Encoder.all_states`, each (B, L, D).
      ids_BL: int32, what they are of.
    """
    states = [states_BLD.astype(jnp.float32) for states_BLD in states]
    is_kmer_BL = ids_BL >= vocabulary.NUM_SPECIAL
    is_kmer_BL1, count_B1 = is_kmer_BL[:, :, None], is_kmer_BL.sum(1, jnp.int32, keepdims=True)
    pooled = [
        jnp.where(is_kmer_BL1, states_BLD, 0).sum(axis=1)
        / jnp.maximum(count_B1, 1).astype(jnp.float32)
        for states_BLD in states
    ]
    # By its position: the gradient of a maximum divides by how often it is met again, which is
    # never where XLA computes the states a second time and rounds them otherwise.
    argmax_B1D = jnp.where(is_kmer_BL1, states[-1], -jnp.inf).argmax(axis=1, keepdims=True)
    largest_BD = jnp.take_along_axis(states[-1], argmax_B1D, axis=1)[:, 0]
    last_BF = jnp.concatenate([largest_BD, states[-1][:, 0]], axis=1)
    parts_BF = _means_of_parts(states[-1], is_kmer_BL)
    return jnp.concatenate([*pooled, jnp.where(count_B1 > 0, last_BF, 0), parts_BF], axis=1)


def _means_of_parts(states_BLD: jax.Array, is_kmer_BL: jax.Array) -> jax.Array:
    """Returns the means over `NUM_PARTS` equal parts of the k-mers, float32 (B, S * D)."""
    rank_BL = jnp.cumsum(is_kmer_BL, axis=1, dtype=jnp.int32) - 1
    count_B1 = jnp.maximum(rank_BL[:, -1:] + 1, 1)
    part_BL = jnp.where(is_kmer_BL, rank_BL * NUM_PARTS // count_B1, -1)
    is_in_BSL = part_BL[:, None] == jnp.arange(NUM_PARTS, dtype=jnp.int32)[None, :, None]
    size_BS1 = jnp.maximum(is_in_BSL.sum(2, jnp.int32, keepdims=True), 1)
    sums_BSD = jnp.einsum(
        "bsl,bld->bsd",
        is_in_BSL.astype(jnp.float32),
        states_BLD,
        precision=jax.lax.Precision.HIGHEST,
    )
    return (sums_BSD / size_BS1.astype(jnp.float32)).reshape(len(sums_BSD), -1)


def feature_weights(config: ModelConfig) -> np.ndarray:
    """Returns float64 (F,), by which standardised features are multiplied before a regression.

    The parts' features are many, and mostly noise where the task is one of composition: a smaller
    weight is a larger penalty (docs/results.md, "Features that keep places").
    """
    num_first = num_features(config) - NUM_PARTS * config.hidden_size
    return np.where(np.arange(num_features(config)) < num_first, 1.0, PART_WEIGHT)


def num_features(config: ModelConfig) -> int:
    """Returns F, how many features a sequence has."""
    return (config.num_layers + NUM_OTHER_FEATURES) * config.hidden_size


def param_shapes(
    config: ModelConfig,
    tokens: TokensConfig,
    num_classes: int | None = None,
    head_kind: str = CLS,
) -> dict:
    """Returns the parameters of `MaskedLM`, or of `Classifier`, as shapes and dtypes.

    Args:
      config: sizes.
      tokens: gives the vocabulary.
      num_classes: of a classifier; None = `MaskedLM`.
      head_kind: of a classifier.
    """
    inputs = [jax.ShapeDtypeStruct((1, 8), np.int32)]  # any shape gives the same parameters
    model: nn.Module = MaskedLM(config, tokens)
    if num_classes is None:
        inputs.append(jax.ShapeDtypeStruct((1,), np.int32))
    else:
        model = Classifier(config, tokens, num_classes, head_kind)
    return jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
