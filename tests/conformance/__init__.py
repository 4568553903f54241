"""One suite for every transport, through kombu's public API, with RabbitMQ as the oracle.

A scenario says what a broker does. It runs on RabbitMQ and on each of our transports; where a transport declares a
feature missing (``transports.CAPABILITIES``) the scenarios that :func:`requires` it are not collected for it, and
``test_declared_differences.py`` checks that the declaration is true.

A new transport is one row in :data:`tests.conformance.conftest.BROKERS`; a new rule is a scenario here.
"""

import pytest

# So that a failed assertion in there shows its values, as in a test.
pytest.register_assert_rewrite("tests.conformance.driver", "tests.conformance.inbox")
