"""What this package tells whoever listens, in Celery's manner: ``event_published.connect(function)``.

A receiver that fails is logged and disturbs nobody. Everything about tasks is told by Celery's own signals.
"""

from __future__ import annotations

from typing import Any

from celery.utils.dispatch import Signal

__all__ = ["event_published"]

_signal: Any = Signal

event_published = _signal(
    name="event_published", providing_args={"event_id", "routing_key", "body", "headers", "ordering_key"}
)
"""Sent when every subscriber's queue has an event. sender: its EventExchange. body: what subscribers get. headers:
those of its publisher."""
