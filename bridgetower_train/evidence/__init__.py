"""Evidence from hardware and weights that this project cannot reach: reports of what was run there, in one form.

May import bench, config, data, data_prep.shapes, devices, distributed, doctor, engines, tasks, training and watchdog.
"""
