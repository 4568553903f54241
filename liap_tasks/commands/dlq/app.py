"""The app that a command was given with ``celery -A``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from liap_tasks.application import LiapApp

if TYPE_CHECKING:
    from liap_tasks.dead_letter_store import DeadLetterStore

__all__ = ["app_of", "app_with_store", "store_of"]


def app_of(context: click.Context) -> LiapApp:
    """Return the app, or end with a usage error if it is none of ours."""
    app = getattr(context.obj, "app", None)
    app = getattr(app, "_get_current_object", lambda: app)()  # Celery's current app is a proxy
    if not isinstance(app, LiapApp):
        raise click.UsageError("dlq needs an app made by liap_tasks.create_app(); say which: celery -A your.module dlq")
    return app


def app_with_store(context: click.Context) -> LiapApp:
    """Return the app if its store exists; a command that only looks does not make one in the wrong folder."""
    app = app_of(context)
    store = app.dead_letter_store
    if not store.exists():
        raise click.ClickException(
            f"there is no dead-letter store at {store.url.render_as_string()}: a worker or `dlq import` makes it; "
            "a file that DLQ_STORE_URL names without an absolute path is looked for in this folder"
        )
    return app


def store_of(context: click.Context) -> DeadLetterStore:
    """Return the store of the app's dead letters, which exists."""
    return app_with_store(context).dead_letter_store
