"""Corpora for fine-tuning: questions, hypotheses, statements or classes, each record's one for one with their labels.

Each module is a `bridgetower prep` command, or a part of some. The json of a record has `captions`, the texts of its samples;
`ids`, one for each; and their labels under `answers` or `labels`.

May import config, data, data_prep.job and data_prep.source.
"""
