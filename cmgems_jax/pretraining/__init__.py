"""The pretraining step, its optimizer, loop, checkpoints, and everything that watches a run."""
