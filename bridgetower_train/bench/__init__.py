"""Benchmarks: one module each, with what they share in `kit`.

May import config, data, data_prep.corpora, data_prep.job, data_prep.packed, data_prep.parallel, data_prep.shapes,
data_prep.shards, data_prep.source, devices, distributed, engines, evaluation, model, planning, rehearsal, tasks, training, use,
watchdog and weights.
"""
