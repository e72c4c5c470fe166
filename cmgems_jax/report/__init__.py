"""One self-contained page about runs, evaluations and studies."""
