"""The name that a process signs with is Celery's, in a forked child too."""

from __future__ import annotations

import os

import pytest
from celery.utils.nodenames import anon_nodename

from liap_tasks.sender import sender_name
from tests.transports.forking import in_child


def test_it_is_celery_s() -> None:
    assert sender_name() == anon_nodename() == sender_name()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_another() -> None:
    ours = sender_name()
    assert in_child(lambda: f"{sender_name()} {sender_name() == anon_nodename()}").endswith(" True")
    assert in_child(sender_name) != ours == sender_name()
