"""A preparation: ranges of the rows of a table become shards, and the same command resumes whatever interrupts it.

May import config, data, data_prep.parallel, data_prep.shards, data_prep.source and signals.
"""
