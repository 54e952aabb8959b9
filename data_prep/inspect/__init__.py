"""Looking at finished corpora, whoever wrote them: `prep lint`, `prep stats` and `prep card`.

May import config, data, data_prep.packed, data_prep.parallel, data_prep.shards, data_prep.source, pages and weights.
"""
