"""Pretraining: masked language modelling, image-text matching and image-text contrast in one step."""
