"""The commands: one module each, with `run(config)` and the class of its keys; `cli` finds them by name.

May import compose, config, data, devices, distributed, doctor, evaluation, evidence, jobs, pages, planning, rehearsal,
tasks, training, use, watchdog and weights.
"""
