"""Benchmarks of throughput, latency, punctuality and memory, each compared with a reference of the same run.

`python -m benchmarks` prints the table of docs/performance.md; `python -m benchmarks.soak` is the long run.
"""
