"""What a source gives: rows of annotations and tables, images, captions.

May import data and data_prep.parallel.
"""
