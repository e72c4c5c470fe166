"""BERT's encoder in flax.linen; what stands on it lies in heads.py.

Post-LayerNorm, exact gelu, learned positions (Devlin et al. 2019;
sizes of DNABERT, Ji et al. 2021, and LOGO, Yang et al. 2022). Parameter names
map one to one to HuggingFace's BertForMaskedLM and BertForSequenceClassification.
Axes: B rows of the batch, L tokens, Q tokens whose states are returned, D hidden, H heads, K head
width, P predicted positions of the whole batch.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from cmgems_jax.config import ModelConfig, TokensConfig
from cmgems_jax.genome import vocabulary
from cmgems_jax.model import attention, hardware, initial_values, products
from cmgems_jax.windows.packing import Layout

LAYER_NORM_EPS = 1e-12
NUM_SEGMENTS = 2


def compute_dtype(config: ModelConfig) -> jnp.dtype:
    """Returns the dtype of the computation."""
    return jnp.dtype(hardware.resolve(config).dtype)


@jax.named_scope("dropout")
def dropout(x: jax.Array, keys_B: jax.Array | None, rate: float, site: int) -> jax.Array:
    """Returns x (B, ...) with a share `rate` of each row's values zeroed, the rest scaled.

    Each row has its own key, so that what is dropped does not depend on the
    number of devices.

    Args:
      x: (B, ...).
      keys_B: one key per row; None = no dropout (evaluation).
      rate: share dropped, static.
      site: which dropout of the model this is; sites draw independently.
    """
    if keys_B is None or rate == 0:
        return x
    site_keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, site)
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(site_keys_B)
    # By itself: drawn once for both passes, and not within the matrix products around it, whose
    # code a TPU's compiler then takes three times as long for (benchmarks/NOTES.md).
    kept = jax.lax.optimization_barrier(kept)
    return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))


@jax.named_scope("gelu")
def gelu(x: jax.Array) -> jax.Array:
    """Returns the exact gelu, computed in float32.

    By erf, as PyTorch does: `nn.gelu` takes erfc, for which a TPU's compiler plans 1.4 times the
    cycles of the whole feed-forward part and four times its compilation (benchmarks/NOTES.md).
    """
    y = x.astype(jnp.float32)
    return (0.5 * y * (1 + jax.lax.erf(y * 2**-0.5))).astype(x.dtype)


class Layer(nn.Module):
    """One transformer block: self-attention and feed-forward, each added and normalised."""

    config: ModelConfig
    index: int

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        segment_BL: jax.Array,
        keys_B: jax.Array | None,
        num_queries: int | None = None,
        positions_P: jax.Array | None = None,
    ) -> jax.Array:
        """Returns the states (B, L, D), or those that are asked for.

        Args:
          x_BLD: states of the layer below.
          segment_BL: int32; a position attends to those of its own segment.
          keys_B: one dropout key per row; None = evaluation.
          num_queries: static; the first so many positions are asked for: (B, Q, D).
          positions_P: int32, b * L + l; these are asked for: (P, D). Behind the attention
            nothing is computed for the others.
        """
        config, dtype, site = self.config, x_BLD.dtype, 4 * self.index
        linear = functools.partial(dense, dtype=dtype, matmul=config.matmul)
        context = self._attention(x_BLD, segment_BL, keys_B, num_queries)
        x = x_BLD[:, :num_queries]
        if positions_P is not None:
            x, context = (_at(states, positions_P) for states in (x, context))
            keys_B = _keys_at(keys_B, positions_P, x_BLD.shape[1])
        context = linear(config.hidden_size, "attention_output")(context)
        context = dropout(context, keys_B, config.dropout, site + 1)
        x = layer_norm(dtype, "attention_norm")(x + context)
        inner = gelu(linear(config.feedforward_size, "intermediate")(x))
        output = linear(config.hidden_size, "output")(inner)
        output = dropout(output, keys_B, config.dropout, site + 2)
        return layer_norm(dtype, "output_norm")(x + output)

    def _attention(
        self,
        x_BLD: jax.Array,
        segment_BL: jax.Array,
        keys_B: jax.Array | None,
        num_queries: int | None,
    ) -> jax.Array:
        """Returns the attended values (B, Q, D), before the output projection."""
        config, dtype = self.config, x_BLD.dtype
        linear = functools.partial(dense, dtype=dtype, matmul=config.matmul)
        heads = (config.num_heads, config.hidden_size // config.num_heads)
        q_BQHK, k_BLHK, v_BLHK = (
            linear(config.hidden_size, name)(asked).reshape(*asked.shape[:2], *heads)
            for name, asked in (("query", x_BLD[:, :num_queries]), ("key", x_BLD), ("value", x_BLD))
        )
        if keys_B is None or config.attention_dropout == 0:
            operands = products.operands(config.matmul, q_BQHK, k_BLHK, v_BLHK)
            context = attention.attend(*operands, segment_BL, way=config.attention)
            return context.reshape(*context.shape[:2], -1).astype(dtype)
        scores_BHQL = jnp.einsum("bqhk,blhk->bhql", q_BQHK, k_BLHK).astype(jnp.float32)
        scores_BHQL *= heads[1] ** -0.5
        is_own_BQL = segment_BL[:, :num_queries, None] == segment_BL[:, None, :]
        scores_BHQL = jnp.where(is_own_BQL[:, None], scores_BHQL, -1e9)
        weights_BHQL = jax.nn.softmax(scores_BHQL).astype(dtype)
        weights_BHQL = dropout(weights_BHQL, keys_B, config.attention_dropout, 4 * self.index + 3)
        context = jnp.einsum("bhql,blhk->bqhk", weights_BHQL, v_BLHK)
        return context.reshape(*context.shape[:2], -1)


class Encoder(nn.Module):
    """Embeddings and blocks."""

    config: ModelConfig
    tokens: TokensConfig

    def setup(self) -> None:
        """Creates the tables and blocks."""
        config = hardware.resolve(self.config)
        self.word_embeddings = nn.Embed(
            vocabulary.size(self.tokens.k),
            config.hidden_size,
            embedding_init=initial_values.words(config, self.tokens.k),
        )
        self.position_embeddings = self.param(
            "position_embeddings",
            initial_values.positions(config),
            (config.num_positions, config.hidden_size),
        )
        self.segment_embeddings = self.param(
            "segment_embeddings", initial_values.normal, (NUM_SEGMENTS, config.hidden_size)
        )
        self.embeddings_norm = layer_norm(compute_dtype(config), None)
        layer = _layer_class(config.remat)
        self.layers = [layer(config, index) for index in range(config.num_layers)]

    def __call__(
        self, ids_BL: jax.Array, keys_B: jax.Array | None = None, layout: Layout | None = None
    ) -> jax.Array:
        """Returns the states of the last layer.

        Args:
          ids_BL: int32 (B, L), L at most `num_positions`; [PAD] is attended to nowhere.
          keys_B: one dropout key per row; None = evaluation.
          layout: of rows that hold several windows, (B, L): positions restart with
            every window, and attention stays within it. None = one window per row.

        Returns:
          (B, L, D) in the compute dtype.
        """
        return self.all_states(ids_BL, keys_B, layout)[-1]

    def all_states(
        self, ids_BL: jax.Array, keys_B: jax.Array | None = None, layout: Layout | None = None
    ) -> tuple[jax.Array, ...]:
        """Returns the embeddings and the states of every layer, each (B, L, D); see `__call__`."""
        x_BLD = self.embed(ids_BL, keys_B, layout)
        return (x_BLD, *self.blocks(x_BLD, ids_BL != vocabulary.PAD, keys_B, layout))

    def cls_state(self, ids_BL: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Returns the last state at [CLS] alone, (B, D), without computing the others'."""
        x_BLD, segment_BL = self._below_the_last(ids_BL, keys_B, None)
        return self.layers[-1](x_BLD, segment_BL, keys_B, 1)[:, 0]

    def states_at(
        self,
        ids_BL: jax.Array,
        positions_P: jax.Array,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> jax.Array:
        """Returns the last states at `positions_P` (b * L + l) alone, (P, D); see `__call__`."""
        x_BLD, segment_BL = self._below_the_last(ids_BL, keys_B, layout)
        return self.layers[-1](x_BLD, segment_BL, keys_B, None, positions_P=positions_P)

    def _below_the_last(
        self, ids_BL: jax.Array, keys_B: jax.Array | None, layout: Layout | None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns what the last layer sees, (B, L, D), and the segments, (B, L)."""
        segment_BL = _segments(ids_BL != vocabulary.PAD, layout)
        x_BLD = self.embed(ids_BL, keys_B, layout)
        for layer in self.layers[:-1]:
            x_BLD = layer(x_BLD, segment_BL, keys_B, None)
        return x_BLD, segment_BL

    def embed(
        self, ids_BL: jax.Array, keys_B: jax.Array | None = None, layout: Layout | None = None
    ) -> jax.Array:
        """Returns the embeddings that the first layer sees: (B, L, D) in the compute dtype."""
        x_BLD = self.word_embeddings(ids_BL)
        if layout is None:
            x_BLD += self.position_embeddings[None, : ids_BL.shape[1]]
        else:
            x_BLD += self.position_embeddings[layout.position]
        x_BLD += self.segment_embeddings[None, :1]
        x_BLD = self.embeddings_norm(x_BLD)
        return dropout(x_BLD, keys_B, self.config.dropout, 4 * self.config.num_layers)

    def blocks(
        self,
        x_BLD: jax.Array,
        visible_BL: jax.Array,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> tuple[jax.Array, ...]:
        """Returns the states of every layer, each (B, L, D).

        Args:
          x_BLD: embeddings.
          visible_BL: bool (B, L), False at [PAD].
          keys_B: one dropout key per row; None = evaluation.
          layout: of packed rows, see `__call__`.
        """
        states = []
        segment_BL = _segments(visible_BL, layout)
        for layer in self.layers:
            x_BLD = layer(x_BLD, segment_BL, keys_B, None)
            states.append(x_BLD)
        return tuple(states)


def _layer_class(remat: str) -> type[Layer]:
    """Returns `Layer`, or one that computes its values again in the backward pass."""
    if remat == "none":
        return Layer
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "dots" else None
    return nn.remat(Layer, policy=policy, static_argnums=(4,))  # num_queries


def _segments(visible_BL: jax.Array, layout: Layout | None) -> jax.Array:
    """Returns int32 (B, L): the window of each position; padding is a segment of its own."""
    return visible_BL.astype(jnp.int32) if layout is None else layout.window


def _at(states_BLD: jax.Array, positions_P: jax.Array) -> jax.Array:
    """Returns the states at b * L + l: (P, D)."""
    return states_BLD.reshape(-1, states_BLD.shape[-1])[positions_P]


def _keys_at(
    keys_B: jax.Array | None, positions_P: jax.Array, num_positions: int
) -> jax.Array | None:
    """Returns one dropout key per position, made of its row's; None where there is none."""
    if keys_B is None:
        return None
    row_P, position_P = jnp.divmod(positions_P, num_positions)
    return jax.vmap(jax.random.fold_in)(keys_B[row_P], position_P)


def dense(
    size: int, name: str | None, *, dtype: jnp.dtype, matmul: str = products.FLOAT32
) -> nn.Dense:
    """A linear layer with BERT's initial values; `matmul` of a resolved config."""
    dot_general = products.dot_general(matmul)
    return nn.Dense(
        size, dtype=dtype, kernel_init=initial_values.normal, dot_general=dot_general, name=name
    )


def layer_norm(dtype: jnp.dtype, name: str | None) -> nn.LayerNorm:
    """A LayerNorm with BERT's epsilon; its statistics are float32."""
    return nn.LayerNorm(LAYER_NORM_EPS, dtype=dtype, name=name)
