"""The commands: one module each, with `run(config)` and the class of its keys; `cli` finds them by name.

May import config, data, data_prep.source, devices, distributed, doctor, evaluation, evidence, jobs, pages, planning, rehearsal,
tasks, training, watchdog and weights.
"""
