"""Labelled tasks: files, tables, draws of shots, metrics."""
