"""One chat turn: admit the query, converse with the model and its tools, settle.

A turn runs in its own task and writes to a Feed; clients read the feed. A turn always ends its hold: it settles when
the model finished or the user stopped it, and releases when something failed. What the request itself caused, a limit
of ours or of the model, is no failure once a text or the result of a tool has reached the user. A hold that cannot be
ended (the process died, the database is out of reach) expires, and its funding is given back.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from functions.chat import history, limits, wire
from functions.chat.answer import Answer, Step
from functions.chat.budget import Budget
from functions.chat.conversation import Conversation
from functions.chat.feed import Feed
from functions.chat.metering import Ended, Hold, Metering, Pace, Query, Settled, TurnRow
from functions.chat.own_key import OwnKeys
from functions.chat.progress import ProgressWriter, TurnProgress
from functions.chat.providers import FinishReason, Message, Prompt, Providers, Spent
from functions.chat.providers.failover import Failover
from functions.chat.sources import Parliament
from functions.chat.spending import Spending
from functions.chat.system_prompt import last_sentence, situation, system_prompt
from functions.chat.tools import Tools
from functions.common.errors import (
    AppError,
    ByokKeyRejected,
    Internal,
    PromptRefused,
    ProviderError,
    ProviderTimeout,
    is_our_failure,
    is_providers_failure,
)
from functions.common.observe import Observer
from functions.common.turnstile import Turnstile
from functions.common.vault import PlainKey


@dataclass(slots=True, kw_only=True)
class Turn:
    """One question and its answer, which has the id of the hold.

    `ends_at` is the event loop's time by which the model must have finished. `stop_earlier` stops the other turns of
    the chat in this process.
    """

    metering: Metering
    providers: Providers
    own_keys: OwnKeys
    tools: Tools
    parliament: Parliament
    progress: ProgressWriter
    observer: Observer
    turnstile: Turnstile
    query: Query
    stop_earlier: Callable[[], None]
    ends_at: float
    feed: Feed = field(init=False)
    stopped: bool = False
    hold: Hold | None = None
    _answer: Answer = field(init=False)
    _spending: Spending = field(default_factory=Spending)
    _stream: wire.MessageStream = field(init=False)
    _timeout: asyncio.Timeout | None = None

    def __post_init__(self) -> None:
        self.feed = Feed(self.query.request.language)
        self._answer = Answer(self.query.hold_id)
        self._stream = wire.MessageStream(self._answer.id)

    async def run(self) -> None:
        """Run the whole turn. An error ends the feed; only what is no Exception (a cancellation, an exit) is raised."""
        try:
            admitted = await self.metering.admit(self.query, self.stop_earlier)
            if isinstance(admitted, Ended):
                self._repeat(admitted)
            else:
                self.hold = admitted
                await self._converse_and_settle(admitted)
        except BaseException as error:
            failure = error if isinstance(error, AppError) else Internal()
            if is_our_failure(failure):
                self.observer.failure("turn failed", error, request_id=self.query.request_id)
                self.observer.count(AnswersFailed=1)
            if self.feed.lacks_end:  # the end of the turn failed, so its outcome is not known
                self.feed.write(self._stream.complete() + wire.broken(failure, self.query.request.language))
            self.feed.fail(failure)
            if not isinstance(error, Exception):
                raise

    def stop(self) -> None:
        """End the turn at the user's request: the text so far is the answer."""
        self.stopped = True
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(0)

    def end_by(self, ends_at: float) -> None:
        """Let the model finish by an earlier time."""
        self.ends_at = min(self.ends_at, ends_at)
        if self._timeout is not None and not self._timeout.expired() and not self.stopped:
            self._timeout.reschedule(self.ends_at)

    async def _converse_and_settle(self, hold: Hold) -> None:
        """Stream the model's answer, then settle the query, or release it if the model did not finish."""
        admission = hold.admission
        progress = self.progress.open(hold.query.hold_id, self.feed, self.stop)
        failover = Failover(self.providers, self.turnstile, admission.provider, admission.model, admission.models)
        try:
            reason = await self._converse_in_time(hold, failover)
            turn_row = self._turn_row(hold, reason)
        except BaseException as error:
            if is_providers_failure(error) and admission.funding != "byok":
                self.observer.count(ProviderFailures=1)
            if self.feed.is_streaming:
                self.feed.write(self._stream.complete())
            await self._end(hold, progress, failover, None, None)
            if self.feed.is_streaming:
                failure = error if isinstance(error, AppError) else Internal()
                # The release has given one query back.
                metadata = self._metadata(hold, failover, Settled("failed", Decimal(0)), None, given_back=1)
                language = self.query.request.language
                self.feed.write(self._stream.complete() + wire.error(failure, language, metadata))
            raise
        self.feed.write(self._stream.complete())
        settled = await self._end(hold, progress, failover, reason, turn_row)
        metadata = self._metadata(hold, failover, settled, reason)
        self.feed.write(wire.abort(metadata) if reason == "stopped" else wire.finish(reason, metadata))
        self.feed.close(self._whole_answer(metadata))

    async def _converse_in_time(self, hold: Hold, failover: Failover) -> wire.Ending:
        """Why the answer ended. Raises the error where nothing reached the user, or the provider failed."""
        own_key = await self.own_keys.decrypt(hold)
        try:
            async with asyncio.timeout_at(0 if self.stopped else self.ends_at) as self._timeout:
                reason = await self._converse(hold, failover, own_key)
        except TimeoutError as error:
            if self.stopped:
                return "stopped"
            is_our_deadline = self._timeout is not None and self._timeout.expired()
            if not (is_our_deadline and self._answer.has_content):
                raise ProviderTimeout from error
            return self._ended_early("limit")
        except PromptRefused as error:
            if error.finish_reason == "length" and not self._answer.has_content:
                raise
            return self._ended_early(error.finish_reason)
        except ByokKeyRejected as error:
            await self.own_keys.reject(hold, error)
            raise
        finally:
            self._timeout = None
        if reason == "content-filter":
            return self._ended_early(reason)
        if not self._answer.has_content:
            raise ProviderError  # An answer without content is not charged.
        return reason if self._answer.text.strip() else self._ended_early(reason)

    def _ended_early(self, ending: wire.Ending) -> wire.Ending:
        """Add a sentence that explains why the answer ends here."""
        sentence = last_sentence(ending, self.query.request.language)
        self._answer.steps.append(Step(sentence))
        self.feed.write(self._stream.finish_step() + self._stream.start_step() + self._stream.text(sentence))
        return ending

    async def _converse(self, hold: Hold, failover: Failover, own_key: PlainKey | None) -> FinishReason:
        request, admission = self.query.request, hold.admission
        earlier = (
            history.from_storage(admission.history)
            if admission.keeps_history
            else history.from_client(request.messages[:-1])
        )
        now = datetime.now(UTC)
        plain, hint, source = await situation(request.context, request.language, now, self.parliament)
        if source is not None:
            self._answer.page_sources = self._stream.page_sources = [source]
        prompt = Prompt(
            model=admission.model,
            system=system_prompt(),
            situation=plain + hint,
            messages=[Message("user", request.question.text)],
            tools=self.tools.definitions,
            may_call=True,
            max_output_tokens=limits.OUTPUT_TOKENS,
        )
        limit_usd = admission.cost_limit_usd if own_key is None else limits.OWN_KEY_QUERY_COST_LIMIT_USD
        conversation = Conversation(
            failover=failover,
            own_key=own_key,
            tools=self.tools,
            language=request.language,
            answer=self._answer,
            budget=Budget(limit_usd, self._spending, prompt, earlier, plain),
            spending=self._spending,
            stream=self._stream,
            feed=self.feed,
        )
        return await conversation.run()

    async def _end(
        self,
        hold: Hold,
        progress: TurnProgress,
        failover: Failover,
        ending: wire.Ending | None,
        turn_row: TurnRow | None,
    ) -> Settled:
        """End the hold, even if the turn is cancelled meanwhile. `ending` is None where the turn failed."""

        async def end() -> Settled:
            await progress.close(limits.FOLLOWER_STOPPED_S if self.stopped else limits.FOLLOWER_S)
            await self.turnstile.enter()  # pricing and storing take a millisecond, and many answers may end at once
            await self._spending.price()
            for provider, model in failover.gone:
                self.observer.info("model gone", **self.query.identity, provider=provider, model=model)
                if hold.admission.funding != "byok":
                    self.observer.count(ModelsGone=1)  # an operator has to change the plans
            pace = Pace(self._answer.first_text_at, self._spending.steps)
            until = self.ends_at + limits.DEADLINE_MARGIN_S - limits.SETTLE_MARGIN_S
            if ending is None:
                return await self.metering.release(hold, self._spent(failover), pace, until)
            return await self.metering.settle(hold, ending, self._spent(failover), pace, turn_row, until)

        return await self.metering.run_to_end(end())

    def _repeat(self, ended: Ended) -> None:
        """Send the stored answer of a request that was charged before."""
        assert ended.answer is not None
        self._answer = Answer.from_row(ended.answer)
        self.observer.info("query repeated", **{**self.query.identity, "message_id": self._answer.id})
        metadata = wire.metadata(
            request_id=self.query.request_id,
            spent=ended.spent,
            funding=ended.funding,
            charged_usd=ended.charged_usd,
            persisted=True,
            finish_reason=ended.finish_reason,
        )
        stream = wire.MessageStream(self._answer.id)
        self.feed.write(self._answer.events(stream) + wire.finish(ended.finish_reason, metadata))
        self.feed.close(self._whole_answer(metadata))

    def _turn_row(self, hold: Hold, ending: wire.Ending) -> TurnRow | None:
        """What is stored of the turn: nothing where the plan keeps no history."""
        if not hold.admission.keeps_history:
            return None
        request = self.query.request
        return {
            "chat_id": request.id,
            "title": request.title(self._answer.text),
            "context": request.context.model_dump(),
            "question": {"id": request.question.id, "content": request.question.text},
            "answer": {**self._answer.row(), "finish_reason": ending},
        }

    def _spent(self, failover: Failover) -> Spent:
        return Spent(failover.provider, failover.model, self._spending.usage, self._spending.cost_usd)

    def _metadata(
        self, hold: Hold, failover: Failover, settled: Settled, ending: wire.Ending | None, given_back: int = 0
    ) -> wire.Metadata:
        remaining = hold.admission.remaining
        metadata = wire.metadata(
            request_id=self.query.request_id,
            spent=self._spent(failover),
            funding=hold.admission.funding,
            charged_usd=settled.charged_usd,
            persisted=settled.persisted,
            remaining=None if remaining is None else remaining + given_back,
            resets_at=hold.admission.resets_at,
            finish_reason=ending,
        )
        if settled.outcome == "lost":
            metadata["outcome"] = "lost"
        return metadata

    def _whole_answer(self, metadata: wire.Metadata) -> wire.WholeAnswer:
        message: wire.UIMessage = {"id": self._answer.id, "role": "assistant", "parts": self._answer.parts()}
        return {"message": message, "metadata": metadata}
