"""The pages that people look at: the report of a run, and a batch as the model sees it."""
