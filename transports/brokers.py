"""Which in-process broker a URL means: one per scheme and virtual host, made when first asked for.

This register is the only state of the in-process transports outside a broker: a URL is text, and two connections with
the same URL must meet. ``liap-memory:///a`` and ``liap-memory:///b`` share nothing, nor do ``liap-memory`` and
``liap-priority``.
"""

from __future__ import annotations

import threading
from typing import Any

from kombu.utils.url import parse_url

from transports.engine import Clock
from transports.errors import InvalidArgumentError
from transports.shared import SharedBroker

__all__ = ["DEFAULT_ARGUMENTS", "discard_broker", "get_broker", "reset_broker", "shared_broker"]

DEFAULT_ARGUMENTS: dict[str, dict[str, Any]] = {
    "liap-memory": {},
    "liap-priority": {"x-max-priority": 9},
}

_brokers: dict[tuple[str, str], SharedBroker] = {}
_lock = threading.Lock()


def shared_broker(scheme: str, vhost: str) -> SharedBroker:
    """Return the broker of a scheme and virtual host; raises BrokerUnavailableError in a forked child."""
    key = (scheme, vhost)
    broker = _brokers.get(key)
    if broker is None:
        with _lock:
            broker = _brokers.get(key)
            if broker is None:
                broker = _brokers[key] = SharedBroker(vhost, default_arguments=DEFAULT_ARGUMENTS[scheme])
    broker.check_process()
    return broker


def get_broker(url: str) -> SharedBroker:
    """Return the in-process broker that ``url`` means.

    Raises InvalidArgumentError for a URL of another scheme, or with a host.
    """
    return shared_broker(*_scheme_and_vhost(url))


def reset_broker(url: str, *, clock: Clock | None = None) -> SharedBroker:
    """Put a new, empty broker in the place of the one that ``url`` means, and return it.

    For tests: with a :class:`VirtualClock` everything timed happens when the clock is advanced. Connections that are
    open keep the old broker.
    """
    scheme, vhost = _scheme_and_vhost(url)
    with _lock:
        broker = SharedBroker(vhost, clock=clock, default_arguments=DEFAULT_ARGUMENTS[scheme])
        _brokers[scheme, vhost] = broker
    return broker


def discard_broker(url: str) -> None:
    """Forget the broker that ``url`` means, with all that is in it; the next connection makes a new one.

    Connections that are open keep it, but nothing happens in it by itself any more.
    """
    with _lock:
        broker = _brokers.pop(_scheme_and_vhost(url), None)
    if broker is not None:
        broker.retire()


def _scheme_and_vhost(url: str) -> tuple[str, str]:
    parts = parse_url(url)
    scheme = parts["transport"]
    if scheme not in DEFAULT_ARGUMENTS:
        raise InvalidArgumentError("url", url, "a URL of " + ", ".join(f"{name}://" for name in DEFAULT_ARGUMENTS))
    check_host(scheme, parts["hostname"])
    return scheme, parts["virtual_host"] or "/"


def check_host(scheme: str, host: str | None) -> None:
    """Refuse a host name in the URL of a broker that lives in this process."""
    if host and host != "localhost":
        raise InvalidArgumentError("url", f"{scheme}://{host}", f"{scheme}:// or {scheme}:///vhost (it has no host)")
