"""A trained model in use: its answers as functions, embeddings of many images, and search among them.

May import config, data, data_prep.source, distributed, evaluation, tasks and weights.
"""
