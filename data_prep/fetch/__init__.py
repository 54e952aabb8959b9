"""Images from the web: many URLs at once, within limits of time, bytes and memory, each with the state in which it ended.

May import config, data, data_prep.parallel and data_prep.source.
"""
