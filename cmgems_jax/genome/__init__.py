"""Genomes as bases: FASTA and 2bit files, and k-mer vocabularies."""
