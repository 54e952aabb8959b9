"""Benchmarks: one module each, with what they share in `kit`. May import any package; none imports this one."""
