"""The app of the workers, of beat and of the commands: ``celery -A tests.liap_tasks.served.worker_app ...``."""

from __future__ import annotations

from typing import Any

from celery.signals import worker_ready

from liap_tasks import create_app

app = create_app(main="served", include=["tests.liap_tasks.served.tasks"])
app.conf.beat_schedule = {"often": {"task": "served.add", "schedule": 0.2, "args": (1, 2)}}


@worker_ready.connect  # type: ignore[untyped-decorator]
def tell_loop(sender: Any, **_: Any) -> None:
    """Say which of Celery's two loops this worker runs."""
    print(f"loop: {sender.loop.__name__}", flush=True)
