"""One rank of many, alone on this machine: a process group without the others, synthetic corpora, and what all ranks read."""
