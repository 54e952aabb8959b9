"""Measuring: one file a benchmark, apart from the commands."""
