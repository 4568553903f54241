"""What the fixtures give, and that they give everything back."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kombu import pools

from liap_tasks import EmbeddedWorker, EventExchange, LiapApp, RetryPolicy, create_app, load_settings
from liap_tasks.statistics import queue_statistics
from liap_tasks.testing import DeadLetters, PublishedEvents, WorkerClock, isolated, wait_until_at_rest
from transports import InvalidArgumentError, SystemClock, get_broker

NEVER = RetryPolicy(max_retries=0)


@pytest.fixture
def program() -> Iterator[LiapApp]:
    """The app of a program: on a broker of its own, with a bound that the test may change."""
    app = create_app(load_settings(message_queue_url="liap-priority:///program", max_queue_size=7), main="program")
    app.conf.task_default_priority = 3
    yield app
    app.close()


@pytest.fixture
def fails(liap_app: LiapApp) -> Any:
    @liap_app.task(name="tests.fails", shared=False, retry_policy=NEVER)
    def fails(what: str) -> None:
        raise ValueError(what)

    return fails


# -- isolation -------------------------------------------------------------------------------------------------


def test_an_isolated_app_meets_nobody_and_gets_everything_back(program: LiapApp) -> None:
    program.send_task("tests.before")
    events = EventExchange(program, "program_events")
    events.subscribe("#", "tests.subscriber")
    events.publish("game.started", {})
    with isolated(program, clock=WorkerClock(start=1000.0), max_queue_size=2) as app:
        assert app is program
        url = app.conf.broker_url
        assert url.startswith("liap-priority:///")
        assert (app.time_source.time(), app.conf.task_default_priority) == (1000.0, 3)
        app.send_task("tests.inside", expires=60)
        events.publish("game.started", {})
        queues = get_broker(url).engine.queues
        assert [queues[name].arguments.max_length for name in ("liap_tasks", "tests.subscriber")] == [2, 2]
        assert queue_statistics(app)["liap_tasks"]["ready"] == 1
    assert program.conf.broker_url == "liap-priority:///program"
    assert isinstance(program.time_source, SystemClock)
    program.send_task("tests.after")
    events.publish("game.ended", {})
    assert queue_statistics(program)["liap_tasks"]["ready"] == 2
    assert queue_statistics(program)["tests.subscriber"]["ready"] == 2
    assert get_broker(program.conf.broker_url).engine.queues["liap_tasks"].arguments.max_length == 7


@pytest.mark.parametrize("says", ["one", "another"])
def test_tests_may_use_the_same_name_for_their_tasks(liap_app: LiapApp, liap_worker: EmbeddedWorker, says: str) -> None:
    @liap_app.task(name="tests.job", ignore_result=False)
    def job() -> str:
        return says

    assert job.delay().get(timeout=60) == says


def test_no_other_app_gets_the_task_of_a_test(program: LiapApp) -> None:
    with isolated(create_app(main="tests", set_as_current=False)) as app:

        @app.task(name="tests.of_one_test")
        def of_one_test() -> None: ...

    assert "tests.of_one_test" in app.tasks
    assert "tests.of_one_test" not in program.tasks


def test_an_isolated_app_leaves_no_broker_and_no_pool_behind(program: LiapApp) -> None:
    known = len(pools.connections) + len(pools.producers)
    gone = threading.Event()

    @program.task(name="tests.done", shared=False, ignore_result=False)
    def done() -> None: ...

    with isolated(program) as app, EmbeddedWorker(app):
        done.delay().get(timeout=60)
        weakref.finalize(get_broker(app.conf.broker_url).engine, gone.set)
    assert len(pools.connections) + len(pools.producers) == known
    for _ in range(10):  # the threads that have it are ending
        gc.collect()
        if gone.wait(0.05):
            break
    assert gone.is_set()


def test_an_app_of_rabbitmq_is_isolated_from_it() -> None:
    settings = load_settings(message_queue_url="amqp://nobody:none@127.0.0.1:1//", max_concurrent_handlers=3)
    program = create_app(settings, main="program", set_as_current=False)
    with isolated(program) as app, EmbeddedWorker(app) as worker:
        assert app.conf.broker_url.startswith("liap-memory:///")
        assert "x-max-priority" not in app.amqp.queues["liap_tasks"].queue_arguments
        assert worker.running
        assert app.conf.worker_concurrency == 3
    assert program.conf.broker_url == settings.broker_url
    assert program.conf.worker_pool == "prefork"
    program.close()


def test_an_app_is_not_isolated_from_its_running_worker(liap_app: LiapApp, liap_worker: EmbeddedWorker) -> None:
    with pytest.raises(RuntimeError, match=liap_worker.hostname), isolated(liap_app):
        pass


def test_two_apps_can_share_a_clock(liap_app: LiapApp, virtual_clock: WorkerClock, program: LiapApp) -> None:
    ran: list[tuple[str, float]] = []
    with isolated(program, clock=virtual_clock):
        for name, app in (("ours", liap_app), ("theirs", program)):

            @app.task(name="tests.mark", shared=False)
            def mark(which: str) -> None:
                ran.append((which, virtual_clock.now()))

            mark.apply_async((name,), countdown=10 if app is program else 20)
        with EmbeddedWorker(liap_app), EmbeddedWorker(program):
            virtual_clock.advance(30)
    assert ran == [("theirs", 10), ("ours", 20)]


def test_the_clock_waits_only_where_it_can_see_the_broker(new_app: Callable[..., LiapApp]) -> None:
    with pytest.raises(InvalidArgumentError, match="a broker in this process"):
        wait_until_at_rest(new_app(message_queue_url="amqp://guest@127.0.0.1:1//"))


# -- fixtures --------------------------------------------------------------------------------------------------


def test_a_task_added_while_the_worker_runs_is_taken_up(liap_app: LiapApp, liap_worker: EmbeddedWorker) -> None:
    @liap_app.task(name="tests.late", shared=False, ignore_result=False)
    def late() -> str:
        return "here"

    assert late.delay().get(timeout=60) == "here"


@pytest.mark.parametrize("liap_worker_options", [{"pool": "asyncio", "name": "mine@here"}])
def test_the_worker_is_what_its_options_say(liap_worker: EmbeddedWorker) -> None:
    assert (liap_worker.pool, liap_worker.hostname) == ("asyncio", "mine@here")


@pytest.mark.parametrize("liap_settings", [{"message_queue_type": "priority", "dlq_store_url": "none"}])
def test_dead_letters_are_seen_in_their_queue_too(eager_app: LiapApp, fails: Any, dead_letters: DeadLetters) -> None:
    assert eager_app.conf.broker_url.startswith("liap-priority:")
    assert fails.delay("x").state == "FAILURE"
    [letter] = dead_letters
    assert (letter.task, letter.exception, letter.queue) == ("tests.fails", "ValueError", "liap_tasks")


def test_dead_letters_are_chosen_waited_for_and_shown(
    liap_app: LiapApp, liap_worker: EmbeddedWorker, fails: Any, dead_letters: DeadLetters
) -> None:
    assert not dead_letters
    assert repr(dead_letters) == "no dead letters"
    fails.delay("first")
    first = dead_letters.wait(task="tests.fails", reason="retries_exhausted")
    fails.delay("second")
    liap_app.send_task("tests.nobody")
    assert dead_letters.wait(reason="no_handler").task == "tests.nobody"
    wait_until_at_rest(liap_app)
    assert dead_letters[0] == first
    assert [dead_letters.call_of(letter).args for letter in dead_letters.of(task="tests.fails")] == [
        ["first"],
        ["second"],
    ]
    assert "retries_exhausted: tests.fails from liap_tasks (ValueError: first)" in repr(dead_letters)
    with pytest.raises(AssertionError, match=r"(?s)task tests.other, reason None.*no_handler: tests.nobody"):
        dead_letters.wait(task="tests.other", timeout=0.01)


def test_events_are_noted_in_order_whoever_publishes_them(
    liap_app: LiapApp, liap_worker: EmbeddedWorker, published_events: PublishedEvents
) -> None:
    events = EventExchange(liap_app, "tests.events")
    elsewhere = EventExchange(create_app(set_as_current=False), "tests.events")
    elsewhere.app.conf.task_always_eager = True

    @liap_app.task(name="tests.answer", shared=False)
    def answer(event: dict[str, Any]) -> None:
        events.publish("player.answered", {"room": event["room"]})

    events.subscribe("game.*", "tests.answer")
    identity = events.publish("game.started", {"room": "r1"}, headers={"room": "r1"}, ordering_key="r1")
    elsewhere.publish("game.started", {"room": "not ours"})
    [answered] = published_events.wait("player.#")
    assert answered.body == {"room": "r1"}
    [started] = published_events.of("game.*")
    assert (started.event_id, started.exchange, started.headers, started.ordering_key) == (
        identity,
        "tests.events",
        {"room": "r1"},
        "r1",
    )
    assert published_events.routing_keys == ["game.started", "player.answered"]
    with pytest.raises(AssertionError, match=r"(?s)2 events 'game.\*' did not come.*player.answered"):
        published_events.wait("game.*", count=2, timeout=0.01)
    published_events.clear()
    assert len(published_events) == 0


def test_a_task_that_is_acknowledged_early_is_waited_for_too(
    liap_app: LiapApp, liap_worker: EmbeddedWorker, virtual_clock: WorkerClock
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @liap_app.task(name="tests.early", shared=False, acks_late=False)
    def early() -> None:
        begun.set()
        go_on.wait(60)
        ended.append(1)

    ended: list[int] = []
    early.delay()
    assert begun.wait(60)
    virtual_clock.patience = 0.02
    with pytest.raises(AssertionError, match=r"task tests.early is running"):
        virtual_clock.settle()
    virtual_clock.patience = 60
    threading.Timer(0.02, go_on.set).start()
    virtual_clock.settle()
    assert ended == [1]


def test_a_clock_that_comes_too_late_says_so(liap_app: LiapApp, request: pytest.FixtureRequest) -> None:
    with pytest.raises(pytest.UsageError, match="must be an argument"):
        request.getfixturevalue("virtual_clock")
