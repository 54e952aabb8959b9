"""From shards to batches: records, their order, decoded images, token ids, and the loader around them.

May import config.
"""
