"""What the snippets of the message-queue document take for granted: a loop around them, and brokers of their own.

The snippets are the tests' bodies, with their comments, changed in nothing but the module that they import from. What
they leave open (``process_message``, ``game_queue``) a test has beside them; what comes after a snippet says what it
has done.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from game_tasks.application import app
from liap_tasks.testing.isolation import isolated
from tests.coroutines import pytest_pyfunc_call
from transports import VirtualClock, reset_broker

__all__ = ["pytest_pyfunc_call"]


@pytest.fixture
def clock() -> VirtualClock:
    """The time of the test's brokers, which stands still until it is advanced."""
    return VirtualClock()


@pytest.fixture(autouse=True)
def broker_url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the URL of the test's in-process broker, which the settings name; ``liap-priority://`` is empty, too."""
    options: dict[str, Any] = {"clock": request.getfixturevalue("clock")} if "clock" in request.fixturenames else {}
    with isolated(app, **options) as game_app:
        monkeypatch.setenv("MESSAGE_QUEUE_URL", game_app.conf.broker_url)
        reset_broker("liap-priority://", **options)
        yield game_app.conf.broker_url
