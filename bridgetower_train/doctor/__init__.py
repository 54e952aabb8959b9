"""Checks of a machine before a run: one file per theme, each a function from the configuration to findings.

May import compose, config, data, tasks and weights.
"""
