"""A preparation: ranges of the rows of a table become shards, and the same command resumes whatever interrupts it.

May import `shards` and `source`.
"""
