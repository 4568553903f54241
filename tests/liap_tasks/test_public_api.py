"""The names that users may rely on; a change here is a change for them."""

from __future__ import annotations

import celery.app.task

import liap_tasks
from transports.errors import TransportError

PUBLIC = {
    *(
        "app",
        "create_app",
        "EmbeddedWorker",
        "LiapApp",
        "LiapTask",
        "BatchItem",
        "BatchTask",
        "Settings",
        "load_settings",
    ),
    *("DeadLetterPolicy", "DeliveryOptions", "MessagePriority", "RetryPolicy", "Unique"),
    *("BatchItem", "BatchTask", "EventExchange"),
    *("Attempt", "DeadLetter", "DeadLetterReason", "DeadLetterRecord", "MessageMetadata"),
    *("AnswerTimeoutError", "BrokerUnavailableError", "ConfigurationError", "DeadLetterError", "EmbeddedWorkerError"),
    *("DuplicateTaskError", "InvalidArgumentError", "LiapError", "QueueFullError", "RoutingError", "UniqueStoreError"),
}


def test_the_public_names_are_frozen() -> None:
    assert set(liap_tasks.__all__) == PUBLIC
    assert len(liap_tasks.__all__) == len(PUBLIC)
    assert all(hasattr(liap_tasks, name) for name in PUBLIC)


def test_every_public_class_and_function_tells_what_it_does() -> None:
    undocumented = [name for name in PUBLIC - {"app"} if not (getattr(liap_tasks, name).__doc__ or "").strip()]
    assert undocumented == []


def test_our_errors_have_one_base_and_the_broker_s_another() -> None:
    ours = ("AnswerTimeoutError", "ConfigurationError", "DeadLetterError", "DuplicateTaskError", "EmbeddedWorkerError")
    for name in (*ours, "RoutingError", "UniqueStoreError"):
        assert issubclass(getattr(liap_tasks, name), liap_tasks.LiapError)
    for name in ("BrokerUnavailableError", "InvalidArgumentError", "QueueFullError"):
        assert issubclass(getattr(liap_tasks, name), TransportError)


def test_the_task_base_is_one_level_under_celery_s() -> None:
    assert (
        celery.app.task.Task in liap_tasks.LiapTask.__bases__ or liap_tasks.LiapTask.__mro__[1] is celery.app.task.Task
    )


def test_the_app_is_the_app_and_not_a_module() -> None:
    assert isinstance(liap_tasks.app, liap_tasks.LiapApp)
    assert liap_tasks.app.main == "liap_tasks"
