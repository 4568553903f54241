"""Publishing a call quickly: what is the same for every call of a task is found out once.

Celery reads its configuration a dozen times for each call, looks for the call's route, binds and copies its queue, and
writes its arguments as text: four fifths of what a publish costs in one process. Here the route, the encoder and the
settings that matter are kept until the configuration changes, the text is written by
:mod:`liap_tasks.quick_repr`, and the message goes out by the :mod:`lane <liap_tasks.lane>`. The message itself is made
by Celery (``app.amqp.create_task_message``), so it is Celery's to the last header.

Whatever is out of the ordinary is left to Celery: another broker; receivers of the signals ``before_task_publish``,
``after_task_publish`` and ``task_sent``; ``task-sent`` events; eager mode; stamps, compression, an exchange of the
caller's, and any option not named in ``PLAIN``; an error, which is then raised in Celery's way.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from celery import signals
from celery._state import get_current_worker_task, task_join_will_block  # type: ignore[attr-defined]  # not in the stubs
from celery.app.amqp import AMQP
from celery.app.routes import MapRoute
from celery.backends.base import Backend
from celery.backends.rpc import RPCBackend
from celery.utils.functional import maybe_list
from celery.utils.log import get_logger
from kombu import Queue
from kombu.common import Broadcast
from kombu.entity import maybe_delivery_mode

from liap_tasks.errors import RoutingError
from liap_tasks.identity import random_uuid
from liap_tasks.keys import check_queue_honours_keys
from liap_tasks.lane import Lane
from liap_tasks.quick_repr import quick_repr
from liap_tasks.sender import sender_name
from transports import QueueFullError

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp
    from liap_tasks.lane import LaneChannel

__all__ = ["PreparedCalls"]

logger = get_logger("liap_tasks.publishing")

MESSAGE = frozenset(
    {
        *("group_id", "group_index", "retries", "chord", "time_limit", "soft_time_limit", "root_id", "parent_id"),
        *("shadow", "chain", "replaced_task_nesting"),
    }
)
"""Options that only the message has to do with."""

PLAIN = MESSAGE | {
    *("task_id", "task_type", "result_cls", "link", "link_error", "reply_to", "add_to_parent", "ignore_result"),
    *("expires", "expiration", "priority", "queue", "serializer"),
}

ROUTED = frozenset({"priority", "serializer"})
"""What a route may say besides the queue."""


class _Route:
    """Where calls go. options: what the route adds to a call. quick: whether the queue is reached by its name alone."""

    __slots__ = ("delivery_mode", "options", "queue", "queue_name", "quick")

    def __init__(self, queue: Queue, options: dict[str, Any], default_delivery_mode: Any) -> None:
        self.queue = queue
        self.queue_name = queue.name
        self.options = options
        self.delivery_mode = maybe_delivery_mode(queue.exchange.delivery_mode or default_delivery_mode)
        direct = queue.exchange.type == "direct" and not isinstance(queue, Broadcast)
        self.quick = direct and _given(options).keys() <= ROUTED


class _Frame:
    """What holds as long as the configuration is as it was when this was made."""

    def __init__(self, app: LiapApp) -> None:
        conf: Any = app.conf
        self.eager = bool(conf.task_always_eager)
        amqp: Any = app.amqp
        self.amqp = amqp
        conf = self.conf = app.conf  # what was pending has been read by now
        self.changes = dict(conf.changes)
        self.maps = len(conf.maps)
        self.router = amqp.router
        self.serializer = conf.task_serializer
        self.delivery_mode = conf.task_default_delivery_mode
        self.repr_levels = conf.task_repr_maxlevels or 0
        self.possible = (
            not self.eager
            and conf.task_protocol == 2
            and not conf.task_send_sent_event
            and not conf.task_inherit_parent_priority
            and not conf.task_compression
            and bool(conf.task_publish_retry)
            and type(amqp).as_task_v2 is AMQP.as_task_v2
        )
        # A map looks at nothing but the name; another router is asked for every call.
        self.fixed = all(isinstance(route, MapRoute) for route in self.router.routes)
        self.routes: dict[str, _Route | None] = {}

    def holds(self, conf: Any, amqp: Any) -> bool:
        """Tell whether nothing has changed."""
        return (
            conf is self.conf
            and amqp is self.amqp
            and conf.__dict__["changes"] == self.changes
            and len(conf.__dict__["maps"]) == self.maps
            and amqp.router is self.router
        )

    def route(
        self, name: str, args: Any, kwargs: Any, task: Any, headers: dict[str, Any], options: dict[str, Any]
    ) -> _Route | None:
        """Return where a call goes, None if that takes Celery to find out."""
        if not self.fixed or options.get("queue") is not None:
            seen = {option: options[option] for option in ("queue", *ROUTED) if option in options}
            return self._find(name, args, kwargs, task, {**seen, "headers": headers})
        try:
            known = self.routes[name]
        except KeyError:
            known = self.routes[name] = self._find(name, args, kwargs, task, {})
        if known is not None and self.router.queues.get(known.queue_name) is not known.queue:
            self.routes.clear()
            return None
        return known

    def _find(self, name: str, args: Any, kwargs: Any, task: Any, options: dict[str, Any]) -> _Route | None:
        found = dict(self.router.route(options, name, args, kwargs, task))
        queue = found.pop("queue", None)
        found.pop("headers", None)
        if isinstance(queue, str):
            queue = self.router.queues[queue]
        return None if queue is None else _Route(queue, found, self.delivery_mode)


class PreparedCalls:
    """The quick way for the calls of one app; safe to use from several threads."""

    def __init__(self, app: LiapApp, lane: Lane) -> None:
        self._app = app
        self._lane = lane
        self._frame: _Frame | None = None

    def frame(self) -> _Frame:
        """Return what holds now."""
        app: Any = self._app
        frame = self._frame
        # Read past the property, which is slow for what each publish asks twice.
        amqp = vars(app).get("amqp") or app.amqp
        if frame is None or not frame.holds(app.conf, amqp):
            frame = self._frame = _Frame(app)
        return frame

    @property
    def eager(self) -> bool:
        """Whether ``task_always_eager`` is set."""
        return self.frame().eager

    def publish(
        self, name: str, args: Any, kwargs: Any, headers: dict[str, Any], options: dict[str, Any]
    ) -> Any | None:
        """Publish a call and return its result's handle, or do nothing and return None: then it takes Celery.

        options: of ``Celery.send_task``, without ``countdown`` and ``eta``; a router that was asked leaves its answer
        there, so that Celery need not ask it again. Raises ``QueueFullError``, RoutingError.
        """
        frame = self.frame()
        task = options.get("task_type")
        given = _given(options)
        if not frame.possible or task is None or _watched() or not given.keys() <= PLAIN:
            return None
        try:
            lane = self._lane.channel()
            if lane is None:
                return None
            return self._publish(frame, lane, name, args, kwargs, task, headers, options, given)
        except (QueueFullError, RoutingError):
            raise
        except Exception as error:  # noqa: BLE001 - Celery meets it again, and raises it in its way or gets past it
            logger.debug("call of %s is left to Celery: %r", name, error)
            return None

    def _publish(
        self,
        frame: _Frame,
        lane: LaneChannel,
        name: str,
        args: Any,
        kwargs: Any,
        task: Any,
        headers: dict[str, Any],
        options: dict[str, Any],
        given: dict[str, Any],
    ) -> Any | None:
        app: Any = self._app
        amqp: Any = frame.amqp
        route = frame.route(name, args, kwargs, task, headers, options)
        if route is None:
            return None
        given = {**route.options, **given}
        if not frame.fixed:
            options.update(given, queue=route.queue)
        if not route.quick:
            return None
        expires, seconds = given.pop("expires", None), given.pop("expiration", None)
        if expires is not None:
            seconds = _seconds_left(expires, app)
            if seconds is None:
                return None
        properties: dict[str, Any] = {"delivery_mode": route.delivery_mode}
        if seconds is not None:
            properties["expiration"] = str(int(seconds * 1000))
        parent = get_current_worker_task()
        if parent:
            given["root_id"] = given.get("root_id") or parent.request.root_id or parent.request.id
            given["parent_id"] = given.get("parent_id") or parent.request.id
        backend = task.backend
        ignored = options.get("ignore_result")
        if not ignored and not self._expect_reply(lane, backend):
            return None
        # Kept for Celery, should the broker be lost before it has confirmed: the same call then, not another.
        task_id = options["task_id"] = given.get("task_id") or random_uuid()
        check_queue_honours_keys(name, headers, route.queue)
        message = amqp.create_task_message(
            task_id,
            name,
            args,
            kwargs,
            expires=expires,
            callbacks=maybe_list(given.get("link")),
            errbacks=maybe_list(given.get("link_error")),
            ignore_result=ignored,
            origin=sender_name(),
            reply_to=given.pop("reply_to", None) or app.thread_oid,
            argsrepr=quick_repr(args or (), amqp.argsrepr_maxsize, frame.repr_levels),
            kwargsrepr=quick_repr(kwargs or {}, amqp.kwargsrepr_maxsize, frame.repr_levels),
            **{key: value for key, value in given.items() if key in MESSAGE},
        )
        message.headers.update(headers)
        properties.update(message.properties)
        lane.declare_once(route.queue)
        lane.publish(
            message.body,
            serializer=given.get("serializer") or frame.serializer,
            exchange="",
            routing_key=route.queue_name,
            headers=message.headers,
            properties=properties,
            priority=given.get("priority", 0),
        )
        result = (options.get("result_cls") or app.AsyncResult)(task_id)
        result.ignored = ignored
        if parent and options.get("add_to_parent", True):
            parent.add_trail(result)
        return result

    def _expect_reply(self, lane: LaneChannel, backend: Any) -> bool:
        """Do what the result backend does before a call; False if that takes Celery."""
        prepare = type(backend).on_task_call
        if prepare is Backend.on_task_call:
            return True
        if prepare is not RPCBackend.on_task_call:
            return False
        if not task_join_will_block():
            lane.declare_reply_queue(backend)
        return True


def _watched() -> bool:
    """Tell whether somebody wants to see each publish."""
    return bool(
        signals.before_task_publish.receivers or signals.after_task_publish.receivers or signals.task_sent.receivers
    )


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _seconds_left(expires: Any, app: Any) -> float | None:
    """Return the seconds until a message expires, None if Celery is to say: it warns of those that have."""
    if isinstance(expires, datetime):
        seconds = (expires - app.now()).total_seconds() if expires.tzinfo else -1.0
    elif isinstance(expires, int | float):
        seconds = float(expires)
    else:
        seconds = -1.0
    return seconds if seconds >= 0 else None
