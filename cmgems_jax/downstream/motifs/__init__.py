"""What a classifier looks at: attributions, enriched motifs, figures."""
