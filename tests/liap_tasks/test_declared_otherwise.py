"""What a worker says of a queue that was declared with other arguments, by the broker's words for it."""

from __future__ import annotations

import pytest

from liap_tasks.worker.declared_otherwise import advice

DELETE = "delete the queue when it is empty: celery -A APP amqp queue.delete"


def refusal(argument: str, queue: str, difference: str) -> str:
    text = f"inequivalent arg '{argument}' for queue '{queue}' in vhost '/': {difference}"
    return f"Queue.declare: (406) PRECONDITION_FAILED - {text}"


@pytest.mark.parametrize("difference", ["received '5' but current is '9'", "received the value '5' of type 'long' but"])
def test_the_line_names_queue_argument_setting_and_cure(difference: str) -> None:
    """The words are ours, and RabbitMQ's."""
    told = advice(refusal("x-max-length", "game", difference))

    assert told == (
        f"queue 'game' is there with another x-max-length (setting MAX_QUEUE_SIZE): {difference}. "
        f"Either set MAX_QUEUE_SIZE back, or {DELETE} game false true"
    )


def test_an_argument_that_no_setting_decides_is_named_alone() -> None:
    assert advice(refusal("x-expires", "mine", "received '5' but current is none")) == (
        "queue 'mine' is there with another x-expires: received '5' but current is none. "
        f"Either declare it as before, or {DELETE} mine false true"
    )


@pytest.mark.parametrize(
    "text",
    [
        "(406) PRECONDITION_FAILED - queue 'q' in vhost '/' not empty",
        "inequivalent arg 'type' for exchange 'x' in vhost '/': received 'fanout' but current is 'direct'",
    ],
)
def test_of_another_refusal_there_is_nothing_to_say(text: str) -> None:
    assert advice(text) is None
