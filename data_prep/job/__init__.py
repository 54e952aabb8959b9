"""A preparation: ranges of a table's rows become shards, whatever interrupts it."""
