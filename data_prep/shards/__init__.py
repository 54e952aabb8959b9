"""Shards, their index and manifest: written by a preparation, or indexed where another tool wrote the tars.

May import data, data_prep.packed and data_prep.source.
"""
