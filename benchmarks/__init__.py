"""Measurements against kombu's stock ``memory://``: ``python -m benchmarks`` (see __main__.py)."""
