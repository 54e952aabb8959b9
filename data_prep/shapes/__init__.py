"""The `shapes` corpus, drawn from a seed, and its tokenizer.

May import config, data, data_prep.job, data_prep.parallel, data_prep.shards and data_prep.source.
"""
