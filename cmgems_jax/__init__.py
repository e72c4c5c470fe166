"""CM-GEMS: masked-language-model pretraining of DNA models in JAX."""

__version__ = "0.1.0"
