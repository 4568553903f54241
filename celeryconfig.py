"""Celery's configuration from the environment, for apps of your own: ``app.config_from_object("celeryconfig")``."""

from liap_tasks.configuration import celery_configuration
from liap_tasks.settings import load_settings

globals().update(celery_configuration(load_settings()))
