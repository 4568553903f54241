from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.transports.journal.stored_broker import StoredBroker


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., StoredBroker]]:
    """Starts a broker with a journal; it and all that come back from it are closed after the test."""
    family: list[StoredBroker] = []

    def begin(**options: Any) -> StoredBroker:
        return StoredBroker(tmp_path / "journal", family=family, **options)

    yield begin
    for broker in family:
        broker.close()
