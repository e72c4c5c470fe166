"""Which tokens are hidden: ranks, strategies, corruption, and the curriculum over them."""
