"""The streamed response of the chat."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from functions.chat import wire
from functions.common.errors import TooLarge


class EventStream(Response):
    """Server-sent events. Ends its iterator when the client disconnects.

    Starlette's StreamingResponse does the same with a task group, which adds 0.3 ms to the first event.
    """

    def __init__(self, events: AsyncIterator[bytes]) -> None:
        self._events = events
        self.status_code = 200
        self.background = None
        self.init_headers(wire.HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events as they come."""
        sender = asyncio.current_task()
        assert sender is not None
        is_connected = True

        async def cancel_at_disconnect() -> None:
            nonlocal is_connected
            with suppress(TooLarge):  # a body that this route does not read
                while (await receive())["type"] != "http.disconnect":
                    pass
            is_connected = False
            sender.cancel()

        watcher = asyncio.create_task(cancel_at_disconnect())
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for event in self._events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except asyncio.CancelledError:
            if is_connected or sender.uncancel():
                raise
        except Exception:
            # Its status was 200, so that no metric of AWS has it.
            scope["app"].state.observer.count(AnswersFailed=1)
            raise
        finally:
            watcher.cancel()
