"""The game's app on brokers that nobody else has, as for the document's snippets."""

from __future__ import annotations

from tests.coroutines import pytest_pyfunc_call
from tests.documented.conftest import broker_url, clock

__all__ = ["broker_url", "clock", "pytest_pyfunc_call"]
