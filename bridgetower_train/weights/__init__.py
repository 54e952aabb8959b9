"""Weights in and out: other people's files to ours, checkpoints and exports read, the export written.

May import compose, config, data, distributed, engines, model and tasks.
"""
