"""Pools for Celery's worker, chosen by ``worker_pool`` or by ``-P custom`` with ``CELERY_CUSTOM_WORKER_POOL``."""
