"""The transport without Celery: a bounded queue that refuses, and a delay that the broker holds."""

from typing import Any

from kombu import Connection, Exchange, Queue

import transports
from transports import QueueFullError, VirtualClock

if __name__ == "__main__":
    clock = VirtualClock()
    transports.reset_broker("liap-memory:///example", clock=clock)
    with Connection("liap-memory:///example") as connection:
        channel: Any = connection.channel()
        exchange = Exchange("moves", type="topic")
        two = Queue(
            "two", exchange, routing_key="game.*", max_length=2, queue_arguments={"x-overflow": "reject-publish"}
        )
        two.bind(channel).declare()
        producer = connection.Producer(channel, exchange=exchange)
        producer.publish({"move": 1}, routing_key="game.started")
        producer.publish({"move": 2}, routing_key="game.ended", headers={"x-delay": 60_000})
        try:
            producer.publish({"move": 3}, routing_key="game.ended")
        except QueueFullError as full:
            print("refused:", full)
        clock.advance(60)
        print("ready after a minute:", [message.payload for message in channel.peek("two")])
