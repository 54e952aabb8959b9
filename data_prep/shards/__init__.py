"""Shards, their index and manifest: written by a preparation, or indexed where another tool wrote the tars.

May import data and data_prep.source.
"""
