"""What this library costs: throughput, latency, punctuality, memory, each beside a limit of the same run.

`python -m benchmarks` prints the table of docs/performance.md; `python -m benchmarks.soak` is the long run.
"""
