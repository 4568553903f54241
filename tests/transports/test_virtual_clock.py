"""A clock that moves only when told to, and stops at every timer on its way."""

from __future__ import annotations

import gc
import weakref

import pytest

from tests.transports.virtual_broker import VirtualBroker
from transports import SystemClock, VirtualClock


class Host:
    """Fires at given times and remembers what the clock said."""

    def __init__(self, clock: VirtualClock, *due: float) -> None:
        self.clock = clock
        self.waiting = sorted(due)
        self.fired: list[float] = []
        clock.attach(self)

    def next_due(self) -> float | None:
        return self.waiting[0] if self.waiting else None

    def run_due(self) -> None:
        while self.waiting and self.waiting[0] <= self.clock.now():
            self.waiting.pop(0)
            self.fired.append(self.clock.now())


def test_it_starts_at_zero_and_moves_only_when_told_to() -> None:
    clock = VirtualClock(start=1000.0)

    assert (clock.now(), clock.time()) == (0.0, 1000.0)
    clock.advance(1.5)
    clock.advance(0)
    assert (clock.now(), clock.time()) == (1.5, 1001.5)


def test_it_never_goes_back() -> None:
    with pytest.raises(ValueError, match="never goes back"):
        VirtualClock().advance(-0.1)


def test_every_timer_fires_at_its_own_time_in_order() -> None:
    clock = VirtualClock()
    first, second = Host(clock, 1.0, 5.0, 10.5), Host(clock, 3.0, 10.0)

    clock.advance(10)

    assert (first.fired, second.fired) == ([1.0, 5.0], [3.0, 10.0])
    assert clock.now() == 10.0
    clock.advance(0.5)
    assert first.fired == [1.0, 5.0, 10.5]


@pytest.mark.parametrize("steps", [(0.7, 0.1), (0.5, 0.3), (0.1,) * 8])
@pytest.mark.parametrize("set_at", [0.0, 1.1, 12_345.6])
def test_a_timer_fires_after_steps_that_add_up_to_its_time(steps: tuple[float, ...], set_at: float) -> None:
    clock = VirtualClock()
    clock.advance(set_at)
    host = Host(clock, set_at + 0.8)

    for step in steps:
        assert not host.fired
        clock.advance(step)

    assert host.fired == [set_at + 0.8]


def test_what_a_timer_starts_fires_within_the_same_step() -> None:
    broker = VirtualBroker()
    broker.declare("first", message_ttl=10_000, dead_letter_exchange="", dead_letter_routing_key="second")
    broker.declare("second", message_ttl=20_000, dead_letter_exchange="", dead_letter_routing_key="last")
    broker.declare("last")
    broker.publish("first", b"letter")

    broker.clock.advance(60)

    [letter] = broker.letters("last")
    died = {death["queue"]: death["time"].timestamp() for death in (letter.headers or {})["x-death"]}
    assert died["second"] - died["first"] == 20


def test_a_host_is_held_weakly() -> None:
    clock = VirtualClock()
    host = weakref.ref(Host(clock, 1.0))
    gc.collect()

    assert host() is None
    clock.advance(2)


def test_the_system_clock_does_not_go_back() -> None:
    clock = SystemClock()
    readings = [clock.now() for _ in range(100)]

    assert readings == sorted(readings)
    assert clock.time() > 1_700_000_000


def test_a_call_is_made_at_its_time_by_who_advances_the_clock() -> None:
    clock = VirtualClock()
    made: list[tuple[str, float]] = []
    clock.call_after(5, lambda name: made.append((name, clock.now())), ("later",))
    clock.call_after(2, lambda: clock.call_after(1, made.append, (("nested", 3.0),)))
    cancelled = clock.call_after(4, made.append, (("never", 4.0),))
    cancelled.cancel()

    clock.advance(4.9)
    assert made == [("nested", 3.0)]
    clock.advance(0.1)
    assert made == [("nested", 3.0), ("later", 5.0)]
    cancelled.cancel()


def test_before_each_step_one_can_wait_for_what_the_last_has_started() -> None:
    clock = VirtualClock()
    started: list[float] = []
    clock.call_after(1, lambda: started.append(clock.now()))

    def finish() -> None:
        if started == [1.0]:  # what was started sets another timer
            started.append(0.0)
            clock.call_after(2, lambda: started.append(clock.now()))

    clock.advance(10, before_each=finish)
    assert started == [1.0, 0.0, 3.0]


def test_a_detached_host_fires_no_more() -> None:
    clock = VirtualClock()
    host = Host(clock, 1.0, 2.0)
    clock.advance(1)
    clock.detach(host)
    clock.advance(5)
    assert host.fired == [1.0]
