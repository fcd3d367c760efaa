"""The baseline of the benchmarks of turns: an app that passes requests to PROVIDER_URL and the answers' bytes back."""

import os

import aiohttp
from starlette.types import ASGIApp, Receive, Scope, Send


def create() -> ASGIApp:
    """The relay's app."""
    http: aiohttp.ClientSession | None = None

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal http
        if scope["type"] == "lifespan":
            await receive()
            http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await http.close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        assert http is not None
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        async with http.post(os.environ["PROVIDER_URL"] + scope["path"], data=body) as answer:
            headers = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            async for chunk in answer.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app
