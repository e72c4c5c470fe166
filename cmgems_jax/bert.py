"""BERT in flax.linen: encoder and masked-LM head.

Post-LayerNorm, exact gelu, learned positions, tied decoder (Devlin et al. 2019;
sizes of DNABERT, Ji et al. 2021, and LOGO, Yang et al. 2022). Parameter names
map one to one to HuggingFace's BertForMaskedLM. Axes: B batch, L tokens, D
hidden, H heads, K head width, P predicted positions of the whole batch, V vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cmgems_jax import vocabulary
from cmgems_jax.config import ModelConfig, TokensConfig

LAYER_NORM_EPS = 1e-12
NUM_SEGMENTS = 2
WAVELENGTH_BASE = 1_000.0
_normal = nn.initializers.normal(0.02)


def compute_dtype(config: ModelConfig) -> jnp.dtype:
    """Returns the dtype of the computation; "auto" is float32 on CPU, else bfloat16."""
    if config.dtype == "auto":
        return jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)
    return jnp.dtype(config.dtype)


def word_embedding_init(config: ModelConfig, k: int) -> nn.initializers.Initializer:
    """Returns the initializer of the (V, D) word table.

    "bert" is normal(0.02). "bases" starts every k-mer as a sum of one vector for
    each of its bases and places, so that k-mers that share bases start alike and
    the tied decoder starts as a sum of per-base scores (SPEC: initial values).
    """
    if config.embedding_init == "bert":
        return _normal

    def init(key: jax.Array, shape: tuple[int, int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        base_key, special_key = jax.random.split(key)
        base_kFD = jax.random.normal(base_key, (k, 4, shape[1]), dtype)
        base_kFD -= base_kFD.mean(axis=1, keepdims=True)
        code_V = jnp.arange(4**k)
        kmer_VD = sum(base_kFD[i, code_V >> 2 * (k - 1 - i) & 3] for i in range(k))
        kmer_VD *= config.embedding_scale / kmer_VD.std()
        special_SD = _normal(special_key, (vocabulary.NUM_SPECIAL, shape[1]), dtype)
        return jnp.concatenate([special_SD, kmer_VD])

    return init


def position_embedding_init(config: ModelConfig) -> nn.initializers.Initializer:
    """Returns the initializer of the (positions, D) table: normal(0.02) or sines and cosines."""
    if config.position_init == "bert":
        return _normal

    def init(key: jax.Array, shape: tuple[int, int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        del key  # not random
        num_sines = -(-shape[1] // 2)
        wavelength = WAVELENGTH_BASE ** (np.arange(num_sines) / num_sines)
        angle = np.arange(shape[0])[:, None] / wavelength[None, :]
        table = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)[:, : shape[1]]
        return jnp.asarray(config.position_scale * table, dtype)

    return init


def dropout(x: jax.Array, keys_B: jax.Array | None, rate: float, place: int) -> jax.Array:
    """Returns x (B, ...) with a share `rate` of each sequence's values zeroed, the rest scaled.

    Each sequence has its own key, so that what is dropped does not depend on the
    number of devices.

    Args:
      x: (B, ...).
      keys_B: one key a sequence; None = no dropout (evaluation).
      rate: share dropped, static.
      place: which dropout of the model this is; places draw independently.
    """
    if keys_B is None or rate == 0:
        return x
    place_keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, place)
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(place_keys_B)
    return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))


class Layer(nn.Module):
    """One transformer block: self-attention and feed-forward, each added and normalised."""

    config: ModelConfig
    index: int

    @nn.compact
    def __call__(
        self, x_BLD: jax.Array, visible_BL: jax.Array, keys_B: jax.Array | None
    ) -> jax.Array:
        """Returns (B, L, D)."""
        config, dtype, place = self.config, x_BLD.dtype, 4 * self.index
        context_BLD = self._attention(x_BLD, visible_BL, keys_B)
        context_BLD = _dense(config.hidden_size, dtype, "attention_output")(context_BLD)
        context_BLD = dropout(context_BLD, keys_B, config.dropout, place + 1)
        x_BLD = _layer_norm(dtype, "attention_norm")(x_BLD + context_BLD)
        inner = nn.gelu(
            _dense(config.feedforward_size, dtype, "intermediate")(x_BLD), approximate=False
        )
        output_BLD = _dense(config.hidden_size, dtype, "output")(inner)
        output_BLD = dropout(output_BLD, keys_B, config.dropout, place + 2)
        return _layer_norm(dtype, "output_norm")(x_BLD + output_BLD)

    def _attention(
        self, x_BLD: jax.Array, visible_BL: jax.Array, keys_B: jax.Array | None
    ) -> jax.Array:
        """Returns the attended values (B, L, D), before the output projection."""
        config, dtype = self.config, x_BLD.dtype
        shape = (*x_BLD.shape[:2], config.num_heads, config.hidden_size // config.num_heads)
        q_BLHK, k_BLHK, v_BLHK = (
            _dense(config.hidden_size, dtype, name)(x_BLD).reshape(shape)
            for name in ("query", "key", "value")
        )
        if keys_B is None or config.attention_dropout == 0:
            context = jax.nn.dot_product_attention(
                q_BLHK, k_BLHK, v_BLHK, mask=visible_BL[:, None, None, :]
            )
            return context.reshape(x_BLD.shape)
        scores_BHLM = jnp.einsum("blhk,bmhk->bhlm", q_BLHK, k_BLHK).astype(jnp.float32)
        scores_BHLM *= shape[-1] ** -0.5
        scores_BHLM = jnp.where(visible_BL[:, None, None, :], scores_BHLM, -1e9)
        weights_BHLM = jax.nn.softmax(scores_BHLM).astype(dtype)
        weights_BHLM = dropout(weights_BHLM, keys_B, config.attention_dropout, 4 * self.index + 3)
        return jnp.einsum("bhlm,bmhk->blhk", weights_BHLM, v_BLHK).reshape(x_BLD.shape)


class Encoder(nn.Module):
    """Embeddings and blocks."""

    config: ModelConfig
    tokens: TokensConfig

    def setup(self) -> None:
        """Creates the tables and blocks."""
        config = self.config
        self.word_embeddings = nn.Embed(
            vocabulary.size(self.tokens.k),
            config.hidden_size,
            embedding_init=word_embedding_init(config, self.tokens.k),
        )
        self.position_embeddings = self.param(
            "position_embeddings",
            position_embedding_init(config),
            (config.num_positions, config.hidden_size),
        )
        self.segment_embeddings = self.param(
            "segment_embeddings", _normal, (NUM_SEGMENTS, config.hidden_size)
        )
        self.embeddings_norm = _layer_norm(compute_dtype(config), None)
        self.layers = [Layer(config, index) for index in range(config.num_layers)]

    def __call__(self, ids_BL: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Returns the states of the last layer.

        Args:
          ids_BL: int32 (B, L), L at most `num_positions`; [PAD] is attended to nowhere.
          keys_B: one dropout key a sequence; None = evaluation.

        Returns:
          (B, L, D) in the compute dtype.
        """
        x_BLD = self.word_embeddings(ids_BL)
        x_BLD += self.position_embeddings[None, : ids_BL.shape[1]]
        x_BLD += self.segment_embeddings[None, :1]
        x_BLD = self.embeddings_norm(x_BLD)
        x_BLD = dropout(x_BLD, keys_B, self.config.dropout, 4 * self.config.num_layers)
        visible_BL = ids_BL != vocabulary.PAD
        for layer in self.layers:
            x_BLD = layer(x_BLD, visible_BL, keys_B)
        return x_BLD


class MaskedLM(nn.Module):
    """Encoder and masked-LM head; logits only at the predicted positions."""

    config: ModelConfig
    tokens: TokensConfig

    def setup(self) -> None:
        """Creates the encoder and the head; the decoder is the word table."""
        dtype = compute_dtype(self.config)
        self.encoder = Encoder(self.config, self.tokens)
        self.transform = _dense(self.config.hidden_size, dtype, None)
        self.transform_norm = _layer_norm(dtype, None)
        self.decoder_bias = self.param(
            "decoder_bias", nn.initializers.zeros_init(), (vocabulary.size(self.tokens.k),)
        )

    def __call__(
        self, ids_BL: jax.Array, positions_P: jax.Array, keys_B: jax.Array | None = None
    ) -> jax.Array:
        """Returns float32 logits (P, V) at `positions_P`.

        Args:
          ids_BL: int32 (B, L), corrupted ids.
          positions_P: int32 (P,), where to predict: b * L + l.
          keys_B: one dropout key a sequence; None = evaluation.
        """
        states_BLD = self.encoder(ids_BL, keys_B)
        states_PD = states_BLD.reshape(-1, states_BLD.shape[-1])[positions_P]
        states_PD = nn.gelu(self.transform(states_PD), approximate=False)
        states_PD = self.transform_norm(states_PD)
        table_VD = self.encoder.word_embeddings.embedding.astype(states_PD.dtype)
        logits_PV = jnp.einsum("pd,vd->pv", states_PD, table_VD, preferred_element_type=jnp.float32)
        return logits_PV + self.decoder_bias[None]


def _dense(size: int, dtype: jnp.dtype, name: str | None) -> nn.Dense:
    """A linear layer with BERT's initial values."""
    return nn.Dense(size, dtype=dtype, kernel_init=_normal, name=name)


def _layer_norm(dtype: jnp.dtype, name: str | None) -> nn.LayerNorm:
    """A LayerNorm with BERT's epsilon; its statistics are float32."""
    return nn.LayerNorm(LAYER_NORM_EPS, dtype=dtype, name=name)
