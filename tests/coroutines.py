"""Tests that are coroutine functions: a conftest that imports the hook runs them, each in a loop of its own."""

from __future__ import annotations

import asyncio
import inspect

import pytest

__all__ = ["DEADLINE", "pytest_pyfunc_call"]

DEADLINE = 60.0


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine function."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), DEADLINE))
    return True
