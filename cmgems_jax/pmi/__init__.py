"""N-gram counts, PMI scores and ranks of k-mers."""
