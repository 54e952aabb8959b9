"""HTML pages: the report of a run, a batch, a plan, a prediction, corpora; and Markdown tables.

May import config, data, evaluation, evidence, planning, tasks and weights.
"""
