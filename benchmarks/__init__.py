"""Measurements that anyone can run again; each writes its figures to benchmarks/results."""
