"""Writing and indexing tars."""
