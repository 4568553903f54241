"""The public names of ``transports``: adding one is a decision, removing one breaks somebody."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import transports

PUBLIC = [
    "discard_broker",
    "get_broker",
    "reset_broker",
    "CAPABILITIES",
    "Capabilities",
    "Support",
    "Clock",
    "SystemClock",
    "VirtualClock",
    "BrokerUnavailableError",
    "InvalidArgumentError",
    "QueueFullError",
    "TransportError",
]
STATISTICS = [
    "enqueued",
    "delivered",
    "acknowledged",
    "rejected",
    "requeued",
    "expired",
    "dropped",
    "dead_lettered",
    "deduplicated",
    "refused",
    "purged",
    "ready",
    "unacked",
    "delayed",
    "dead_letter_pending",
    "bytes",
    "consumers",
    "oldest_ready_age",
]


def test_the_public_names_are_frozen() -> None:
    assert transports.__all__ == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_says_what_it_is(name: str) -> None:
    member = getattr(transports, name)

    assert name == "CAPABILITIES" or inspect.getdoc(member)


def test_the_parameters_of_the_public_functions_are_frozen() -> None:
    assert list(inspect.signature(transports.get_broker).parameters) == ["url"]
    assert list(inspect.signature(transports.reset_broker).parameters) == ["url", "clock"]


def test_the_statistics_are_frozen() -> None:
    assert list(importlib.import_module("transports.engine").QueueStatistics.__dataclass_fields__) == STATISTICS


def test_importing_the_package_registers_its_schemes_and_does_not_import_celery() -> None:
    program = (
        "import sys, transports\n"
        "from kombu.transport import TRANSPORT_ALIASES, get_transport_cls\n"
        "print(sorted(name for name in TRANSPORT_ALIASES if name.startswith('liap-')))\n"
        "print(get_transport_cls('liap-memory').__name__, get_transport_cls('liap-priority').__name__)\n"
        "print(get_transport_cls('liap-broker').__name__, get_transport_cls('liap-broker-priority').__name__)\n"
        "print('celery' in sys.modules)\n"
    )

    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    assert shown.stdout.splitlines() == [
        "['liap-broker', 'liap-broker-priority', 'liap-memory', 'liap-priority']",
        "MemoryTransport PriorityTransport",
        "ServedTransport PriorityTransport",
        "False",
    ]
