"""The kombu transports of a served broker: ``liap-broker://`` and ``liap-broker-priority://``."""

from transports.served.transport import PriorityTransport, ServedTransport

__all__ = ["PriorityTransport", "ServedTransport"]
