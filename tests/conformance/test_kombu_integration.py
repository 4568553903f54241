"""The integration classes that kombu tests its own transports with, on ours (in real time: their sleeps are theirs)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kombu
import pytest

from tests.conformance.kombu_source import SourceUnavailable, integration_classes
from tests.servers.programs import is_ci
from transports import reset_broker
from transports.broker import BrokerThread

try:
    common: Any = integration_classes()
except SourceUnavailable as error:
    if is_ci():
        raise
    pytest.skip(f"kombu's source distribution is needed, and pip could not get it: {error}", allow_module_level=True)


class OnMemory:
    URL = "liap-memory:///kombu"

    @pytest.fixture
    def connection(self) -> kombu.Connection:
        reset_broker(self.URL)
        return kombu.Connection(self.URL)

    @pytest.fixture
    def invalid_connection(self) -> kombu.Connection:
        # A broker in this process has no host.
        return kombu.Connection(self.URL.replace("///", "//elsewhere:5672/"))


class OnPriority(OnMemory):
    URL = "liap-priority:///kombu"


class OnServed:
    """Over a socket, to a broker that lives as long as one test."""

    scheme = "liap-broker"

    @pytest.fixture
    def connection(self, tmp_path: Path) -> Iterator[kombu.Connection]:
        with BrokerThread(str(tmp_path / "b.sock")) as broker:
            yield kombu.Connection(f"{self.scheme}://{broker.address}")

    @pytest.fixture
    def invalid_connection(self, tmp_path: Path) -> kombu.Connection:
        return kombu.Connection(f"{self.scheme}://{tmp_path}/nobody.sock")


class OnServedPriority(OnServed):
    scheme = "liap-broker-priority"


class TestMemoryBasicFunctionality(OnMemory, common.BasicFunctionality):
    pass


class TestMemoryExchangeTypes(OnMemory, common.BaseExchangeTypes):
    pass


class TestMemoryTimeToLive(OnMemory, common.BaseTimeToLive):
    pass


class TestMemoryPriority(OnMemory, common.BasePriority):
    """Queues that ask for priorities have them here too."""


class TestMemoryMessage(OnMemory, common.BaseMessage):
    pass


class TestServedBasicFunctionality(OnServed, common.BasicFunctionality):
    pass


class TestServedExchangeTypes(OnServed, common.BaseExchangeTypes):
    pass


class TestServedTimeToLive(OnServed, common.BaseTimeToLive):
    pass


class TestServedPriority(OnServedPriority, common.BasePriority):
    pass


class TestServedMessage(OnServed, common.BaseMessage):
    pass


class TestPriorityBasicFunctionality(OnPriority, common.BasicFunctionality):
    pass


class TestPriorityExchangeTypes(OnPriority, common.BaseExchangeTypes):
    pass


class TestPriorityPriority(OnPriority, common.BasePriority):
    pass


class TestPriorityMessage(OnPriority, common.BaseMessage):
    pass
