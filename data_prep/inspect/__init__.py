"""Looking at finished corpora, whoever wrote them: `prep lint`, `prep stats` and `prep card`.

May import `shards` and `source`.
"""
