"""The programs that run in the worker and publisher processes of :mod:`benchmarks.peer_side`."""
