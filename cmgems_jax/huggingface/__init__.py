"""To and from HuggingFace: weights, tokenizer files, model card, hub."""

from cmgems_jax.huggingface.tokenizer import kmer_text

__all__ = ["kmer_text"]
