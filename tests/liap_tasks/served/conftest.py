"""One broker process for each module of tests, and the workers of that module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kombu import pools

from liap_tasks.testing.nodes.watchdog import Watchdog
from tests.liap_tasks.served.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, _watchdog: Watchdog) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("served"), _watchdog)
    yield made
    pools.reset()  # kombu keeps pools for the whole process, by URL
    made.close()


@pytest.fixture
def priority_world(tmp_path_factory: pytest.TempPathFactory, _watchdog: Watchdog) -> Iterator[World]:
    """Another broker, whose queues all have priorities."""
    made = World(tmp_path_factory.mktemp("priority"), _watchdog, "liap-broker-priority")
    yield made
    pools.reset()
    made.close()
