"""The sources: what COCO, Visual Genome, CC3M, CC12M, SBU, and tables and folders of the user look like.

Each module is one `bridgetower prep` command. May import every other room but `inspect` and `shapes`.
"""
