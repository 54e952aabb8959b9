"""One rank of many, alone on this machine: a process group without the others, synthetic corpora, a check of what all read.

May import config, data, data_prep.shapes, data_prep.shards, devices, distributed, engines, planning and tasks.
"""
