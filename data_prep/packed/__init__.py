"""Images that are packed in files with others, tars or Parquet: naming and fetching these, and which images of them to keep.

May import data, data_prep.parallel and data_prep.source.
"""
