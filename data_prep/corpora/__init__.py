"""The sources: what COCO, Visual Genome, CC3M, CC12M, SBU, and tables and folders of the user look like.

Each module is a `bridgetower prep` command, or a part of some.

May import config, data, data_prep.fetch, data_prep.job, data_prep.packed, data_prep.shards and data_prep.source.
"""
