"""Decisions about messages as plain values: no Celery, no kombu, no clock of their own."""
