"""What a run would need on other hardware: an analytical model, from counted work and published figures.

May import config, data, data_prep.shapes, devices, engines, model and tasks.
"""
