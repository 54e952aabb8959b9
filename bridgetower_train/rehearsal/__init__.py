"""One rank of many, alone on this machine: a process group without the others, made-up corpora, and what all ranks read."""
