"""kombu transports with the full semantics of a broker, for Celery and for plain kombu.

Importing this package registers the URL schemes ``liap-memory`` and ``liap-priority`` (a broker in this process),
``liap-broker`` and ``liap-broker-priority`` (one in a process of its own, for all of the machine). The
capability table in ``README.md`` says what each transport honours.
"""

from kombu.transport import TRANSPORT_ALIASES

from transports.brokers import discard_broker, get_broker, reset_broker
from transports.capabilities import CAPABILITIES, Capabilities, Support
from transports.engine import Clock, SystemClock, VirtualClock
from transports.errors import BrokerUnavailableError, InvalidArgumentError, QueueFullError, TransportError

__all__ = [
    # brokers
    "discard_broker",
    "get_broker",
    "reset_broker",
    # capabilities
    "CAPABILITIES",
    "Capabilities",
    "Support",
    # time
    "Clock",
    "SystemClock",
    "VirtualClock",
    # errors
    "BrokerUnavailableError",
    "InvalidArgumentError",
    "QueueFullError",
    "TransportError",
]

# A new transport is one row here, its module, and its column in capabilities.py.
TRANSPORT_ALIASES["liap-memory"] = "transports.in_process:MemoryTransport"
TRANSPORT_ALIASES["liap-priority"] = "transports.in_process:PriorityTransport"
TRANSPORT_ALIASES["liap-broker"] = "transports.served:ServedTransport"
TRANSPORT_ALIASES["liap-broker-priority"] = "transports.served:PriorityTransport"
