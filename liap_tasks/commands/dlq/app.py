"""The app that a command was given with ``celery -A``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from liap_tasks.application import LiapApp

if TYPE_CHECKING:
    from liap_tasks.dead_letter_store import DeadLetterStore

__all__ = ["app_of", "store_of"]


def app_of(context: click.Context) -> LiapApp:
    """Return the app, or end with a usage error if it is none of ours."""
    app = getattr(context.obj, "app", None)
    app = getattr(app, "_get_current_object", lambda: app)()  # Celery's current app is a proxy
    if not isinstance(app, LiapApp):
        raise click.UsageError("dlq needs an app made by liap_tasks.create_app(); say which: celery -A your.module dlq")
    return app


def store_of(context: click.Context) -> DeadLetterStore:
    """Return the store of the app's dead letters."""
    return app_of(context).dead_letter_store
