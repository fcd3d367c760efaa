"""A TCP relay before a server, whose connections a test can break as networks and load balancers do."""

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class Connection:
    """One relayed connection. `is_stale`: it breaks when the client uses it next."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    is_stale: bool = False
    drops_response: bool = False

    def reset(self) -> None:
        """Break both sides without a regular end."""
        for writer in (self.client, self.server):
            peer = writer.get_extra_info("socket")
            with suppress(OSError):
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


@dataclass(eq=False, slots=True)
class Relay:
    """Forwards connections to a port. `lose_responses_to`: what is in the requests whose responses are lost."""

    port: int
    loop: asyncio.AbstractEventLoop
    url: str = ""
    lose_responses_to: bytes = b""
    _connections: set[Connection] = field(default_factory=set)
    _server: asyncio.Server = field(init=False)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    async def open(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Stop listening and break all connections."""
        self._server.close()
        await self._break_connections(when_used=False)
        await asyncio.gather(*self._tasks)

    def break_connections(self, *, when_used: bool = False) -> int:
        """Break each open connection, now or when the client uses it next. Returns how many there are."""
        return asyncio.run_coroutine_threadsafe(self._break_connections(when_used), self.loop).result()

    async def _break_connections(self, when_used: bool) -> int:
        connections = list(self._connections)
        for connection in connections:
            if when_used:
                connection.is_stale = True
            else:
                connection.reset()
        return len(connections)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            writer.transport.abort()
            return
        connection = Connection(writer, to_server)
        self._connections.add(connection)
        try:
            await asyncio.gather(self._requests(reader, connection), self._responses(from_server, connection))
        except OSError:
            pass
        finally:
            connection.reset()
            self._connections.discard(connection)

    async def _requests(self, reader: asyncio.StreamReader, connection: Connection) -> None:
        while data := await reader.read(65536):
            if connection.is_stale:
                raise ConnectionResetError
            connection.drops_response = bool(self.lose_responses_to) and self.lose_responses_to in data
            connection.server.write(data)
        raise ConnectionResetError

    async def _responses(self, reader: asyncio.StreamReader, connection: Connection) -> None:
        while data := await reader.read(65536):
            if connection.drops_response:
                raise ConnectionResetError
            connection.client.write(data)
        raise ConnectionResetError


@contextmanager
def relay_to(port: int) -> Iterator[Relay]:
    """A relay in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    relay = Relay(port, loop)
    try:
        asyncio.run_coroutine_threadsafe(relay.open(), loop).result()
        yield relay
    finally:
        asyncio.run_coroutine_threadsafe(relay.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
