"""The environment variables of this package: their names, defaults and bounds.

A wrong value stops start-up with one line naming the variable, its value and what is allowed.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from liap_tasks.dead_letter_store.database import ALLOWED, check_store_url
from liap_tasks.errors import ConfigurationError
from liap_tasks.policies import DeadLetterPolicy
from liap_tasks.policies.durations import TEN_YEARS
from liap_tasks.unique.opening import ALLOWED as UNIQUE_ALLOWED
from liap_tasks.unique.opening import check_unique_store_url

__all__ = ["QueueType", "Settings", "load_settings", "settings_of"]

QueueType = Literal["memory", "priority", "redis", "rabbitmq"]

_URLS: dict[str, str] = {
    # The user's own served broker, started by the first process that needs it.
    "memory": "liap-broker://",
    "priority": "liap-broker-priority://",
    "redis": "redis://127.0.0.1:6379/0",
    "rabbitmq": "amqp://guest:guest@127.0.0.1:5672//",
}


def _variable(default: Any, allowed: str, **bounds: Any) -> Any:
    return Field(default, description=allowed, **bounds)


class Settings(BaseSettings):
    """The settings; each field is the environment variable of the same name in upper case.

    Use :func:`load_settings`, which turns a wrong value into a ConfigurationError.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", case_sensitive=False)

    message_queue_type: QueueType = _variable("memory", "memory, priority, redis or rabbitmq")
    message_queue_url: str | None = _variable(
        None, "a broker URL such as amqp://user:password@host:5672/vhost", pattern=r"^[A-Za-z][A-Za-z0-9+.-]*://"
    )
    max_queue_size: int = _variable(10_000, f"a whole number of messages, from 1 to {2**31 - 1}", ge=1, lt=2**31)
    default_message_ttl: float = _variable(300, f"seconds, from 0.001 to {TEN_YEARS}", ge=0.001, le=TEN_YEARS)
    dedup_window_seconds: float = _variable(300, f"seconds, from 0.001 to {TEN_YEARS}", ge=0.001, le=TEN_YEARS)
    dlq_max_retries: int = _variable(3, "a whole number of retries, at least 0", ge=0)
    dlq_retry_delay: float = _variable(60, f"seconds, from 0 to {TEN_YEARS}", ge=0, le=TEN_YEARS)
    dlq_retention_hours: float = _variable(24, "hours, above 0, at most 87600", gt=0, le=TEN_YEARS / 3600)
    dlq_store_url: str = _variable("sqlite:///dead_letters.sqlite3", ALLOWED)
    unique_store_url: str | None = _variable(None, UNIQUE_ALLOWED)
    max_concurrent_handlers: int = _variable(10, "a whole number of handlers, at least 1", ge=1)
    handler_timeout_seconds: float = _variable(30, f"seconds, above 0, at most {TEN_YEARS}", gt=0, le=TEN_YEARS)
    batch_size: int = _variable(100, "a whole number of messages, at least 1", ge=1)
    batch_timeout_seconds: float = _variable(5, f"seconds, above 0, at most {TEN_YEARS}", gt=0, le=TEN_YEARS)

    @field_validator("dlq_store_url")
    @classmethod
    def _store_can_be_opened(cls, url: str) -> str:
        if url != "none":
            check_store_url(url)
        return url

    @field_validator("unique_store_url")
    @classmethod
    def _locks_can_be_opened(cls, url: str | None) -> str | None:
        if url is not None:
            check_unique_store_url(url)
        return url

    @property
    def broker_url(self) -> str:
        """The broker: MESSAGE_QUEUE_URL if given, else the usual address of MESSAGE_QUEUE_TYPE."""
        return self.message_queue_url or _URLS[self.message_queue_type]

    @property
    def local_broker_url(self) -> str:
        """The broker of a program that is one process: ``memory`` and ``priority`` mean that process's own."""
        if self.message_queue_url is None and self.message_queue_type in ("memory", "priority"):
            return f"liap-{self.message_queue_type}://"
        return self.broker_url

    @property
    def dead_letter_policy(self) -> DeadLetterPolicy:
        """What becomes of dead letters that have no policy of their own."""
        return DeadLetterPolicy(
            max_retries=self.dlq_max_retries,
            retry_delay=self.dlq_retry_delay,
            ttl=timedelta(hours=self.dlq_retention_hours),
        )


def settings_of(app: Any) -> Settings:
    """Return an app's settings; those of the environment for an app that is not ours.

    Such an app meets our tasks when they are shared (``celery.shared_task``): they join every app of the process.
    """
    settings: Settings | None = getattr(app, "settings", None)
    return load_settings() if settings is None else settings


def load_settings(**values: Any) -> Settings:
    """Return the settings from the environment, ``values`` (field names) taking precedence.

    Raises ConfigurationError for the first wrong value.
    """
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        field = Settings.model_fields.get(name.lower())
        allowed = (field.description or "") if field else "one of " + ", ".join(map(str.upper, Settings.model_fields))
        raise ConfigurationError(name.upper(), first["input"], allowed) from None
