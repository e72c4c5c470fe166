"""Counting and preparing as Apache Beam pipelines, where one machine is outgrown."""
