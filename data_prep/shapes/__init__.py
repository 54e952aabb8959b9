"""The `shapes` corpus, drawn from a seed, and its tokenizer.

May import `job` and `source`.
"""
