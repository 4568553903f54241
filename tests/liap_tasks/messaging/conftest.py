"""Queue objects on in-process brokers that nobody else has."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.coroutines import pytest_pyfunc_call
from transports import VirtualClock, discard_broker, reset_broker

__all__ = ["pytest_pyfunc_call"]


@pytest.fixture
def clock() -> VirtualClock:
    """The time of the test's brokers, which stands still until it is advanced."""
    return VirtualClock()


@pytest.fixture(autouse=True)
def broker_url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the URL of the test's broker, which the settings name; ``liap-priority://`` is empty, too."""
    clock = request.getfixturevalue("clock") if "clock" in request.fixturenames else None
    url = f"liap-memory:///{uuid4().hex}"
    monkeypatch.setenv("MESSAGE_QUEUE_URL", url)
    reset_broker(url, clock=clock)
    reset_broker("liap-priority://", clock=clock)
    yield url
    discard_broker(url)
