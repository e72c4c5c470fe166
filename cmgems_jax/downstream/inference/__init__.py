"""Predictions and embeddings of sequences of any length."""
