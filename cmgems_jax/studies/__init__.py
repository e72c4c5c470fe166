"""Studies: many pretraining runs that differ in one thing, and what came of it."""
