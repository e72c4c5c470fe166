"""Models beside baselines on labelled tasks."""
