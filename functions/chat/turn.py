"""One chat turn, from top to bottom: admit, ask the model, stream, settle.

The turn runs in a task of its own and speaks into a Feed; whoever asked only listens. However it ends, its hold ends
with it: settled when the model finished its answer, released when anything failed. A hold that even this cannot end
(the process died, the database is gone) expires, and its funding goes back.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from functions.chat import limits
from functions.chat.feed import Feed
from functions.chat.providers import Event, Finished, FinishReason, Opened, Prompt, Providers, Text, Usage
from functions.chat.providers.prices import cost_usd
from functions.chat.request import ChatRequest
from functions.chat.system_prompt import system_prompt
from functions.chat.wire import MessageStream
from functions.common.database import Database
from functions.common.errors import (
    AlreadyAnswered,
    AppError,
    ByokKeyRejected,
    Internal,
    OverageLimitReached,
    PaymentRequired,
    ProviderError,
    ProviderTimeout,
    QuotaExhausted,
    RequestInProgress,
    Unavailable,
)
from functions.common.ids import time_ordered_id
from functions.common.observe import Observer
from functions.common.vault import CannotOpen, PlainKey, Vault, unpack


class Chat:
    """Runs turns. Holds what they share and keeps their tasks alive."""

    def __init__(self, database: Database, providers: Providers, vault: Vault, observer: Observer) -> None:
        self.database = database
        self.providers = providers
        self.vault = vault
        self.observer = observer
        self._running: set[asyncio.Task[None]] = set()

    def start(self, user_id: str, request: ChatRequest, request_id: str) -> Feed:
        """Begin to answer. The feed opens, or fails, once it is known whether there will be an answer."""
        turn = Turn(self, user_id, request, request_id)
        task = asyncio.create_task(turn.run())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        # Its failure has been told; asyncio would tell what it says, too.
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return turn.feed

    async def close(self) -> None:
        """Let running turns end by themselves for a moment, then end them: not charged."""
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=limits.SHUTDOWN_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self.providers.close()
        await self.database.close()


@dataclass(slots=True)
class Turn:
    """One question and its answer."""

    chat: Chat
    user_id: str
    request: ChatRequest
    request_id: str
    feed: Feed = field(default_factory=Feed)
    hold_id: str = field(default_factory=time_ordered_id)
    answer_id: str = field(default_factory=time_ordered_id)
    admission: dict[str, Any] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    cost_usd: Decimal | None = None
    texts: list[str] = field(default_factory=list)

    async def run(self) -> None:
        """The whole story. What goes wrong is told in the feed."""
        try:
            self.admission = await self._admit()
            if self.admission["decision"] == "ended":
                self._repeat()
            else:
                await self._answer()
        except AppError as error:
            self.feed.fail(error)
        except BaseException as error:
            self.chat.observer.failure("turn failed", error, request_id=self.request_id)
            self.feed.fail(Internal())
            if not isinstance(error, Exception):
                raise

    async def _admit(self) -> dict[str, Any]:
        """Take the funding, or raise the refusal."""
        admission: dict[str, Any] = await self.chat.database.call(
            "admit_query",
            {
                "p_user_id": self.user_id,
                "p_request_id": self.request.request_id,
                "p_hold_id": self.hold_id,
                "p_chat_id": self.request.id,
                "p_question_id": self.request.question.id,
                "p_provider": self.request.provider,
                "p_model": self.request.model,
                "p_hold_seconds": limits.HOLD_S,
                "p_history_messages": limits.HISTORY_MESSAGES,
            },
            within=limits.ADMIT_S,
            repeatable=True,
        )
        match admission["decision"]:
            case "refused":
                raise refusal(admission, datetime.now(UTC))
            case "in_progress":
                raise RequestInProgress
            case "ended" if admission["answer"] is None:
                raise AlreadyAnswered
        return admission

    async def _answer(self) -> None:
        """Ask the model and say what it says; then settle, or release if it did not finish."""
        stream = MessageStream(self.answer_id)
        try:
            reason = await self._stream(stream)
        except BaseException as error:
            failure = error if isinstance(error, AppError) else Internal()
            await self._end("release_query", "failed", {})
            if self.feed.is_open:
                metadata = self._metadata(charged=Decimal(0), persisted=False)
                self.feed.write(stream.error(failure.sentence, metadata))
            raise
        text = "".join(self.texts)
        settled = await self._end("settle_query", "answered", {"p_turn": self._keepsake(text)})
        # A settlement that did not get through is not known to be charged, and most likely never will be.
        metadata = self._metadata(charged=settled.get("charged_usd"), persisted=settled.get("persisted", False))
        self.feed.write(stream.finish(reason, metadata))
        self.feed.close(message(self.answer_id, text, metadata))

    async def _stream(self, stream: MessageStream) -> FinishReason:
        """Say what the model says, to its end. Raises what the provider did wrong."""
        own_key = await self._own_key()
        reason: FinishReason | None = None
        try:
            async with asyncio.timeout(limits.TURN_S), aclosing(await self._ask(own_key)) as events:
                async for event in events:
                    match event:
                        case Opened():
                            self.feed.write(stream.start())
                        case Text(delta):
                            self.texts.append(delta)
                            self.feed.write(stream.text(delta))
                        case Usage():
                            self.usage = event
                        case Finished():
                            reason = event.reason
        except TimeoutError as error:
            raise ProviderTimeout from error
        except ByokKeyRejected as error:
            await self._reject_own_key(error)
            raise
        if reason is None or not any(self.texts):
            raise ProviderError  # nobody is charged for an answer without a word
        return reason

    async def _own_key(self) -> PlainKey | None:
        """The user's own key where it pays: never the platform's account instead. Raises ByokKeyRejected."""
        if self.admission["funding"] != "byok":
            return None
        provider = self.admission["provider"]
        try:
            sealed = unpack(self.admission["key"])
            return await self.chat.vault.open(sealed, self.user_id, provider)
        except CannotOpen as error:
            self.chat.observer.failure("own key not opened", error, **self._identity(), provider=provider)
            raise ByokKeyRejected("Your own key can no longer be read. Store it again, or delete it.") from None

    async def _reject_own_key(self, error: ByokKeyRejected) -> None:
        """Note that the provider does not accept the key, so that the next query does not try it."""
        key = self.admission["key"]
        params = {"p_id": key["id"], "p_user_id": self.user_id, "p_is_valid": False, "p_error": error.sentence}
        try:
            await self.chat.database.call("note_api_key", params, repeatable=True)
        except AppError as failure:
            self.chat.observer.failure("rejected key not noted", failure, **self._identity())

    async def _ask(self, own_key: PlainKey | None) -> AsyncGenerator[Event, None]:
        provider = await self.chat.providers.get(self.admission["provider"])
        return provider.stream(
            Prompt(
                model=self.admission["model"],
                system=system_prompt(self.request.language, datetime.now(UTC)),
                messages=[*self._history(), ("user", self.request.question.text)],
                max_output_tokens=limits.OUTPUT_TOKENS,
            ),
            own_key,
        )

    def _history(self) -> list[tuple[str, str]]:
        """The newest messages that fit: from storage where the plan keeps them, else what the client remembers."""
        if self.admission["keeps_history"]:
            earlier = [(message["role"], message["content"]) for message in self.admission["history"]]
        else:
            earlier = [(message.role, message.text) for message in self.request.messages[:-1] if message.text.strip()]
        kept: list[tuple[str, str]] = []
        room = limits.HISTORY_CHARACTERS
        for role, text in reversed(earlier[-limits.HISTORY_MESSAGES :]):
            room -= len(text)
            if room < 0:
                break
            kept.append((role, text))
        # A conversation that is cut is cut before a question.
        while kept and kept[-1][0] != "user":
            kept.pop()
        return kept[::-1]

    def _repeat(self) -> None:
        """The request was answered and charged before: say the kept answer again."""
        kept = self.admission["answer"]
        stream = MessageStream(kept["id"])
        self.usage = Usage(**{name: self.admission[name] for name in asdict(Usage())})
        self.cost_usd = self.admission["cost_usd"]
        metadata = self._metadata(charged=self.admission["charged_usd"], persisted=True)
        self.feed.write(stream.start() + stream.text(kept["content"]) + stream.finish("stop", metadata))
        self.feed.close(message(kept["id"], kept["content"], metadata))

    async def _end(self, function: str, outcome: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """End the hold. What cannot be ended is logged, and expires. Not interrupted when the turn is cancelled."""
        return await asyncio.shield(asyncio.create_task(self._end_hold(function, outcome, params)))

    async def _end_hold(self, function: str, outcome: str, params: Mapping[str, Any]) -> dict[str, Any]:
        observer = self.chat.observer
        identity = self._identity()
        # In a thread, because the price list takes a moment to load.
        self.cost_usd = await asyncio.to_thread(
            cost_usd, self.admission["provider"], self.admission["model"], self.usage
        )
        usage = {
            "provider": self.admission["provider"],
            "model": self.admission["model"],
            **asdict(self.usage),
            "cost_usd": None if self.cost_usd is None else str(self.cost_usd),
        }
        call = {"p_hold_id": self.hold_id, "p_outcome": outcome, "p_usage": usage}
        ended: dict[str, Any] = {}
        try:
            try:
                ended = await self._call(function, {**call, **params})
            except Exception as error:
                if not params or isinstance(error, Unavailable):
                    raise
                # What was said cannot be stored, whatever the reason. It is charged all the same, and not kept.
                observer.failure("turn not kept", error, **identity, function=function)
                ended = await self._call(function, call)
        except AppError as error:
            observer.failure("hold left to expire", error, **identity, function=function)
            observer.count(HoldsLeftToExpire=1)
        observer.info(
            "query",
            **identity,
            **usage,
            tier=self.admission["tier"],
            funding=self.admission["funding"],
            outcome=ended.get("outcome"),
            charged_usd=str(ended.get("charged_usd")),
        )
        return ended

    def _identity(self) -> dict[str, str]:
        """What a log line names a turn by."""
        return {"request_id": self.request_id, "hold_id": self.hold_id, "user_id": self.user_id}

    async def _call(self, function: str, params: Mapping[str, Any]) -> dict[str, Any]:
        ended: dict[str, Any] = await self.chat.database.call(function, params, within=limits.SETTLE_S, repeatable=True)
        return ended

    def _keepsake(self, text: str) -> dict[str, Any] | None:
        """What is stored of the turn: nothing at all where the plan keeps no history."""
        if not self.admission["keeps_history"]:
            return None
        request = self.request
        return {
            "chat_id": request.id,
            "title": request.title,
            "context": request.context.model_dump(),
            "question": {"id": request.question.id, "content": request.question.text},
            "answer": {"id": self.answer_id, "content": text.replace("\x00", "")},
        }

    def _metadata(self, *, charged: Decimal | None, persisted: bool) -> dict[str, Any]:
        """What the client is told about the turn at its end."""
        return {
            "request_id": self.request_id,
            "provider": self.admission["provider"],
            "model": self.admission["model"],
            "funding": self.admission["funding"],
            "usage": {
                "input_tokens": self.usage.tokens_input,
                "output_tokens": self.usage.tokens_output,
                "cache_read_tokens": self.usage.cache_read_tokens,
                "cache_write_tokens": self.usage.cache_write_tokens,
            },
            "cost_usd": self.cost_usd,
            "charged_usd": charged,
            "remaining": self.admission.get("remaining"),
            "resets_at": self.admission.get("resets_at"),
            "persisted": persisted,
        }


def message(message_id: str, text: str, metadata: dict[str, Any]) -> dict[str, Any]:
    """The answer as POST /chat gives it in JSON: the AI SDK's UIMessage, and the metadata beside it."""
    return {
        "message": {"id": message_id, "role": "assistant", "parts": [{"type": "text", "text": text}]},
        "metadata": metadata,
    }


def refusal(admission: Mapping[str, Any], now: datetime) -> AppError:
    """Why the query is refused, as the error that tells the client what would help."""
    details = {"reason": admission["reason"], "requires_payment": admission["requires_payment"]}
    if admission["requires_payment"]:
        return PaymentRequired(**details)
    resets_at = datetime.fromisoformat(admission["resets_at"])
    kind = OverageLimitReached if admission["reason"] == "Overage limit reached" else QuotaExhausted
    wait = math.ceil((resets_at - now).total_seconds())
    return kind(retry_after=max(1, wait), resets_at=admission["resets_at"], **details)
