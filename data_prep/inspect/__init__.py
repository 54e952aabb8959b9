"""Looking at what was written: lint, statistics, dataset card."""
