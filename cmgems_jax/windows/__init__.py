"""Pretraining windows: cut from contigs, kept as a TFDS data set, packed into rows, batched."""
