"""The parameters of `heads.MaskedLM` and `heads.Classifier` under HuggingFace's names, both ways.

One table, read in two directions. A Flax kernel is the transpose of a torch weight;
the tied decoder is not stored. Arrays are float32 on the host.
"""

import numpy as np
from flax import traverse_util

from cmgems_jax.model import bert, heads

# Fields of `ModelConfig` under the names of config.json.
SIZES = {
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "num_heads": "num_attention_heads",
    "feedforward_size": "intermediate_size",
    "num_positions": "max_position_embeddings",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}
# What our network computes; a config.json that says otherwise is another network's.
FIXED = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "layer_norm_eps": bert.LAYER_NORM_EPS,
    "type_vocab_size": bert.NUM_SEGMENTS,
    "position_embedding_type": "absolute",
    "tie_word_embeddings": True,
}
_ENCODER = {
    "word_embeddings.embedding": "embeddings.word_embeddings.weight",
    "position_embeddings": "embeddings.position_embeddings.weight",
    "segment_embeddings": "embeddings.token_type_embeddings.weight",
    "embeddings_norm": "embeddings.LayerNorm",
}
_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}
_MASKED_LM = {
    "transform": "cls.predictions.transform.dense",
    "transform_norm": "cls.predictions.transform.LayerNorm",
    "decoder_bias": "cls.predictions.bias",
}
POOLER = "bert.pooler.dense"
CLASSIFIER = "classifier"
MASKED_LM = "masked_lm"
_HEADS = {
    MASKED_LM: _MASKED_LM,
    heads.CLS: {"pooler": POOLER, "classifier": CLASSIFIER},
    heads.FEATURES: {"classifier": CLASSIFIER},
}
KERNEL = ".kernel"  # the end of our names whose arrays are transposed


def table(num_layers: int, head: str) -> dict[str, str]:
    """Returns HuggingFace's name of every parameter, by our path joined with dots.

    `head` is `MASKED_LM`, a BertForMaskedLM; heads.CLS, a BertForSequenceClassification; or
    heads.FEATURES, a BertModel and a linear layer for which there is no stock class.
    """
    modules = {f"encoder.{ours}": f"bert.{theirs}" for ours, theirs in _ENCODER.items()}
    for layer in range(num_layers):
        for ours, theirs in _LAYER.items():
            modules[f"encoder.layers_{layer}.{ours}"] = f"bert.encoder.layer.{layer}.{theirs}"
    modules |= _HEADS[head]
    names = {}
    for ours, theirs in modules.items():
        if theirs.endswith((".weight", ".bias")):
            names[ours] = theirs
            continue
        first = ".scale" if theirs.endswith("LayerNorm") else KERNEL
        names |= {ours + first: f"{theirs}.weight", f"{ours}.bias": f"{theirs}.bias"}
    return names


def to_torch(params: dict, num_layers: int, head: str) -> dict[str, np.ndarray]:
    """Returns the parameters under HuggingFace's names, as torch lays them out; see `table`."""
    flat = traverse_util.flatten_dict(params, sep=".")
    return {
        theirs: np.ascontiguousarray(_turned(ours, flat[ours]))
        for ours, theirs in table(num_layers, head).items()
    }


def from_torch(tensors: dict[str, np.ndarray], num_layers: int, head: str) -> dict:
    """Returns our parameter tree; the inverse of `to_torch`.

    Raises:
      KeyError: a tensor is missing.
    """
    names = table(num_layers, head)
    flat = {
        ours: np.ascontiguousarray(_turned(ours, tensors[theirs]), np.float32)
        for ours, theirs in names.items()
    }
    return traverse_util.unflatten_dict(flat, sep=".")


def _turned(ours: str, array: np.ndarray) -> np.ndarray:
    """Returns the array in the other library's layout."""
    return array.T if ours.endswith(KERNEL) else array
