"""A selection of Celery's own integration tests over the served broker; celery_source.py runs them all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conformance.celery_source import SourceUnavailable, integration_tests, run
from tests.servers.programs import is_ci
from transports.broker import BrokerThread

try:
    integration_tests()
except SourceUnavailable as error:
    if is_ci():
        raise
    pytest.skip(f"Celery's source distribution is needed, and pip could not get it: {error}", allow_module_level=True)

#: What a broker has its part in: groups, chords, retries, priorities, requeues, remote control, a message sent twice.
SELECTED = (
    "test_inspect.py::test_Inspect::test_ping",
    "test_inspect.py::test_Inspect::test_registered",
    "test_tasks.py::test_tasks::test_reject_with_requeue_redelivers_and_succeeds",
    "test_tasks.py::test_tasks::test_reject_without_requeue_stores_failure",
    "test_tasks.py::test_tasks::test_task_retried_once",
    "test_tasks.py::test_tasks::test_task_retried_priority",
    "test_canvas.py::test_chain::test_simple_chain",
    "test_canvas.py::test_chain::test_chain_inside_group_receives_arguments",
    "test_canvas.py::test_chain::test_chord_header_id_duplicated_on_rabbitmq_msg_duplication",
    "test_canvas.py::test_group::test_nested_group",
    "test_canvas.py::test_chord::test_simple_chord_with_a_delay_in_group_save",
    "test_canvas.py::test_chord::test_chord_on_error",
)


def test_celerys_own_integration_tests_pass(tmp_path: Path, redis_url: str) -> None:
    with BrokerThread(str(tmp_path / "b.sock")) as broker:
        done = run(f"liap-broker://{broker.address}", redis_url, [f"t/integration/{test}" for test in SELECTED])

    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= len(SELECTED), done.stdout
