"""Modules whose source text pytest-celery copies into a worker's working directory."""
