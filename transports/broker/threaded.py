"""A served broker in a thread of this process.

For tests, which move its clock, and for programs that want to be their own broker for other processes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, TypeVar

from transports.broker.listening import UnixListener, listen_on_tcp
from transports.broker.server import BrokerServer
from transports.engine import VirtualClock
from transports.wire.address import TcpAddress, UnixAddress

__all__ = ["BrokerThread"]

Result = TypeVar("Result")
PATIENCE = 10.0


class BrokerThread:
    """A broker that serves a Unix socket, and TCP if asked, from a thread; a context manager."""

    def __init__(self, path: str, *, tcp: TcpAddress | None = None, token: str = "", **options: Any) -> None:
        """options: those of BrokerServer. With a VirtualClock, advancing it is enough for timers to fire.

        A journal is closed by whoever opened it; when it can be written no more, the broker says so and ends.
        """
        self.address = UnixAddress(path)
        self.tcp = tcp
        self._token = token
        self._options = options
        self._ready = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"liap-broker {path}", daemon=True)

    def start(self) -> BrokerThread:
        """Serve; return when clients can connect, raise what kept it from serving."""
        self._thread.start()
        self._ready.wait()
        if self._failed is not None:
            self._thread.join()
            raise self._failed
        return self

    def stop(self) -> None:
        """Say goodbye to the clients and end the thread."""
        if self._thread.is_alive():
            with suppress(RuntimeError):  # it ends by itself meanwhile
                self._loop.call_soon_threadsafe(self._end, "the broker stops")
            self._thread.join()

    def _end(self, reason: str) -> None:
        if not self._ended.done():
            self._ended.set_result(reason)

    __enter__ = start

    def __exit__(self, *_: object) -> None:
        self.stop()

    def call(self, function: Callable[[BrokerServer], Result]) -> Result:
        """Run a function on the broker's own thread, and return what it returns."""

        async def run() -> Result:
            return function(self._server)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(PATIENCE)

    def settle(self) -> None:
        """Return when what clients had sent before has been worked on, and what came of it is on its way to them."""
        for _ in range(2):  # one turn of the loop reads what had arrived when the other began
            self.call(lambda server: None)

    # -- what a VirtualClock asks ------------------------------------------------------------------------------

    def next_due(self) -> float | None:
        """Return when the broker has something to do next (clock reading), or None."""
        return self.call(BrokerServer.next_due)

    def run_due(self) -> None:
        """Let the broker do what is due."""
        self.call(BrokerServer.run_due)

    # -- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._ready.is_set():
                raise
            self._failed = error
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[str] = self._loop.create_future()
        with ExitStack() as held:
            unix = UnixListener(self.address)
            held.callback(unix.release)
            self._options.setdefault("on_failure", lambda error: self._end(f"its journal failed: {error}"))
            self._server = server = BrokerServer(self._loop, **self._options)
            listeners = held.enter_context(ExitStack())
            await unix.listen(server, self._end)
            listeners.callback(unix.close)
            if self.tcp is not None:
                on_tcp = await listen_on_tcp(server, self.tcp, self._token)
                listeners.callback(on_tcp.close)
                host, port = on_tcp.sockets[0].getsockname()[:2]
                self.tcp = TcpAddress(host, port)
            if isinstance(server.clock, VirtualClock):
                server.clock.attach(self)
            self._ready.set()
            reason = await self._ended
            listeners.close()
            await server.close(reason)
