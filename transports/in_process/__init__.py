"""kombu over a broker in this process. See transport.py for the URLs."""

from transports.in_process.transport import MemoryTransport, PriorityTransport

__all__ = ["MemoryTransport", "PriorityTransport"]
