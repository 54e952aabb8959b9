"""Rows, tables, images and captions, as the sources have them."""
