"""The network: sizes, initial values, padding, dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from cmgems_jax.config import ModelConfig, TokensConfig
from cmgems_jax.genome import vocabulary
from cmgems_jax.model import bert, heads
from cmgems_jax.windows.packing import Layout

SMALL = ModelConfig(
    num_layers=2, hidden_size=32, num_heads=4, feedforward_size=64, num_positions=24, dropout=0.0,
    attention_dropout=0.0,
)  # fmt: skip
K3 = TokensConfig(k=3)


def init(config: ModelConfig, tokens: TokensConfig = K3, seed: int = 0) -> dict:
    """Returns the model's parameters."""
    ids = jnp.zeros((1, 8), jnp.int32)
    return heads.MaskedLM(config, tokens).init(jax.random.key(seed), ids, ids[0])["params"]


def apply(params: dict, ids_BL: jax.Array, config: ModelConfig = SMALL, **kwargs) -> jax.Array:
    """Returns the logits at every position."""
    positions = jnp.arange(ids_BL.size)
    logits = heads.MaskedLM(config, K3).apply({"params": params}, ids_BL, positions, **kwargs)
    return logits.reshape(*ids_BL.shape, -1)


@pytest.mark.parametrize("dtype, relative", [(jnp.float32, 1e-6), (jnp.bfloat16, 2**-8)])
def test_gelu_is_exact_to_the_rounding_of_its_dtype(dtype, relative):
    """x times the normal distribution's integral, in float64; in float32 1 + erf cancels."""
    x = jnp.linspace(-6, 6, 2_001).astype(dtype)
    wide = np.asarray(x, np.float64)
    gelu = np.asarray(bert.gelu(x), np.float64)
    np.testing.assert_allclose(gelu, wide * special.ndtr(wide), rtol=relative, atol=2e-6)


def test_dnabert6_has_as_many_parameters_as_huggingface_bert_for_masked_lm():
    """Counted from the tensors of BertForMaskedLM; the decoder is tied."""
    hidden, inner, vocab = 768, 3072, 4101
    norm = 2 * hidden
    embeddings = (vocab + 512 + 2) * hidden + norm
    attention = 4 * (hidden * hidden + hidden) + norm
    feedforward = hidden * inner + inner + inner * hidden + hidden + norm
    head = hidden * hidden + hidden + norm + vocab
    expected = embeddings + 12 * (attention + feedforward) + head
    model = heads.MaskedLM(ModelConfig(), TokensConfig())
    ids = jax.ShapeDtypeStruct((1, 512), jnp.int32)
    shapes = jax.eval_shape(
        model.init, jax.random.key(0), ids, jax.ShapeDtypeStruct((8,), jnp.int32)
    )["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected == 89_196_549


def test_initial_weights_have_berts_standard_deviation():
    params = init(ModelConfig(num_layers=1, hidden_size=128, num_heads=2), TokensConfig(k=6))
    for leaf in jax.tree.leaves(params):
        if leaf.ndim == 2 and leaf.size > 10_000:
            assert float(leaf.std()) == pytest.approx(0.02, rel=0.02)  # 5 sd of 10,000 draws
    np.testing.assert_array_equal(params["encoder"]["layers_0"]["query"]["bias"], 0)


def test_padding_changes_no_logit():
    params = init(SMALL)
    ids = jax.random.randint(jax.random.key(1), (2, 12), 5, vocabulary.size(3))
    padded = jnp.pad(ids, ((0, 0), (0, 8)), constant_values=vocabulary.PAD)
    np.testing.assert_allclose(apply(params, padded)[:, :12], apply(params, ids), atol=2e-6)


def test_logits_at_gathered_positions_are_those_of_all_positions():
    params = init(SMALL)
    ids = jax.random.randint(jax.random.key(1), (2, 12), 5, vocabulary.size(3))
    positions = jnp.array([3, 7, 12 + 11, 12], jnp.int32)
    some = heads.MaskedLM(SMALL, K3).apply({"params": params}, ids, positions)
    every = np.asarray(apply(params, ids))
    np.testing.assert_allclose(some, every[[0, 0, 1, 1], [3, 7, 11, 0]], atol=2e-6)


def test_the_explicit_attention_of_attention_dropout_equals_the_fused_one():
    """With a rate so small that nothing is dropped in 2,000 draws (all but certainly)."""
    params = init(SMALL)
    ids = jax.random.randint(jax.random.key(1), (2, 12), 5, vocabulary.size(3))
    ids = ids.at[1, 9:].set(vocabulary.PAD)
    config = ModelConfig(**{**vars(SMALL), "attention_dropout": 1e-9})
    keys = jax.random.split(jax.random.key(2), 2)
    explicit = apply(params, ids, config, keys_B=keys)
    np.testing.assert_allclose(explicit, apply(params, ids), atol=5e-6)


def test_dropout_depends_on_the_sequences_key_alone():
    x = jnp.ones((4, 50, 8))
    keys = jax.random.split(jax.random.key(0), 4)
    whole = bert.dropout(x, keys, 0.3, 7)
    halves = [bert.dropout(x[i : i + 2], keys[i : i + 2], 0.3, 7) for i in (0, 2)]
    np.testing.assert_array_equal(whole, np.concatenate(halves))
    assert not np.array_equal(whole, bert.dropout(x, keys, 0.3, 8))
    assert set(np.unique(whole)) == {np.float32(0), np.float32(1) / np.float32(0.7)}
    assert float((whole == 0).mean()) == pytest.approx(0.3, abs=5 * (0.3 * 0.7 / 1600) ** 0.5)
    np.testing.assert_array_equal(bert.dropout(x, None, 0.3, 7), x)


def test_base_structured_embeddings_are_sums_over_bases_of_the_given_scale():
    config = ModelConfig(**{**vars(SMALL), "embedding_init": "bases", "embedding_scale": 0.3})
    table = np.asarray(init(config)["encoder"]["word_embeddings"]["embedding"])
    kmers = table[vocabulary.NUM_SPECIAL :]
    assert kmers.std() == pytest.approx(0.3, rel=1e-5)

    def row(kmer: str) -> np.ndarray:
        return kmers[vocabulary.kmer_code(kmer)]

    # A sum over places: changing one base changes the vector alike whatever stands beside it.
    np.testing.assert_allclose(row("ATG") - row("CTG"), row("AAC") - row("CAC"), atol=1e-5)
    np.testing.assert_allclose(kmers.mean(axis=0), 0, atol=1e-5)  # centred over the four bases
    assert table[: vocabulary.NUM_SPECIAL].std() < 0.03  # special tokens stay at normal(0.02)


def test_sinusoidal_positions_have_the_amplitude_and_a_product_that_depends_on_distance():
    config = ModelConfig(**{**vars(SMALL), "position_init": "sinusoidal", "position_scale": 0.2})
    table = np.asarray(init(config)["encoder"]["position_embeddings"])
    np.testing.assert_allclose((table**2).sum(axis=1), 0.2**2 * 16, rtol=1e-5)
    gram = table @ table.T
    for distance in (1, 5):
        diagonal = np.diag(gram, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-6)


def test_the_network_computes_in_the_configs_dtype_and_scores_in_float32():
    config = ModelConfig(**{**vars(SMALL), "dtype": "bfloat16"})
    params = init(SMALL)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    ids = jnp.full((1, 6), 9, jnp.int32)
    with jax.numpy_dtype_promotion("standard"):  # flax's LayerNorm relies on it in bfloat16
        states = bert.Encoder(config, K3).apply({"params": params["encoder"]}, ids)
        logits = apply(params, ids, config)
    assert states.dtype == jnp.bfloat16
    assert logits.dtype == jnp.float32


def test_all_states_are_the_embeddings_and_every_layer_and_end_with_the_encoders_output():
    params = init(SMALL)["encoder"]
    encoder = bert.Encoder(SMALL, K3)
    ids = jax.random.randint(jax.random.key(1), (2, 12), 5, vocabulary.size(3))
    states = encoder.apply({"params": params}, ids, method=encoder.all_states)
    assert len(states) == 1 + SMALL.num_layers
    np.testing.assert_array_equal(states[-1], encoder.apply({"params": params}, ids))
    embedded = encoder.apply({"params": params}, ids, method=encoder.embed)
    np.testing.assert_array_equal(states[0], embedded)
    visible = jnp.ones(ids.shape, bool)
    blocks = encoder.apply({"params": params}, embedded, visible, method=encoder.blocks)
    np.testing.assert_array_equal(blocks[-1], states[-1])


def test_the_classifier_has_the_parameters_of_huggingfaces_and_reads_cls_alone():
    """Computed by hand from the encoder's state at position 0."""
    model = heads.Classifier(SMALL, K3, 3)
    ids = jax.random.randint(jax.random.key(1), (2, 12), 5, vocabulary.size(3))
    params = model.init(jax.random.key(0), ids)["params"]
    assert params.keys() == {"encoder", "pooler", "classifier"}
    assert params["pooler"]["kernel"].shape == (32, 32)
    assert params["classifier"]["kernel"].shape == (32, 3)
    assert jax.tree.structure(params["encoder"]) == jax.tree.structure(init(SMALL)["encoder"])
    states = bert.Encoder(SMALL, K3).apply({"params": params["encoder"]}, ids)
    pooled = np.tanh(np.asarray(states[:, 0]) @ params["pooler"]["kernel"])
    logits = model.apply({"params": params}, ids)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, pooled @ params["classifier"]["kernel"], atol=1e-6)


@pytest.mark.parametrize("rate", [0.0, 1e-9])
def test_the_state_at_cls_alone_is_that_of_the_whole_encoder(rate):
    """The fused attention, and the explicit one at a rate so small that nothing is dropped."""
    config = ModelConfig(**{**vars(SMALL), "attention_dropout": rate})
    params, encoder = init(SMALL)["encoder"], bert.Encoder(config, K3)
    ids = jax.random.randint(jax.random.key(1), (2, 12), 5, vocabulary.size(3))
    ids = ids.at[1, 9:].set(vocabulary.PAD)
    keys = jax.random.split(jax.random.key(2), 2)
    alone = encoder.apply({"params": params}, ids, keys, method=encoder.cls_state)
    whole = encoder.apply({"params": params}, ids, keys)
    np.testing.assert_allclose(alone, whole[:, 0], atol=5e-6)


@pytest.mark.parametrize("rate", [0.0, 1e-9])
def test_states_asked_for_by_position_are_those_of_the_whole_encoder(rate):
    """In any order, one twice; two windows in a row."""
    config = ModelConfig(**{**vars(SMALL), "attention_dropout": rate})
    params, encoder = init(SMALL)["encoder"], bert.Encoder(config, K3)
    ids = jax.random.randint(jax.random.key(1), (2, 12), 5, vocabulary.size(3))
    window = jnp.array([[0] * 7 + [1] * 5, [0] * 12], jnp.int32)
    position = jnp.array([[*range(7), *range(5)], [*range(12)]], jnp.int32)
    layout, keys = Layout(window, position), jax.random.split(jax.random.key(2), 2)
    positions = jnp.array([3, 20, 0, 3, 11], jnp.int32)
    found = encoder.apply(
        {"params": params}, ids, positions, keys, layout, method=encoder.states_at
    )
    whole = encoder.apply({"params": params}, ids, keys, layout).reshape(24, -1)
    np.testing.assert_allclose(found, whole[positions], atol=5e-6)


def test_what_is_dropped_at_a_position_does_not_depend_on_the_others_asked_for():
    config = ModelConfig(**{**vars(SMALL), "dropout": 0.5})
    params, encoder = init(SMALL)["encoder"], bert.Encoder(config, K3)
    ids = jax.random.randint(jax.random.key(1), (2, 12), 5, vocabulary.size(3))
    keys = jax.random.split(jax.random.key(2), 2)

    def states(*positions):
        asked = jnp.array(positions, jnp.int32)
        return encoder.apply({"params": params}, ids, asked, keys, method=encoder.states_at)

    several = states(3, 20, 15)
    np.testing.assert_allclose(several[1], states(20)[0], atol=5e-6)
    assert not np.allclose(several[0], states(4)[0], atol=1e-2)
    plain = encoder.apply(
        {"params": params}, ids, jnp.array([3], jnp.int32), method=encoder.states_at
    )
    assert not np.allclose(several[0], plain[0], atol=1e-2)


def test_what_is_computed_again_saves_memory_and_changes_no_parameter_or_gradient():
    ids = jax.random.randint(jax.random.key(1), (2, 12), 5, vocabulary.size(3))
    keys, params = jax.random.split(jax.random.key(2), 2), init(SMALL)
    gradients, kept_bytes = {}, {}
    for remat in ("none", "dots", "full"):
        config = ModelConfig(**{**vars(SMALL), "dropout": 0.1, "remat": remat})
        assert jax.tree.structure(params) == jax.tree.structure(heads.param_shapes(config, K3))

        def total(params, config=config):
            return (apply(params, ids, config, keys_B=keys) ** 2).sum()

        gradients[remat] = jax.jit(jax.grad(total))(params)
        backward = jax.eval_shape(lambda params, f=total: jax.vjp(f, params)[1], params)
        kept_bytes[remat] = sum(leaf.size * 4 for leaf in jax.tree.leaves(backward))
    assert kept_bytes["none"] > kept_bytes["dots"] > kept_bytes["full"]
    for remat in ("dots", "full"):
        for found, expected in zip(
            *(jax.tree.leaves(gradients[name]) for name in (remat, "none")), strict=True
        ):
            np.testing.assert_allclose(found, expected, atol=1e-4)
