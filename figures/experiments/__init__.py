"""What writes the committed logs under figures/runs: `python -m figures.experiments.NAME`."""
