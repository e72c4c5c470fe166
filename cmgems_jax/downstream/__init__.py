"""Labelled tasks: fine-tuning, probing, evaluation, prediction, motifs."""
