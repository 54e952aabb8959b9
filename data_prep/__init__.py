"""Preparation of corpora: from what a source publishes to shards, index and manifest.

Rooms, each of which imports only from those below it (and from `bridgetower_train`):

    corpora  tasks           the sources: COCO, Visual Genome, CC3M, CC12M, SBU, tables and folders of the user; those of tasks
    inspect  fetch  shapes   reading what was written; images from the web; the drawn corpus
    job                      a preparation: ranges of rows become shards, and it resumes whatever interrupts it
    shards                   writing and indexing tars
    packed                   tars and Parquet of others
    source                   rows, tables, images and captions

`parallel` may be used by all. The modules that commands name are imported through `bridgetower_train.imports`, which reports
a foreign package of this name in place of this one.
"""
