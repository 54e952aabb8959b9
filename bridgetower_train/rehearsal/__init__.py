"""One rank of many, alone on this machine: a process group without the others, synthetic corpora, a check of what all read."""
