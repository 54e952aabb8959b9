"""A training run: `assembly`, loop and step in `run`, and what it writes: checkpoints, metrics, guards.

May import compose, config, data, devices, distributed, engines, evaluation, signals, tasks, watchdog and weights.
"""
