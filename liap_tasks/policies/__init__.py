"""Policies as values: what should happen, decided without Celery, without kombu, with time and chance as arguments."""

from liap_tasks.policies.dead_letter import DeadLetter, DeadLetterPolicy, DeadLetterReason
from liap_tasks.policies.delivery import DeliveryOptions
from liap_tasks.policies.priority import MessagePriority
from liap_tasks.policies.retry import Decision, Retry, RetryPolicy
from liap_tasks.policies.unique import Unique

__all__ = [
    "DeadLetter",
    "DeadLetterPolicy",
    "DeadLetterReason",
    "Decision",
    "DeliveryOptions",
    "MessagePriority",
    "Retry",
    "RetryPolicy",
    "Unique",
]
