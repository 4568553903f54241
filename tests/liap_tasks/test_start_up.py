"""What a worker says when it starts, and the configuration as a module."""

from __future__ import annotations

import importlib
import logging
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

import celeryconfig
from liap_tasks import EmbeddedWorker, LiapApp, create_app, load_settings
from liap_tasks.configuration import celery_configuration
from liap_tasks.worker.start_up import SaysWhoSharesTheBroker
from tests.liap_tasks.conftest import Outcomes


def test_an_embedded_worker_is_not_alone_and_says_nothing(app: LiapApp, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), EmbeddedWorker(app):
        pass
    assert [record.getMessage() for record in caplog.records] == []


def test_a_worker_on_redis_tells_in_one_line_what_is_not_honoured(
    app: LiapApp, caplog: pytest.LogCaptureFixture
) -> None:
    app.conf.broker_url = "redis://:secret@127.0.0.1:1/0"
    worker: Any = SimpleNamespace(app=app)
    with caplog.at_level(logging.WARNING):
        SaysWhoSharesTheBroker(worker).start(worker)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "secret" not in warning
    assert "\n" not in warning
    assert all(
        word in warning
        for word in ("bounds", "TTL", "dead-letter", "visibility_timeout, 3600 s", "MESSAGE_QUEUE_TYPE=rabbitmq")
    )


def test_celeryconfig_configures_an_app_of_somebody_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESSAGE_QUEUE_URL", "liap-memory:///own")
    importlib.reload(celeryconfig)
    with Celery("own", set_as_current=False) as own:
        own.config_from_object("celeryconfig")
        assert own.conf.broker_url == "liap-memory:///own"
        assert own.conf.task_acks_late is True
        assert own.conf.accept_content == ["json"]
    monkeypatch.undo()
    importlib.reload(celeryconfig)


def test_the_configuration_has_no_deprecated_settings(app: LiapApp) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        app.finalize()
        assert not app.conf.maybe_warn_deprecated_settings()


THREADS = "liap_tasks.pools.threads:TaskPool"


@pytest.mark.parametrize(
    ("url", "pool"),
    [("liap-memory://", THREADS), ("liap-priority://", THREADS), (None, "prefork"), ("amqp://", "prefork")],
)
def test_the_pool_suits_the_broker(url: str | None, pool: str) -> None:
    assert celery_configuration(load_settings(message_queue_url=url))["worker_pool"] == pool


def test_the_number_of_handlers_is_the_worker_s_concurrency() -> None:
    assert celery_configuration(load_settings(max_concurrent_handlers=3))["worker_concurrency"] == 3


def test_publishes_are_confirmed_on_rabbitmq() -> None:
    configuration = celery_configuration(load_settings(message_queue_type="rabbitmq"))
    assert configuration["broker_transport_options"] == {"confirm_publish": True}


def test_an_attempt_that_overruns_in_a_thread_is_interrupted_and_dead_lettered(
    app: LiapApp, outcomes: Outcomes
) -> None:
    from celery.exceptions import SoftTimeLimitExceeded

    from liap_tasks import DeadLetterReason, RetryPolicy, dead_letters

    cleaned: list[str] = []

    @app.task(shared=False, name="tests.overruns", timeout=0.05, retry_policy=RetryPolicy(max_retries=0))
    def overruns() -> None:
        try:
            while True:
                pass
        except SoftTimeLimitExceeded:
            cleaned.append("up")
            raise

    with EmbeddedWorker(app):
        overruns.delay()
        assert outcomes.next().state == "FAILURE"
    assert cleaned == ["up"]
    (letter,) = dead_letters.peek(app)
    assert letter.reason is DeadLetterReason.TIMED_OUT


def test_a_queue_that_a_route_names_is_bounded_and_consumed_like_the_others() -> None:
    app = create_app(
        load_settings(message_queue_url="liap-memory:///routes", max_queue_size=7),
        main="routed",
        set_as_current=False,
        changes={"task_routes": {"bots.*": {"queue": "bots"}, "mail.*": "letters"}},
    )
    assert set(app.amqp.queues.consume_from) == {"liap_tasks", "bots", "letters"}
    assert app.amqp.queues["bots"].queue_arguments["x-max-length"] == 7
    assert app.amqp.router.route({}, "bots.play")["queue"].name == "bots"
