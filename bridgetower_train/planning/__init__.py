"""What a run would need on other hardware: an analytical model, from counted work and published figures.

May import config, data, devices, engines, model and tasks.
"""
