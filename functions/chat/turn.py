"""One chat turn, from top to bottom: admit, ask the model, run the tools it calls, stream, settle.

The turn runs in a task of its own and speaks into a Feed; whoever asked only listens. However it ends, its hold ends
with it: settled when the model finished its answer or the user stopped it, released when anything failed. A hold that
even this cannot end (the process died, the database is gone) expires, and its funding goes back.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson

from functions.chat import limits, progress, wire
from functions.chat.answer import Answer, Call, Step, fitting, told, weight
from functions.chat.feed import Feed
from functions.chat.progress import Progress
from functions.chat.providers import (
    Event,
    Finished,
    FinishReason,
    Message,
    Opened,
    Prompt,
    Providers,
    Text,
    ToolCall,
    ToolCalling,
    Usage,
    arguments_of,
)
from functions.chat.providers.prices import cost_usd
from functions.chat.request import ChatRequest
from functions.chat.system_prompt import cut_short, situation, system_prompt
from functions.chat.tools import Outcome, Tools
from functions.chat.tools.parliament import Parliament
from functions.common.database import Database
from functions.common.errors import (
    AlreadyAnswered,
    AppError,
    ByokKeyRejected,
    Internal,
    NotFound,
    OverageLimitReached,
    PaymentRequired,
    ProviderDown,
    ProviderError,
    ProviderOverloaded,
    ProviderTimeout,
    QuotaExhausted,
    RequestInProgress,
    Unavailable,
)
from functions.common.ids import time_ordered_id
from functions.common.observe import Observer
from functions.common.turnstile import Turnstile
from functions.common.vault import DecryptionFailed, EncryptedKey, PlainKey, Vault


class Chat:
    """Runs turns. Holds what they share and keeps their tasks alive."""

    def __init__(
        self, database: Database, providers: Providers, parliament: Parliament, vault: Vault, observer: Observer
    ) -> None:
        self.database = database
        self.providers = providers
        self.parliament = parliament
        self.tools = Tools(parliament, lambda name, error: observer.failure("tool failed", error, tool=name))
        self.vault = vault
        self.observer = observer
        self.turnstile = Turnstile()
        self.endings: set[asyncio.Task[dict[str, Any]]] = set()
        self._running: dict[asyncio.Task[None], Turn] = {}

    def start(self, user_id: str, request: ChatRequest, request_id: str, seconds: float = limits.TURN_S) -> Feed:
        """Begin to answer, and be done in so many seconds. The feed opens, or fails, once it is known whether there
        will be an answer.
        """
        turn = Turn(self, user_id, request, request_id, asyncio.get_running_loop().time() + seconds)
        task = asyncio.create_task(turn.run())
        self._running[task] = turn
        task.add_done_callback(self._running.pop)
        # Its failure has been told; asyncio would tell what it says, too.
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return turn.feed

    async def stop(self, user_id: str, chat_id: str) -> bool:
        """End the running answers of a user's chat, wherever they run; whether there was one."""
        here = self._here(user_id, chat_id)
        for turn in here:
            turn.stop()
        if any(turn.admission for turn in here):
            return True
        # What has not been admitted here may be a copy of what runs in another process.
        params = {"p_user_id": user_id, "p_chat_id": chat_id}
        elsewhere: bool = await self.database.call("stop_query", params, idempotent=True)
        return elsewhere or bool(here)

    async def resume(self, user_id: str, chat_id: str, request_id: str) -> AsyncIterator[bytes] | None:
        """The running answer of a user's chat from its start, wherever it runs; None where there is none."""
        for turn in reversed(self._here(user_id, chat_id)):
            # The newest may be one that is refused, because the same message is being answered.
            with suppress(AppError):
                await turn.feed.opened()
                return turn.feed.read(limits.KEEP_ALIVE_S)
        return await progress.follow(self.database, user_id, chat_id, request_id)

    def _here(self, user_id: str, chat_id: str) -> list["Turn"]:
        """The turns of a user's chat that run in this process, oldest first."""
        return [turn for turn in self._running.values() if turn.user_id == user_id and turn.request.is_of(chat_id)]

    async def close(self) -> None:
        """Let running turns end by themselves for a moment, then end them: not charged."""
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=limits.SHUTDOWN_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await asyncio.gather(*self.endings, return_exceptions=True)
        await self.providers.close()
        await self.tools.close()
        await self.database.close()


@dataclass(slots=True)
class Turn:
    """One question and its answer. `ends_at` is the event loop's time by which the model must have finished."""

    chat: Chat
    user_id: str
    request: ChatRequest
    request_id: str
    ends_at: float
    feed: Feed = field(default_factory=Feed)
    hold_id: str = field(default_factory=time_ordered_id)
    answer: Answer = field(default_factory=lambda: Answer(time_ordered_id()))
    admission: dict[str, Any] = field(default_factory=dict)
    provider: str = ""
    model: str = ""
    own_key: PlainKey | None = None
    usage: Usage = field(default_factory=Usage)
    cost_usd: Decimal | None = Decimal(0)
    stopped: bool = False
    _stream: wire.MessageStream = field(init=False)
    _unpriced: list[tuple[str, str, Usage]] = field(default_factory=list)
    _scope: asyncio.Timeout | None = None
    _progress: Progress | None = None

    def __post_init__(self) -> None:
        self._stream = wire.MessageStream(self.answer.id)

    async def run(self) -> None:
        """The whole story. What goes wrong is told in the feed."""
        try:
            try:
                self.admission = await self._admit()
            except Unavailable:
                self._forget()
                raise
            self.provider, self.model = self.admission["provider"], self.admission["model"]
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

    def stop(self) -> None:
        """The user wants it to end: what has been said is the answer."""
        self.stopped = True
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(0)

    async def _admit(self, attempt: int = 1) -> dict[str, Any]:
        """Take the funding, or raise the refusal. `attempt` counts the times that an edit came back to its words."""
        request_id = self.request.request_id
        admission: dict[str, Any] = await self.chat.database.call(
            "admit_query",
            {
                "p_user_id": self.user_id,
                "p_request_id": request_id if attempt == 1 else f"{request_id}:{attempt}",
                "p_hold_id": self.hold_id,
                "p_chat_id": self.request.id,
                "p_question_id": self.request.question.id,
                "p_provider": self.request.provider,
                "p_model": self.request.model,
                "p_hold_seconds": limits.HOLD_S,
                "p_history_messages": limits.HISTORY_MESSAGES,
                "p_history_characters": limits.HISTORY_CHARACTERS,
                "p_providers": self.chat.providers.platform,
                # Whose key the provider has been asked with, if it has: that does not change any more.
                "p_own_key": self.admission["funding"] == "byok" if self.admission else None,
            },
            timeout_s=limits.ADMIT_S,
            idempotent=True,
        )
        match admission["decision"]:
            case "refused":
                raise refusal(admission, datetime.now(UTC))
            case "in_progress":
                raise RequestInProgress
            case "ended" if admission["answer"] is None:
                if self.request.is_edit and admission["keeps_history"] and attempt < limits.EDITS_BACK:
                    # Its answer gave way to that of another wording, and now these words are wanted again.
                    return await self._admit(attempt + 1)
                raise AlreadyAnswered
        return admission

    def _forget(self) -> None:
        """Admission was not heard of in time, and may have happened, or be about to: let nothing stay taken for it."""

        async def release() -> dict[str, Any]:
            params = {"p_hold_id": self.hold_id, "p_outcome": "failed", "p_user_id": self.user_id}
            try:
                return await self._call("release_query", params)
            except NotFound:
                return {}  # it never happened
            except AppError as error:
                self.chat.observer.failure("hold left to expire", error, **self._identity(), function="release_query")
                return {}

        forgetting = asyncio.create_task(release())
        self.chat.endings.add(forgetting)
        forgetting.add_done_callback(self.chat.endings.discard)

    async def _answer(self) -> None:
        """Say what the model says; then settle, or release if it did not finish."""
        self._progress = Progress(self.chat.database, self.chat.observer, self.hold_id, self.feed, self.stop)
        try:
            reason = await self._converse_in_time()
        except BaseException as error:
            failure = error if isinstance(error, AppError) else Internal()
            if self.feed.is_promised:
                self.feed.write(self._stream.complete())
            await self._end("release_query", "failed", {})
            if self.feed.is_promised:
                metadata = self._metadata(charged=Decimal(0), persisted=False, given_back=1)
                self.feed.write(self._stream.complete() + wire.error(failure.sentence, metadata))
            raise
        self.feed.write(self._stream.complete())
        outcome = "stopped" if reason is None else "answered"
        settled = await self._end("settle_query", outcome, {"p_turn": self._keepsake()})
        # A settlement that did not get through is not known to be charged, and most likely never will be.
        metadata = self._metadata(charged=settled.get("charged_usd"), persisted=settled.get("persisted", False))
        self.feed.write(wire.abort(metadata) if reason is None else wire.finish(reason, metadata))
        self.feed.close(self._whole(metadata))

    async def _converse_in_time(self) -> FinishReason | None:
        """The answer, to its end or to where the user stops it (None). Raises what the provider did wrong."""
        self.own_key = await self._own_key()
        try:
            async with asyncio.timeout_at(0 if self.stopped else self.ends_at) as self._scope:
                reason = await self._converse()
        except TimeoutError as error:
            if self.stopped:
                return None
            raise ProviderTimeout from error
        except ByokKeyRejected as error:
            await self._reject_own_key(error)
            raise
        finally:
            self._scope = None
        if not self.answer.text.strip():
            raise ProviderError  # nobody is charged for an answer without a word
        return reason

    async def _converse(self) -> FinishReason:
        """Step after step: the model speaks and calls tools, until it calls none or the query has cost enough."""
        request = self.request
        prompt = Prompt(
            model=self.model,
            system=system_prompt(),
            situation=await situation(request.context, request.language, datetime.now(UTC), self.chat.parliament),
            messages=[*self._history(), Message("user", request.question.text)],
            tools=self.chat.tools.definitions,
            may_call=True,
            max_output_tokens=limits.OUTPUT_TOKENS,
        )
        for number in range(1, limits.STEPS + 1):
            before = self.cost_usd
            step = replace(
                prompt,
                messages=[*prompt.messages, *self.answer.messages()],
                may_call=prompt.may_call and number < limits.STEPS,
            )
            reason = await self._step(step)
            if reason != "tool-calls":
                return reason
            await self._price()
            if self.cost_usd is not None and before is not None:
                room = self.admission["cost_limit_usd"] - self.cost_usd
                if room <= 0:
                    break
                # The next step reads more than this one did. If it may be the last one, it is to say what is known.
                prompt = replace(prompt, may_call=2 * (self.cost_usd - before) <= room)
            await self._use_tools()
        last_words = Step(cut_short(request.language))
        self.answer.steps.append(last_words)
        stream = self._stream
        self.feed.write(stream.finish_step() + stream.start_step() + stream.text(last_words.text))
        return "length"

    async def _step(self, prompt: Prompt) -> FinishReason:
        """Say what the model says next, and note what it calls."""
        step = Step()
        usage: Usage | None = None
        reason: FinishReason | None = None
        try:
            async with aclosing(self._ask(prompt)) as events:
                async for event in events:
                    match event:
                        case Opened():
                            usage = Usage()
                            self.answer.steps.append(step)
                            self.feed.write(self._stream.finish_step() + self._stream.start_step())
                        case Text(delta):
                            step.text += delta
                            self.feed.write(self._stream.text(delta))
                        case ToolCalling(id, name):
                            self.feed.write(self._stream.tool_calling(id, name))
                        case ToolCall():
                            self._called(step, event)
                        case Usage():
                            usage = event
                        case Finished():
                            reason = event.reason
        finally:
            if usage is not None:
                usage = usage if reason else estimated(prompt, step, usage)
                self._unpriced.append((self.provider, self.model, usage))
        if reason is None:
            raise ProviderError
        return reason

    async def _ask(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """Ask the provider; once more, or another one, where it failed by itself before it began to answer."""
        opened = False
        try:
            async with aclosing(await self._attempt(prompt)) as events:
                async for event in events:
                    opened = True
                    yield event
            return
        except (ProviderDown, ProviderOverloaded) as error:
            if opened:
                raise
            pause = self._second_attempt(error)
        await asyncio.sleep(pause)
        async with aclosing(await self._attempt(prompt)) as events:
            async for event in events:
                yield event

    def _second_attempt(self, error: ProviderDown | ProviderOverloaded) -> float:
        """Where the platform's provider has no capacity, turn to the other one. Returns how many seconds to wait.

        Never with an own key, which pays for the provider that it belongs to. Raises the error where waiting would
        have to be long.
        """
        if isinstance(error, ProviderOverloaded) and self.own_key is None:
            for other in self.chat.providers.platform:
                if other != self.provider and (models := self.admission["models"].get(other)):
                    self.provider, self.model = other, models[0]
                    return 0
        pause = error.retry_after or limits.RETRY_PAUSE_S
        if pause > limits.RETRY_PAUSE_LIMIT_S:
            raise error
        return pause

    async def _attempt(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        provider = await self.chat.providers.get(self.provider)
        await self.chat.turnstile.enter()
        return provider.stream(replace(prompt, model=self.model), self.own_key)

    def _called(self, step: Step, wanted: ToolCall) -> None:
        """Note a call, and tell what it is called with."""
        given = arguments_of(wanted)
        call = Call(wanted.id, wanted.name, given)
        step.calls.append(call)
        if given is not None:
            self.feed.write(self._stream.tool_called(call.id, call.name, given))
        if given is None:
            call.outcome = Outcome(None, "The arguments are not a JSON object.", [])
        elif len(step.calls) > limits.CALLS_A_STEP:
            call.outcome = Outcome(None, f"At most {limits.CALLS_A_STEP} tools are run at once. Call it again.", [])

    async def _use_tools(self) -> None:
        """Run what the last step calls, one after the other, as the public record wants to be asked."""
        for call in self.answer.steps[-1].calls:
            if call.outcome is None:
                call.outcome = await self.chat.tools.run(call.name, call.input, self.request.language)
            self.feed.write(told(self._stream, call))

    async def _own_key(self) -> PlainKey | None:
        """The user's own key where it pays: never the platform's account instead. Raises ByokKeyRejected."""
        if self.admission["funding"] != "byok":
            return None
        try:
            sealed = EncryptedKey.from_row(self.admission["key"])
            return await self.chat.vault.decrypt(sealed, self.user_id, self.provider)
        except DecryptionFailed as error:
            self.chat.observer.failure("own key not opened", error, **self._identity(), provider=self.provider)
            raise ByokKeyRejected("Your own key can no longer be read. Store it again, or delete it.") from None

    async def _reject_own_key(self, error: ByokKeyRejected) -> None:
        """Note that the provider does not accept the key, so that the next query does not try it."""
        key = self.admission["key"]
        params = {"p_id": key["id"], "p_user_id": self.user_id, "p_is_valid": False, "p_error": error.sentence}
        try:
            await self.chat.database.call("note_api_key", params, idempotent=True)
        except AppError as failure:
            self.chat.observer.failure("rejected key not noted", failure, **self._identity())

    def _history(self) -> list[Message]:
        """The newest turns that fit: from storage where the plan keeps them, else what the client remembers."""
        turns: list[list[Message]] = []
        if self.admission["keeps_history"]:
            for row in self.admission["history"]:
                if row["role"] == "user":
                    turns.append([Message("user", row["content"])])
                elif turns:  # a history that is cut is cut before a question
                    turns[-1].extend(Answer.from_row(row).messages())
        else:
            for message in self.request.messages[-limits.HISTORY_MESSAGES - 1 : -1]:
                if message.role == "user":
                    turns.append([])
                if turns and message.text.strip():
                    turns[-1].append(Message(message.role, message.text))
        return fitting(turns, limits.HISTORY_CHARACTERS)

    def _repeat(self) -> None:
        """The request was answered and charged before: say the kept answer again."""
        self.answer = Answer.from_row(self.admission["answer"])
        self.usage = Usage(**{name: self.admission[name] for name in asdict(Usage())})
        self.cost_usd = self.admission["cost_usd"]
        metadata = self._metadata(charged=self.admission["charged_usd"], persisted=True)
        stream = wire.MessageStream(self.answer.id)
        self.feed.write(self.answer.said_again(stream) + wire.finish("stop", metadata))
        self.feed.close(self._whole(metadata))

    async def _price(self) -> None:
        """Add up what the steps so far have cost."""
        while self._unpriced:
            provider, model, usage = self._unpriced[0]
            # In a thread, because the price list takes a moment to load.
            cost = await asyncio.to_thread(cost_usd, provider, model, usage)
            del self._unpriced[0]
            self.usage += usage
            self.cost_usd = None if cost is None or self.cost_usd is None else self.cost_usd + cost

    async def _end(self, function: str, outcome: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """End the hold. What cannot be ended is logged, and expires. Not interrupted when the turn is cancelled."""
        ending = asyncio.create_task(self._end_hold(function, outcome, params))
        self.chat.endings.add(ending)
        ending.add_done_callback(self.chat.endings.discard)
        return await asyncio.shield(ending)

    async def _end_hold(self, function: str, outcome: str, params: Mapping[str, Any]) -> dict[str, Any]:
        observer = self.chat.observer
        identity = self._identity()
        if self._progress is not None:
            await self._progress.close(limits.FOLLOWER_STOPPED_S if self.stopped else limits.FOLLOWER_S)
        await self._price()
        usage = {
            "provider": self.provider,
            "model": self.model,
            **asdict(self.usage),
            "cost_usd": None if self.cost_usd is None else str(self.cost_usd),
        }
        call = {"p_hold_id": self.hold_id, "p_outcome": outcome, "p_usage": usage}
        ended: dict[str, Any] = {}
        try:
            try:
                ended = await self._end_once(function, {**call, **params})
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

    async def _end_once(self, function: str, call: Mapping[str, Any]) -> dict[str, Any]:
        """End the hold. What the database has forgotten is admitted once more, on what can pay for it now."""
        try:
            return await self._call(function, call)
        except NotFound as error:
            # It was restored, or another one took over, without the last admissions. What was asked still costs.
            self.chat.observer.failure("admission forgotten", error, **self._identity(), function=function)
            self.admission = await self._admit()
            return await self._call(function, call)

    def _identity(self) -> dict[str, str]:
        """What a log line names a turn by."""
        return {"request_id": self.request_id, "hold_id": self.hold_id, "user_id": self.user_id}

    async def _call(self, function: str, params: Mapping[str, Any]) -> dict[str, Any]:
        ended: dict[str, Any] = await self.chat.database.call(
            function, params, timeout_s=limits.SETTLE_S, idempotent=True
        )
        return ended

    def _keepsake(self) -> dict[str, Any] | None:
        """What is stored of the turn: nothing at all where the plan keeps no history."""
        if not self.admission["keeps_history"]:
            return None
        request = self.request
        return {
            "chat_id": request.id,
            "title": request.title(self.answer.text),
            "context": request.context.model_dump(),
            "question": {"id": request.question.id, "content": request.question.text},
            "answer": self.answer.row(),
        }

    def _metadata(self, *, charged: Decimal | None, persisted: bool, given_back: int = 0) -> dict[str, Any]:
        remaining = self.admission.get("remaining")
        if remaining is not None:
            remaining += given_back
        return wire.metadata(
            request_id=self.request_id,
            provider=self.provider,
            model=self.model,
            funding=self.admission["funding"],
            **asdict(self.usage),
            cost_usd=self.cost_usd,
            charged_usd=charged,
            # What did not end well was given back.
            remaining=remaining,
            resets_at=self.admission.get("resets_at"),
            persisted=persisted,
        )

    def _whole(self, metadata: dict[str, Any]) -> dict[str, Any]:
        """The answer as POST /chat gives it in JSON: the AI SDK's UIMessage, and the metadata beside it."""
        message = {"id": self.answer.id, "role": "assistant", "parts": self.answer.parts()}
        return {"message": message, "metadata": metadata}


def estimated(prompt: Prompt, step: Step, usage: Usage) -> Usage:
    """What a step that broke off will have cost: what the provider counted until then, and at least what was said."""
    read = len(prompt.system) + len(prompt.situation) + sum(weight(message) for message in prompt.messages)
    read += sum(len(tool.description) + len(orjson.dumps(tool.parameters)) for tool in prompt.tools)
    return replace(
        usage,
        tokens_input=usage.tokens_input or read // limits.CHARACTERS_A_TOKEN,
        tokens_output=max(usage.tokens_output, len(step.text) // limits.CHARACTERS_A_TOKEN, 1),
    )


def refusal(admission: Mapping[str, Any], now: datetime) -> AppError:
    """Why the query is refused, as the error that tells the client what would help."""
    details = {"reason": admission["reason"], "requires_payment": admission["requires_payment"]}
    if admission["requires_payment"]:
        return PaymentRequired(**details)
    resets_at = datetime.fromisoformat(admission["resets_at"])
    kind = OverageLimitReached if admission["reason"] == "Overage limit reached" else QuotaExhausted
    wait = math.ceil((resets_at - now).total_seconds())
    return kind(retry_after=max(1, wait), resets_at=admission["resets_at"], **details)
