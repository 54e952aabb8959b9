"""Evidence from hardware and weights that this project cannot reach: reports of what was run there, in one form.

May import bench, compose, config, data, data_prep.shapes, devices, distributed, doctor, engines, evaluation, model, tasks,
training, watchdog and weights.
"""
