"""Classifiers: heads, recipes, the training of many draws at once."""
