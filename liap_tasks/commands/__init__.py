"""Commands that this package adds to ``celery``, one a module (entry points ``celery.commands`` in pyproject.toml)."""
