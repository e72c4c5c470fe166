"""TFDS data sets and batches."""
