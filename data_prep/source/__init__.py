"""What a source gives: rows of annotations and tables, images, captions.

The lowest room: imports none of the others.
"""
