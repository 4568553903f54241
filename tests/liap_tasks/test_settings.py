"""The environment variables: names, defaults, bounds, and the one line for a wrong value."""

from __future__ import annotations

from uuid import uuid4

import pytest
from pydantic import ValidationError

from liap_tasks import ConfigurationError, EmbeddedWorker, Settings, configuration, create_app, load_settings
from tests.liap_tasks.conftest import DEADLINE

DEFAULTS = {
    "MESSAGE_QUEUE_TYPE": "memory",
    "MESSAGE_QUEUE_URL": None,
    "MAX_QUEUE_SIZE": 10_000,
    "DEFAULT_MESSAGE_TTL": 300,
    "DEDUP_WINDOW_SECONDS": 300,
    "DLQ_MAX_RETRIES": 3,
    "DLQ_RETRY_DELAY": 60,
    "DLQ_RETENTION_HOURS": 24,
    "DLQ_STORE_URL": "sqlite:///dead_letters.sqlite3",
    "UNIQUE_STORE_URL": None,
    "MAX_CONCURRENT_HANDLERS": 10,
    "HANDLER_TIMEOUT_SECONDS": 30,
    "BATCH_SIZE": 100,
    "BATCH_TIMEOUT_SECONDS": 5,
}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in DEFAULTS:
        monkeypatch.delenv(variable, raising=False)


def test_the_variables_and_their_defaults_are_the_documented_ones() -> None:
    assert {name.upper(): value for name, value in load_settings().model_dump().items()} == DEFAULTS


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("MESSAGE_QUEUE_TYPE", "rabbitmq", "rabbitmq"),
        (
            "MESSAGE_QUEUE_URL",
            "amqp://game:secret@queue.example:5673/liap",
            "amqp://game:secret@queue.example:5673/liap",
        ),
        ("MAX_QUEUE_SIZE", "5", 5),
        ("DEFAULT_MESSAGE_TTL", "0.5", 0.5),
        ("DLQ_MAX_RETRIES", "0", 0),
        ("DLQ_RETRY_DELAY", "0", 0),
        ("DLQ_RETENTION_HOURS", "1", 1),
        ("DLQ_STORE_URL", "none", "none"),
        ("DLQ_STORE_URL", "postgresql://liap@db.example/letters", "postgresql://liap@db.example/letters"),
        ("UNIQUE_STORE_URL", "memory://", "memory://"),
        ("UNIQUE_STORE_URL", "redis://locks.example:6379/1", "redis://locks.example:6379/1"),
        ("MAX_CONCURRENT_HANDLERS", "2", 2),
        ("HANDLER_TIMEOUT_SECONDS", "1.5", 1.5),
        ("BATCH_SIZE", "1", 1),
        ("BATCH_TIMEOUT_SECONDS", "0.25", 0.25),
    ],
)
def test_each_variable_is_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, value: object
) -> None:
    monkeypatch.setenv(variable, text)
    assert getattr(load_settings(), variable.lower()) == value


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("MESSAGE_QUEUE_TYPE", "kafka"),
        ("MESSAGE_QUEUE_URL", "localhost"),
        ("MAX_QUEUE_SIZE", "0"),
        ("MAX_QUEUE_SIZE", "many"),
        ("MAX_QUEUE_SIZE", "2147483648"),
        ("DEFAULT_MESSAGE_TTL", "0"),
        ("DEFAULT_MESSAGE_TTL", "nan"),
        ("DEFAULT_MESSAGE_TTL", "inf"),
        ("DEFAULT_MESSAGE_TTL", "0.0001"),
        ("DEFAULT_MESSAGE_TTL", "315360001"),
        ("DEDUP_WINDOW_SECONDS", "0"),
        ("DEDUP_WINDOW_SECONDS", "nan"),
        ("DEDUP_WINDOW_SECONDS", "315360001"),
        ("DLQ_MAX_RETRIES", "-1"),
        ("DLQ_MAX_RETRIES", "1.5"),
        ("DLQ_RETRY_DELAY", "-1"),
        ("DLQ_RETRY_DELAY", "1e300"),
        ("DLQ_RETRY_DELAY", "nan"),
        ("DLQ_RETENTION_HOURS", "0"),
        ("DLQ_RETENTION_HOURS", "87601"),
        ("DLQ_RETENTION_HOURS", "nan"),
        ("DLQ_STORE_URL", "letters.sqlite3"),
        ("DLQ_STORE_URL", "mysql://liap@db.example/letters"),
        ("DLQ_STORE_URL", "postgresql://db.example"),
        ("UNIQUE_STORE_URL", "locks.sqlite3"),
        ("UNIQUE_STORE_URL", "mysql://liap@db.example/locks"),
        ("MAX_CONCURRENT_HANDLERS", "0"),
        ("HANDLER_TIMEOUT_SECONDS", "-5"),
        ("HANDLER_TIMEOUT_SECONDS", "0"),
        ("HANDLER_TIMEOUT_SECONDS", "1e300"),
        ("HANDLER_TIMEOUT_SECONDS", "nan"),
        ("BATCH_SIZE", "0"),
        ("BATCH_TIMEOUT_SECONDS", "soon"),
        ("BATCH_TIMEOUT_SECONDS", "1e300"),
        ("BATCH_TIMEOUT_SECONDS", "nan"),
    ],
)
def test_a_wrong_value_is_one_line_naming_variable_value_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    error = refused.value
    assert (error.variable, error.value) == (variable, text)
    assert error.allowed
    line = str(error)
    assert "\n" not in line
    assert all(part in line for part in (variable, text, error.allowed))


def test_an_app_without_settings_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_QUEUE_SIZE", "17")
    app = create_app(set_as_current=False)
    (queue,) = app.conf.task_queues
    assert queue.queue_arguments["x-max-length"] == 17
    app.close()


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, "liap-broker://"),
        ({"message_queue_type": "priority"}, "liap-broker-priority://"),
        ({"message_queue_type": "redis"}, "redis://127.0.0.1:6379/0"),
        ({"message_queue_type": "rabbitmq"}, "amqp://guest:guest@127.0.0.1:5672//"),
        ({"message_queue_type": "redis", "message_queue_url": "liap-memory:///x"}, "liap-memory:///x"),
    ],
)
def test_the_type_gives_the_broker_url_and_an_explicit_url_wins(settings: dict[str, str], url: str) -> None:
    assert load_settings(**settings).broker_url == url


def test_a_misspelt_setting_in_code_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="MAX_QUEUE_SICE"):
        load_settings(max_queue_sice=5)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().max_queue_size = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"message_queue_url": "kafka9://x"}, r"MESSAGE_QUEUE_URL='kafka9://x' is not allowed.*liap-memory"),
        ({"message_queue_type": "redis"}, r"MESSAGE_QUEUE_TYPE='redis' is not allowed.*pip install redis"),
    ],
)
def test_a_broker_that_cannot_be_used_here_is_a_wrong_setting(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], line: str
) -> None:
    monkeypatch.setattr(configuration, "find_spec", lambda name: None)
    app = create_app(load_settings(**settings), set_as_current=False)
    with pytest.raises(ConfigurationError, match=line):
        app.conf.broker_url
    app.close()


@pytest.mark.parametrize("transport", ["liap-memory", "liap-priority"])
def test_a_worker_starts_with_the_largest_values_that_are_allowed(transport: str) -> None:
    years = 315_360_000
    app = create_app(
        Settings(
            message_queue_url=f"{transport}:///{uuid4()}",
            dlq_store_url="none",
            max_queue_size=2**31 - 1,
            default_message_ttl=years,
            dedup_window_seconds=years,
            dlq_retry_delay=years,
            dlq_retention_hours=years / 3600,
            handler_timeout_seconds=years,
            batch_timeout_seconds=years,
        ),
        set_as_current=False,
    )

    @app.task(name="settings.answer", shared=False, ignore_result=False)
    def answer() -> int:
        return 42

    with EmbeddedWorker(app):
        assert answer.delay().get(timeout=DEADLINE) == 42
    assert app.dead_letter_policy.ttl == years
    app.close()
