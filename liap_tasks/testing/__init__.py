"""A pytest plugin for programs that use this package; ``README.md`` beside this file shows it at work.

Installed with the package, pytest finds it by itself; elsewhere ``pytest_plugins = ["liap_tasks.testing"]``. It gives
these fixtures, each test its own: ``liap_app``, ``liap_worker``, ``eager_app``, ``dead_letters``, ``published_events``,
``virtual_clock``; and three to override: ``liap_app_factory``, ``liap_settings``, ``liap_worker_options``.

:mod:`liap_tasks.testing.local_nodes` is another plugin: pytest-celery's nodes as local processes. That one needs
``pip install "liap-tasks[testing]"``, this one only pytest.
"""

from liap_tasks.testing.at_rest import NotAtRestError, wait_until_at_rest
from liap_tasks.testing.clock import WorkerClock
from liap_tasks.testing.dead_letters import DeadLetters
from liap_tasks.testing.events import PublishedEvent, PublishedEvents
from liap_tasks.testing.fixtures import (
    dead_letters,
    eager_app,
    liap_app,
    liap_app_factory,
    liap_settings,
    liap_worker,
    liap_worker_options,
    published_events,
    virtual_clock,
)
from liap_tasks.testing.isolation import isolated

__all__ = [
    # fixtures
    "dead_letters",
    "eager_app",
    "liap_app",
    "liap_app_factory",
    "liap_settings",
    "liap_worker",
    "liap_worker_options",
    "published_events",
    "virtual_clock",
    # what they are made of
    "DeadLetters",
    "NotAtRestError",
    "PublishedEvent",
    "PublishedEvents",
    "WorkerClock",
    "isolated",
    "wait_until_at_rest",
]
