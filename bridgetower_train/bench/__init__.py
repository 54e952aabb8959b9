"""Benchmarks: one module each, with what they share in `kit`.

May import config, data, devices, distributed, engines, evaluation, model, planning, rehearsal, tasks, training, watchdog,
weights, data_prep.fetch, data_prep.job, data_prep.parallel, data_prep.shapes, data_prep.shards and data_prep.source.
"""
