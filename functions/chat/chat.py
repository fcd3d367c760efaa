"""The running turns of this process: starting, stopping and resuming them, and ending them at a shutdown."""

import asyncio
from collections.abc import AsyncIterator

from functions.chat import limits, progress
from functions.chat.feed import Feed
from functions.chat.metering import Arrival, Metering, Query
from functions.chat.own_key import OwnKeys
from functions.chat.progress import ProgressWriter
from functions.chat.providers import Providers
from functions.chat.request import ChatRequest
from functions.chat.sources import Parliament
from functions.chat.tools import Tools
from functions.chat.turn import Turn
from functions.common import results
from functions.common.database import Database
from functions.common.errors import AppError
from functions.common.ids import new_request_id
from functions.common.language import Language
from functions.common.observe import Observer
from functions.common.turnstile import Turnstile
from functions.common.vault import Vault


class Chat:
    """Runs turns and keeps references to their tasks."""

    def __init__(
        self, database: Database, providers: Providers, parliament: Parliament, vault: Vault, observer: Observer
    ) -> None:
        self.database = database
        self.providers = providers
        self.parliament = parliament
        self.observer = observer
        self._metering = Metering(database, observer, providers.platform)
        self._own_keys = OwnKeys(database, vault, observer)
        self._progress = ProgressWriter(database, observer)
        self.tools = Tools(parliament, lambda name, error: observer.failure("tool failed", error, tool=name))
        self._turnstile = Turnstile()
        self._running: dict[asyncio.Task[None], Turn] = {}

    def start(
        self,
        user_id: str,
        request: ChatRequest,
        arrival: Arrival | None = None,
        seconds: float = limits.TURN_S,
    ) -> Feed:
        """Start a turn that may take `seconds`. Its feed opens or fails once the provider or a refusal answered.

        `arrival`: by default now, with a new request id. The query gets the id of the request.
        """
        turn: Turn = Turn(
            metering=self._metering,
            providers=self.providers,
            own_keys=self._own_keys,
            tools=self.tools,
            parliament=self.parliament,
            progress=self._progress,
            observer=self.observer,
            turnstile=self._turnstile,
            query=Query(user_id, request, arrival or Arrival(new_request_id())),
            stop_earlier=lambda: self._stop_others(turn),
            ends_at=asyncio.get_running_loop().time() + seconds,
        )
        task = asyncio.create_task(turn.run())
        self._running[task] = turn
        task.add_done_callback(self._running.pop)
        # Already logged. Suppress asyncio's own traceback, which would include the message.
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return turn.feed

    def _stop_others(self, newest: Turn) -> None:
        """Stop the admitted turns of this process in the same chat."""
        for turn in self._turns(newest.query.user_id, newest.query.request.id):
            if turn is not newest and turn.hold:
                turn.stop()

    async def stop(self, user_id: str, chat_id: str) -> bool:
        """Stop the running answers of a user's chat, in any process. Returns whether there was one."""
        turns = self._turns(user_id, chat_id)
        for turn in turns:
            turn.stop()
        if any(turn.hold for turn in turns):
            return True
        # A turn not admitted here may be a duplicate of one running elsewhere.
        params = {"p_user_id": user_id, "p_chat_id": chat_id}
        stopped_elsewhere: bool = await self.database.call("stop_query", params, parse=results.flag)
        return stopped_elsewhere or bool(turns)

    async def resume(
        self, user_id: str, chat_id: str, request_id: str, language: Language = "en"
    ) -> AsyncIterator[bytes] | None:
        """The running answer of a user's chat from its start, in any process; None where there is none.

        Raises TooManyFollowers.
        """
        for turn in reversed(self._turns(user_id, chat_id)):
            try:
                await turn.feed.opened()
            except AppError:
                continue  # The newest turn may be a duplicate that was refused.
            return turn.feed.follow(limits.KEEP_ALIVE_S)
        return await progress.follow(self.database, user_id, chat_id, request_id, language)

    def _turns(self, user_id: str, chat_id: str) -> list[Turn]:
        """The turns of a user's chat that run in this process, oldest first."""
        return [
            turn
            for turn in self._running.values()
            if turn.query.user_id == user_id and turn.query.request.belongs_to(chat_id)
        ]

    def end_by(self, killed_at: float) -> None:
        """Running turns end as before a deadline of Lambda: `killed_at` is the event loop's time of it."""
        for turn in self._running.values():
            turn.end_by(killed_at - limits.DEADLINE_MARGIN_S)

    async def close(self) -> None:
        """Give running turns limits.SHUTDOWN_S to finish, then cancel them: those are not charged."""
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=limits.SHUTDOWN_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._metering.close()
        await self._progress.close()
        await self.providers.close()
        await self.tools.close()
        await self.database.close()
