"""HTML pages: the report of a run, a batch, a plan, a prediction, corpora, a search; and Markdown tables.

May import config, data, evaluation, evidence, planning, tasks, use and weights.
"""
