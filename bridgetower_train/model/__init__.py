"""BridgeTower as plain PyTorch: image tower, text tower, fusion encoder. It knows no task, device or engine.

May import config.
"""
