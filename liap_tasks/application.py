"""The Celery application: :func:`create_app`, and what it adds to ``celery.Celery``.

Three things happen for every published task here, whoever publishes it and however (``delay``, ``apply_async``, a
chain, ``send_task`` by name): it gets its metadata header, a delay is given to the broker where the broker can hold
it, and a queue that was not configured gets the same bounds and dead letters as the others.

Why settings are read late: a program cannot handle an import that fails because of somebody's environment. An app
made without settings reads the environment when its configuration is first needed; the ``celery`` program then ends
with one line, and a program of your own calls :func:`liap_tasks.load_settings` where it can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property, wraps
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Protocol, get_args, get_type_hints, overload

from amqp.exceptions import MessageNacked
from celery import Celery
from celery._state import connect_on_app_finalize, get_current_task
from celery.app.base import pydantic_wrapper  # type: ignore[attr-defined]  # not in the stubs
from celery.backends.rpc import RPCBackend
from celery.local import PromiseProxy
from kombu import Queue
from kombu.exceptions import OperationalError
from pydantic import BaseModel

from liap_tasks.calls import reached
from liap_tasks.commands.one_line import end_celery_command
from liap_tasks.configuration import broker_feature, celery_configuration, check_broker, work_queue
from liap_tasks.configuration import transport_options as transport_options_for
from liap_tasks.continuation import keep_call
from liap_tasks.coroutines.running import MARK
from liap_tasks.dead_letter_store import DeadLetterStore
from liap_tasks.dead_letter_store.bootstep import KeepsDeadLetters
from liap_tasks.dead_letter_store.database import STORES
from liap_tasks.errors import ConfigurationError
from liap_tasks.events import EventExchange
from liap_tasks.keys import KEY_HEADERS, check_broker_honours_keys, headers_of_keys
from liap_tasks.lane import Lane
from liap_tasks.metadata import HEADER, MessageMetadata, deadline_in, first_headers
from liap_tasks.policies import DeadLetterPolicy
from liap_tasks.policies.deadline import deadline_from, seconds_until
from liap_tasks.prepared_calls import PreparedCalls
from liap_tasks.queue_table import routed_queues
from liap_tasks.replies import Replies
from liap_tasks.reply_backend import ReplyBackend
from liap_tasks.settings import Settings, load_settings
from liap_tasks.task_statistics import TaskStatistics
from liap_tasks.time_source import MACHINE
from liap_tasks.unique.locks import UniqueLocks
from liap_tasks.unique.publishing import publish_unique
from liap_tasks.worker.start_up import SaysWhoSharesTheBroker
from transports import Clock, QueueFullError

if TYPE_CHECKING:
    from liap_tasks.task import LiapTask

__all__ = ["LiapApp", "create_app"]

REFUSED_RETRY_AFTER = 1.0
PUBLISHING_THREADS = 4
MAX_BROKER_DELAY = (2**32 - 1) / 1000


class _LateConfiguration(Mapping[str, Any]):
    """Celery configuration from an app's settings, made when Celery first looks into it."""

    def __init__(self, app: LiapApp) -> None:
        self._app = app

    @cached_property
    def _values(self) -> dict[str, Any]:
        return celery_configuration(self._app.settings)

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Refreshable(Protocol):
    """A worker of this process that takes up subscribers added while it runs."""

    def refresh(self) -> None:
        """Consume the queues of all subscribers known by now."""


class LiapApp(Celery):
    """A Celery app configured by :class:`Settings`."""

    task_cls = "liap_tasks.task:LiapTask"
    amqp_cls = "liap_tasks.queue_table:LiapAMQP"
    registry_cls = "liap_tasks.task_registry:SteadyTaskRegistry"
    events_cls = "liap_tasks.worker.event_dispatcher:LiapEvents"

    time_source: Clock
    """The clock by which deadlines, delays, due dead letters and periodic tasks go; the machine's unless given."""

    def __init__(
        self,
        main: str = "liap_tasks",
        *,
        settings: Settings | None = None,
        clock: Clock | None = None,
        **options: Any,
    ) -> None:
        self._settings = settings
        self.time_source = clock or MACHINE
        self._replies: Replies | None = None
        self._publishing_threads: ThreadPoolExecutor | None = None
        self.task_statistics = TaskStatistics()
        self.lane = Lane(self)
        self.prepared_calls = PreparedCalls(self, self.lane)
        self.unique_locks = UniqueLocks(self)
        self.event_exchanges: dict[str, EventExchange] = {}
        self.embedded_workers: list[Refreshable] = []
        self.shares_tasks = True
        self._joined: set[str] = set()  # names of tasks that other apps have shared
        super().__init__(main, **options)
        self.config_from_object(_LateConfiguration(self))
        self.steps["worker"].update((SaysWhoSharesTheBroker, KeepsDeadLetters))

    @cached_property
    def settings(self) -> Settings:
        """The settings given, or those of the environment when they are first needed.

        Raises ConfigurationError for a wrong value, or a broker that cannot be used here; the ``celery`` program ends
        with one line.
        """
        try:
            settings = self._settings or load_settings()
            check_broker(settings)
        except ConfigurationError as error:
            end_celery_command(error)
            raise
        return settings

    @cached_property
    def Worker(self) -> Any:
        """The worker of the ``celery worker`` program."""
        worker: Any = "liap_tasks.worker.program:LiapWorker"  # imported when it is asked for
        return self.subclass_with_self(worker)

    def _get_backend(self) -> Any:
        """Return the result backend that the configuration names, in our own form if it is ``rpc://``."""
        backend: Any = super()._get_backend()  # type: ignore[misc]  # not in the stubs
        is_rpc = type(backend) is RPCBackend
        url: Any = backend.url
        return ReplyBackend(app=self, url=url) if is_rpc else backend

    @property
    def replies(self) -> Replies:
        """Where the answers to calls made from coroutines arrive in this process."""
        if self._replies is None or not self._replies.usable:
            self._replies = Replies(self)
            self._publishing_threads = None
        return self._replies

    @property
    def publishing_threads(self) -> ThreadPoolExecutor:
        """The threads that publish for coroutines."""
        replies = self.replies
        if self._publishing_threads is None:
            self._publishing_threads = ThreadPoolExecutor(
                PUBLISHING_THREADS, thread_name_prefix="liap-publish", initializer=replies.name_thread
            )
        return self._publishing_threads

    def connect(self) -> None:
        """Open what the first publish and the first call that is waited for would open; blocks this thread.

        For the start of a program: it learns then that the broker is not there, and its first message takes no longer
        than the others. :meth:`disconnect` closes it. Raises BrokerUnavailableError when the broker cannot be reached.
        Does nothing with ``task_always_eager``.
        """
        if self.conf.task_always_eager:
            return
        reached(self, self._open_for_publishing)
        if isinstance(self.backend, RPCBackend):
            self.replies.listen()

    def _open_for_publishing(self) -> None:
        if self.lane.channel() is None:
            with self.producer_or_acquire() as producer:
                producer.connection.ensure_connection(max_retries=1, interval_start=0)

    def disconnect(self) -> None:
        """Close what is connected: publishing threads, reply queue, store. It is made anew when it is needed."""
        if self._publishing_threads is not None:
            self._publishing_threads.shutdown(wait=False, cancel_futures=True)
            self._publishing_threads = None
        if self._replies is not None:
            self._replies.close()
            self._replies = None
        if "dead_letter_store" in self.__dict__:
            self.dead_letter_store.close()
        self.unique_locks.close()
        self.lane.forget()
        self._pool = None

    def close(self) -> None:
        """Close pools and threads; see ``celery.Celery.close``."""
        self.disconnect()
        super().close()

    @overload  # type: ignore[override]  # Celery's stubs know neither the options nor the methods of our tasks
    def task(self, fun: Callable[..., Any], /) -> LiapTask: ...

    @overload
    def task(self, *, shared: bool = True, **options: Any) -> Callable[[Callable[..., Any]], LiapTask]: ...

    def task(self, *args: Any, shared: bool = True, **options: Any) -> Any:
        """Make a task of a function; see ``celery.Celery.task``, and :class:`LiapTask` for the options of ours.

        shared: whether the other apps of this package in this process get the task, too, but those that have one
        of that name themselves; an app that is isolated for a test shares none. Celery would give it to every app:
        one that is not ours would run it without its policies, and warns of its options.
        """
        make: Any = super().task(shared=False, **options)
        if not (shared and self.shares_tasks):
            return make(*args) if args else make
        of_task = {name: value for name, value in options.items() if name not in ("lazy", "filter")}

        def make_shared(function: Callable[..., Any]) -> Any:
            def join(app: Celery) -> None:
                if isinstance(app, LiapApp):  # after its own, which wait there already
                    other: Any = app
                    other._pending.append(PromiseProxy(other._join, (function, of_task)))

            connect_on_app_finalize(join)
            return make(function)

        return make_shared(*args) if args else make_shared

    def _join(self, function: Callable[..., Any], options: dict[str, Any]) -> Any:
        """Take a task that another app shares, unless there is one of that name."""
        name = options.get("name") or self.gen_task_name(function.__name__, function.__module__)
        known = self._known_tasks.get(name)
        if known is None:
            known = self._task_from_fun(function, **options)
            self._joined.add(name)
        elif name in self._joined:  # two apps share different ones
            self._warn_if_duplicate_task_name(known, function, name)  # type: ignore[attr-defined]  # not in the stubs
        return known

    def _task_from_fun(  # type: ignore[override]  # Celery's signature has some thirty parameters
        self, fun: Any, name: str | None = None, base: Any = None, **options: Any
    ) -> Any:
        """Make a task of a function; annotations with pydantic models are honoured unless ``pydantic=False``.

        So are those of its fallback.
        """
        name = name or self.gen_task_name(fun.__name__, fun.__module__)
        if name in self._joined:  # the app's own takes the place of the shared one
            self._joined.discard(name)
            del vars(self)["_tasks"][name]
        options.setdefault("pydantic", mentions_models(fun))
        for key in ("ordering_key", "dedup_key"):
            if callable(options.get(key)):
                options[key] = staticmethod(options[key])
        fallback = options.get("fallback")
        if fallback is not None:
            if options["pydantic"] is not False and mentions_models(fallback):
                fallback = pydantic_wrapper(
                    self,
                    fallback,
                    name,
                    options.get("pydantic_strict", False),
                    options.get("pydantic_context"),
                    options.get("pydantic_dump_kwargs"),
                )
            options["fallback"] = staticmethod(fallback)
        if options["pydantic"] and iscoroutinefunction(fun):
            fun = self._with_dumped_result(fun, name, options)
        return super()._task_from_fun(fun, name, base, **options)

    def _with_dumped_result(self, fun: Callable[..., Any], name: str, options: dict[str, Any]) -> Callable[..., Any]:
        """Return an ``async def`` function whose result Celery's pydantic wrapper has dumped.

        The wrapper sees a coroutine where it expects the result; a second one, around nothing, gets the awaited value.
        """

        def result(value: Any) -> Any:
            return value

        with suppress(NameError, AttributeError, TypeError):  # Celery's wrapper lets annotations be, then
            result.__annotations__ = {key: hint for key, hint in get_type_hints(fun).items() if key == "return"}
        dump = pydantic_wrapper(
            self,
            result,
            name,
            options.get("pydantic_strict", False),
            options.get("pydantic_context"),
            options.get("pydantic_dump_kwargs"),
        )

        @wraps(fun)
        async def dumping(*args: Any, **kwargs: Any) -> Any:
            return dump(await fun(*args, **kwargs))

        setattr(dumping, MARK, True)  # Celery's wrapper, no coroutine function itself, takes it over
        return dumping

    @cached_property
    def dead_letter_policy(self) -> DeadLetterPolicy:
        """The policy of tasks that have none of their own, and of messages that are no task known here."""
        return self.settings.dead_letter_policy

    def dead_letter_policy_of(self, task_name: str | None) -> DeadLetterPolicy:
        """Return what becomes of the dead letters of a task."""
        return getattr(self.tasks.get(task_name or ""), "dead_letter_policy", None) or self.dead_letter_policy

    @cached_property
    def dead_letter_store(self) -> DeadLetterStore:
        """The store that DLQ_STORE_URL names; nothing is opened before it is used.

        Raises ConfigurationError when the setting is ``none``.
        """
        url = self.settings.dlq_store_url
        if url == "none":
            raise ConfigurationError("DLQ_STORE_URL", url, f"a store, for this purpose: {STORES}")
        return DeadLetterStore(url, clock=lambda: self.time_source.time())

    def _connection(self, url: Any, *args: Any, transport_options: Any = None, **options: Any) -> Any:
        """Return a connection; a program that sets ``broker_transport_options`` adds to those that are needed here."""
        needed = transport_options_for(url) if isinstance(url, str) else {}
        needed.update(self.conf.broker_transport_options)
        needed.update(transport_options or {})
        return super()._connection(url, *args, transport_options=needed, **options)  # type: ignore[misc]  # not in the stubs

    def missing_queue(self, name: str) -> Queue:
        """Return the queue to use for a name that is not in ``task_queues``."""
        return work_queue(name, self.settings)

    def refresh_event_queues(self) -> None:
        """Let workers of this app consume the queues of all event subscribers, those that run in this process too."""
        if "queues" in self.amqp.__dict__:
            self.amqp.queues.deselect(sorted(self.left_event_queues()))
            self.add_event_queues(self.amqp.queues)
            for worker in list(self.embedded_workers):
                worker.refresh()

    def add_event_queues(self, queues: Any) -> None:
        """Add the queues of all event subscribers to a queue table; they are consumed unless -Q says otherwise."""
        add = queues.select_add if queues._consume_from is None else queues.add
        for exchange in list(self.event_exchanges.values()):
            for queue in exchange.queues().values():
                add(queue)

    def event_queue_names(self) -> set[str]:
        """Return the names of the queues of all event subscribers."""
        return {name for exchange in list(self.event_exchanges.values()) for name in exchange.queue_names()}

    def left_event_queues(self) -> set[str]:
        """Return the names of the queues whose last subscriber has unsubscribed, and that serve nothing else."""
        left = {name for exchange in list(self.event_exchanges.values()) for name in exchange.left_queues()}
        if left:
            left -= self.event_queue_names() | {queue.name for queue in self.conf.task_queues or ()}
            left -= routed_queues(self.conf.task_routes).keys()
        return left

    @property
    def _known_tasks(self) -> Mapping[str, Any]:
        """The tasks registered so far; unlike ``tasks`` it does not finalize the app."""
        known: Mapping[str, Any] = vars(self)["_tasks"]
        return known

    @property
    def broker_holds_delays(self) -> bool:
        """Whether the broker keeps delayed messages itself (header ``x-delay``)."""
        return broker_feature(self.conf.broker_write_url or self.conf.broker_url, "broker_delay")

    def send_task(  # type: ignore[override]  # Celery's signature has some thirty parameters
        self, name: str, args: Any = None, kwargs: Any = None, countdown: Any = None, eta: Any = None, **options: Any
    ) -> Any:
        """Publish a task by name; see ``celery.Celery.send_task``.

        A ``countdown`` or ``eta`` becomes a delay that the broker holds, to the millisecond, where it can.
        correlation_id goes to the metadata. deadline (POSIX seconds or datetime) or answer_within (seconds): until when
        an answer is of use; the message expires then. ordering_key, dedup_key: see :class:`LiapTask`.
        Raises ``QueueFullError`` when the queue's bound refuses the message, InvalidArgumentError for a key on a broker
        or a queue that would ignore it; for a unique task that is known here DuplicateTaskError and UniqueStoreError.
        What Celery publishes when a task has ended becomes a dead letter instead, see :mod:`liap_tasks.continuation`.
        """
        options.update(countdown=countdown, eta=eta)
        task = options.get("task_type") or self._known_tasks.get(name)
        try:
            if getattr(task, "unique", None) is not None:
                return publish_unique(
                    self, task, args, kwargs, options, lambda options: self._send_task(name, args, kwargs, **options)
                )
            return self._send_task(name, args, kwargs, **options)
        except Exception as error:
            kept = keep_call(self, name, args, kwargs, options, error)
            if kept is None:
                raise
            return kept

    def _send_task(
        self, name: str, args: Any, kwargs: Any, countdown: Any = None, eta: Any = None, **options: Any
    ) -> Any:
        headers = dict(options.pop("headers", None) or {})
        correlation_id = options.pop("metadata_correlation_id", None)
        asked = deadline_from(
            deadline=options.pop("deadline", None),
            answer_within=options.pop("answer_within", None),
            now=self.time_source.time(),
        )
        if HEADER not in headers:
            headers.update(self.new_headers(correlation_id, asked))
        deadline = deadline_in(headers)
        if deadline is not None:
            options["expires"] = _sooner(options.get("expires"), deadline, self.now())
        headers.update(
            headers_of_keys(
                name, ordering_key=options.pop("ordering_key", None), dedup_key=options.pop("dedup_key", None)
            )
        )
        if not KEY_HEADERS.isdisjoint(headers):
            check_broker_honours_keys(name, headers, self.conf.broker_write_url or self.conf.broker_url)
        priority = options.get("priority")
        if priority is not None:
            options["priority"] = int(priority)
        elif name not in self._known_tasks:  # a task that is known here has its own; without any it would be below LOW
            options["priority"] = self.conf.task_default_priority
        if (countdown or eta) and self.broker_holds_delays:
            delay = float(countdown) if countdown else seconds_until(eta, self.now())
            if delay <= MAX_BROKER_DELAY:
                countdown = eta = None
                if delay > 0:
                    headers["x-delay"] = round(delay * 1000)
        if not (countdown or eta):
            result = self.prepared_calls.publish(name, args, kwargs, headers, options)
            if result is not None:
                return result
        with self.telling_refusals(options.get("queue")):
            return super().send_task(name, args, kwargs, countdown=countdown, eta=eta, headers=headers, **options)

    @contextmanager
    def telling_refusals(self, queue: Queue | str | None) -> Iterator[None]:
        """Raise QueueFullError for RabbitMQ's refusal, a negative confirm; our transports raise it by themselves.

        queue: that may be full, None: the default queue.
        """
        try:
            yield
        except (OperationalError, MessageNacked) as error:
            if not isinstance(error, MessageNacked) and not isinstance(error.__cause__, MessageNacked):
                raise
            name = queue.name if isinstance(queue, Queue) else queue or self.conf.task_default_queue
            raise QueueFullError(name, self.settings.max_queue_size, REFUSED_RETRY_AFTER) from error

    def new_headers(self, correlation_id: str | None = None, deadline: float | None = None) -> dict[str, Any]:
        """Return the headers with the metadata for a message sent now, by the running task if there is one.

        What continues that task (the rest of its chain, its callbacks) has its deadline; what it starts by itself while
        it runs has not.
        """
        parent = get_current_task()
        source = self.main or ""
        if parent:
            source = parent.name
            own = MessageMetadata.from_headers(parent.request.headers)
            correlation_id = correlation_id or own.correlation_id
            if deadline is None and getattr(parent.request, "liap_answered", False):
                deadline = own.deadline
        now = self.time_source.time()
        return first_headers(source, timestamp=now, correlation_id=correlation_id, deadline=deadline)

    def now(self) -> datetime:
        """Return the time by the app's clock, in the app's time zone; Celery reckons expiries and schedules by it."""
        return datetime.fromtimestamp(self.time_source.time(), UTC).astimezone(self.timezone)


def mentions_models(function: Callable[..., Any]) -> bool:
    """Tell whether an argument or the result of a function is annotated with a pydantic model."""
    try:
        hints = get_type_hints(function)
    except (NameError, AttributeError, TypeError):
        return False
    return any(_is_model(part) for hint in hints.values() for part in (hint, *get_args(hint)))


def _is_model(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, BaseModel)


def _sooner(expires: datetime | str | float | None, deadline: float, now: datetime) -> datetime:
    """Return when a message expires: as it was asked to, but not after its deadline."""
    end = datetime.fromtimestamp(deadline, UTC)
    if expires is None:
        return end
    if isinstance(expires, int | float):
        return min(end, now + timedelta(seconds=expires))
    when = datetime.fromisoformat(expires) if isinstance(expires, str) else expires
    return min(end, when if when.tzinfo else when.replace(tzinfo=UTC))


def create_app(
    settings: Settings | None = None, *, main: str = "liap_tasks", clock: Clock | None = None, **options: Any
) -> LiapApp:
    """Return a Celery app configured by ``settings`` (default: the environment, read when it is first needed).

    main: the app's name, the prefix of automatic task names. clock: by which it goes, the machine's unless given (an
    in-process broker has its own, see :func:`transports.reset_broker`). options: passed to ``celery.Celery``
    (``include`` and so on). A wrong value in the environment raises ConfigurationError from the first use of the app's
    configuration.
    """
    return LiapApp(main, settings=settings, clock=clock, **options)
