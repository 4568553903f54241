"""The app module of a worker of ``create_app``; pytest-celery replaces the line of the imports."""

from liap_tasks import create_app

app = create_app(main="celery_test_app")

imports = None
