"""Requests over pools of aiohttp connections, for functions that serve many users at once or import aiohttp anyway."""

from collections.abc import Mapping

import aiohttp

from functions.common.transport import CONNECT_TIMEOUT_S, KEEP_ALIVE_S, NoResponseError

CONNECTIONS = 32
BACKGROUND_CONNECTIONS = 4


class AiohttpTransport:
    """A pool for requests that a user waits for, and one for the others."""

    def __init__(self) -> None:
        self._sessions: dict[bool, aiohttp.ClientSession] = {}  # by `background`

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, timeout_s: float, background: bool
    ) -> tuple[int, bytes]:
        """See Transport."""
        session = self._sessions.get(background)
        if session is None:  # created here, because it needs the running event loop
            session = self._sessions[background] = _session(BACKGROUND_CONNECTIONS if background else CONNECTIONS)
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        try:
            async with session.post(
                url, data=body, headers=headers, allow_redirects=False, timeout=timeout
            ) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NoResponseError(type(error).__name__) from error

    async def close(self) -> None:
        """Close the connections."""
        for session in self._sessions.values():
            await session.close()


def _session(connections: int) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, keepalive_timeout=KEEP_ALIVE_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("accept", "user-agent"),
    )
