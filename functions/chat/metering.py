"""Metering of queries: `admit` takes the funding before the model runs, `settle` or `release` ends the hold afterwards.

This module is the only reader of the JSON that the SQL functions admit_query, settle_query and release_query return.
"""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, TypedDict, TypeVar, get_args
from uuid import UUID

from functions.chat import limits
from functions.chat.answer import MessageRow
from functions.chat.providers import Spent
from functions.chat.request import ChatRequest
from functions.chat.wire import Ending
from functions.common import reasons
from functions.common.database import Database
from functions.common.errors import (
    AlreadyAnswered,
    AppError,
    NotFound,
    RequestInProgress,
    Unavailable,
    ValueRefused,
    error_for,
)
from functions.common.language import Language
from functions.common.observe import Observer
from functions.common.vault import StoredKey

T = TypeVar("T")
Funding = Literal["included", "credit", "overage", "byok"]

# Of refusals without resets_at. An answer takes a few seconds, a pause longer.
RETRY_AFTER_S = {"too_many_queries": 5, "chat_paused": 300, "provider_paused": 300}


@dataclass(frozen=True, slots=True)
class Admission:
    """The query may run, and its funding is taken.

    `models` are the models of the plan by provider, the default first. `remaining` is the number of queries that this
    funding has left, None where it has no such number; `resets_at` is an ISO 8601 time. `key` is the user's own key,
    given where the funding is "byok".
    """

    funding: Funding
    tier: str
    provider: str
    model: str
    models: Mapping[str, Sequence[str]]
    cost_limit_usd: Decimal
    keeps_history: bool
    history: Sequence[MessageRow]
    remaining: int | None
    resets_at: str | None
    key: StoredKey | None


@dataclass(frozen=True, slots=True)
class Refused:
    """The query may not run. `reason_code` is one of common.reasons, `reason` the database's text for it.

    `resets_at` is an ISO 8601 time. `url` is the page of an unpaid invoice, where the action is to pay it. `provider`
    is paused. `words` are an operator's sentence by language, for something paused.
    """

    reason_code: str
    reason: str
    requires_payment: bool
    resets_at: str | None
    url: str | None = None
    provider: str | None = None
    words: Mapping[Language, str] | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Refused":
        """The refusal of admit_query or admit_tool_call. Raises KeyError for a reason that is not known here."""
        reason = reasons.BY_CODE[row["reason_code"]]
        return cls(
            reason.code,
            row["reason"],
            row["requires_payment"],
            row["resets_at"],
            row.get("url"),
            row.get("provider"),
            row.get("sentence"),
        )

    def error(self, now: datetime) -> AppError:
        """The error for the client, which says what would help."""
        details: dict[str, Any] = {"reason": self.reason, "requires_payment": self.requires_payment}
        retry_after = RETRY_AFTER_S.get(self.reason_code)
        if self.resets_at is not None:
            retry_after = max(1, math.ceil((datetime.fromisoformat(self.resets_at) - now).total_seconds()))
            details["resets_at"] = self.resets_at
        if reasons.BY_CODE[self.reason_code].action == "pay_invoice":
            details["url"] = self.url
        if self.provider is not None:
            details["provider"] = self.provider
        error = error_for(self.reason_code, retry_after=retry_after, **details)
        error.words = self.words
        return error


@dataclass(frozen=True, slots=True)
class Waiting:
    """Another query of the chat is running. It was requested to stop."""


@dataclass(frozen=True, slots=True)
class InProgress:
    """Another attempt at the same request is running."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The same request was charged before. `answer` is None where it is not stored (any more)."""

    funding: Funding
    spent: Spent
    charged_usd: Decimal
    keeps_history: bool
    finish_reason: Ending
    answer: MessageRow | None


Decision = Admission | Refused | Waiting | InProgress | Ended


def decision(row: Mapping[str, Any]) -> Decision:
    """What admit_query returned."""
    match row["decision"]:
        case "admitted":
            return Admission(
                funding=row["funding"],
                tier=row["tier"],
                provider=row["provider"],
                model=row["model"],
                models=row["models"],
                cost_limit_usd=row["cost_limit_usd"],
                keeps_history=row["keeps_history"],
                history=row["history"],
                remaining=row["remaining"],
                resets_at=row["resets_at"],
                key=row["key"],
            )
        case "refused":
            return Refused.from_row(row)
        case "waiting":
            return Waiting()
        case "in_progress":
            return InProgress()
        case _:
            return Ended(
                funding=row["funding"],
                spent=Spent.from_row(row),
                charged_usd=row["charged_usd"],
                keeps_history=row["keeps_history"],
                finish_reason=row["finish_reason"] or "stop",
                answer=row["answer"],
            )


Outcome = Literal["answered", "stopped", "failed", "lost"]


@dataclass(frozen=True, slots=True)
class Settled:
    """How a hold ended. `charged_usd` is None where it could not be ended until the deadline.

    It then expires as lost and is not charged, unless a call whose response was lost had ended it.
    """

    outcome: Outcome = "lost"
    charged_usd: Decimal | None = None
    persisted: bool = False

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Settled":
        """What settle_query or release_query returned. Raises KeyError for the result of another function."""
        if row["outcome"] not in get_args(Outcome):
            raise KeyError
        return cls(row["outcome"], row["charged_usd"], row["persisted"])


class QuestionRow(TypedDict):
    """The question of a turn."""

    id: str
    content: str


class TurnRow(TypedDict):
    """`p_turn` of settle_query: what is stored of a turn."""

    chat_id: str
    title: str
    context: Mapping[str, Any]
    question: QuestionRow
    answer: MessageRow


@dataclass(frozen=True, slots=True)
class Arrival:
    """The HTTP request of a query. `started` is the time.perf_counter() when it arrived, `aws_request_id` is Lambda's
    id of the invocation, `session_id` is the access token's."""

    request_id: str
    started: float = field(default_factory=time.perf_counter)
    aws_request_id: str | None = None
    session_id: str | None = None

    def ms_until(self, at: float | None) -> float | None:
        """The milliseconds until a time.perf_counter(). None where there is none."""
        return None if at is None else round((at - self.started) * 1000, 1)


@dataclass(frozen=True, slots=True)
class Query:
    """A question of a user."""

    user_id: str
    request: ChatRequest
    arrival: Arrival

    @property
    def request_id(self) -> str:
        return self.arrival.request_id

    @property
    def hold_id(self) -> str:
        """The id of the hold, of the ledger row and of the answer: that of the request, which the user is shown.

        Decision 2 says why it is chosen here.
        """
        return str(UUID(self.request_id))

    @property
    def identity(self) -> Mapping[str, str]:
        """The fields that identify the query in a log line."""
        return {
            "request_id": self.request_id,
            "hold_id": self.hold_id,
            "message_id": self.hold_id,
            "user_id": self.user_id,
        }


@dataclass(slots=True)
class Hold:
    """An admitted query. The admission is replaced if the database lost it and the query is admitted again."""

    query: Query
    admission: Admission


@dataclass(frozen=True, slots=True)
class Pace:
    """How an answer went: the time.perf_counter() of its first text, if it got that far, and the model's responses."""

    first_text_at: float | None = None
    steps: int = 0


class Metering:
    """Admits queries and ends their holds. `platform_providers`: those with an account of the platform."""

    def __init__(self, database: Database, observer: Observer, platform_providers: Sequence[str]) -> None:
        self._database = database
        self._observer = observer
        self._platform_providers = platform_providers
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_closing = False

    async def close(self) -> None:
        """Wait for the holds that are being ended, at most limits.SETTLE_S if the database is out of reach."""
        self._is_closing = True
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def run_to_end(self, ending: Coroutine[Any, Any, T]) -> T:
        """Await `ending` in a task that goes on if the caller is cancelled. `close` waits for it."""
        return await asyncio.shield(self._start(ending))

    def _start(self, ending: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(ending)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Admission

    async def admit(self, query: Query, stop_earlier: Callable[[], None]) -> Hold | Ended:
        """Take the funding of a query. Returns Ended for a request that was charged before and has a stored answer.

        Where another query of the chat runs, waits limits.EARLIER_ANSWER_S for its end. `stop_earlier` stops it if it
        runs in this process.

        Raises PaymentRequired, QuotaExhausted or OverageLimitReached where nothing pays, TooManyRequests where another
        limit is reached, RequestInProgress, AlreadyAnswered, Conflict, NotFound for another user's conversation,
        ModelNotAvailable, and Unavailable. Unauthenticated, AccountBlocked or EmailNotConfirmed where Auth's tables
        refuse the account.
        """
        try:
            admitted = await self._admit(query, own_key=None, stop_earlier=stop_earlier)
        except Unavailable:
            # Lambda freezes the process after the refusal, and the user's next attempt would find the hold.
            await asyncio.wait({self._start(self._release_after_timeout(query))}, timeout=limits.RELEASE_S)
            raise
        return Hold(query, admitted) if isinstance(admitted, Admission) else admitted

    async def _admit(
        self, query: Query, *, own_key: bool | None, stop_earlier: Callable[[], None] | None = None
    ) -> Admission | Ended:
        """`own_key`: whether a key of the user's own has to pay; None: whether it pays depends on there being one."""
        request = query.request
        request_id = request.request_id
        loop = asyncio.get_running_loop()
        waits_until = loop.time() + (limits.EARLIER_ANSWER_S if stop_earlier else 0)
        attempt = 1
        while attempt <= limits.EDITS_BACK:
            decided: Decision = await self._database.call(
                "admit_query",
                {
                    "p_user_id": query.user_id,
                    "p_request_id": request_id if attempt == 1 else f"{request_id}:{attempt}",
                    "p_hold_id": query.hold_id,
                    "p_chat_id": request.id,
                    "p_question_id": request.question.id if request.asks_again else None,
                    "p_question_digest": request.question_digest,
                    "p_question": {"id": request.question.id, "content": request.question.text},
                    "p_provider": request.provider,
                    "p_model": request.model,
                    "p_hold_seconds": limits.HOLD_S,
                    "p_history_messages": limits.HISTORY_MESSAGES,
                    "p_history_bytes": limits.HISTORY_BYTES,
                    "p_providers": self._platform_providers,
                    "p_session_id": query.arrival.session_id,
                    "p_waits": loop.time() < waits_until,
                    "p_own_key": own_key,
                },
                parse=decision,
                timeout_s=limits.ADMIT_S,
            )
            match decided:
                case Refused() as refused:
                    if refused.reason_code == "free_answers_off":
                        self._observer.count(FreeAnswersRefused=1)
                    raise refused.error(datetime.now(UTC))
                case Waiting() if stop_earlier:
                    stop_earlier()
                    await asyncio.sleep(limits.EARLIER_ANSWER_TICK_S)
                case InProgress() | Waiting():
                    raise RequestInProgress
                case Ended(answer=None, keeps_history=True) if request.is_edit:
                    attempt += 1  # A later edit replaced this wording's answer, and the user edited back to it.
                case Ended(answer=None):
                    raise AlreadyAnswered
                case Admission() | Ended() as admitted:
                    return admitted
        raise AlreadyAnswered

    async def _release_after_timeout(self, query: Query) -> None:
        """admit_query timed out and may still commit; release its hold."""
        params = {"p_hold_id": query.hold_id, "p_outcome": "failed", "p_user_id": query.user_id}
        try:
            await self._call("release_query", params, limits.SETTLE_S)
        except NotFound:
            pass  # It did not commit.
        except AppError as error:
            self._observer.failure("hold left to expire", error, **query.identity, function="release_query")

    # The end

    async def settle(
        self, hold: Hold, ending: Ending, spent: Spent, pace: Pace, turn: TurnRow | None, until: float
    ) -> Settled:
        """End a query that is charged. Stores the turn unless it is None. Raises nothing.

        Repeated while the database is out of reach, until the event loop's time `until`.
        """
        outcome = "stopped" if ending == "stopped" else "answered"
        usage = {**spent.row(), "finish_reason": ending}
        return await self._end(hold, "settle_query", outcome, usage, pace, {"p_turn": turn}, until)

    async def release(self, hold: Hold, spent: Spent, pace: Pace, until: float) -> Settled:
        """End a query that failed and give its funding back. Raises nothing. Tries for limits.SETTLE_S: what is not
        released expires with the same result."""
        until = min(until, asyncio.get_running_loop().time() + limits.SETTLE_S)
        return await self._end(hold, "release_query", "failed", spent.row(), pace, {}, until)

    async def _end(
        self,
        hold: Hold,
        function: str,
        outcome: str,
        usage: Mapping[str, Any],
        pace: Pace,
        turn: Mapping[str, TurnRow | None],
        until: float,
    ) -> Settled:
        observer, identity = self._observer, hold.query.identity
        params = {"p_hold_id": hold.query.hold_id, "p_outcome": outcome, "p_usage": usage}
        settled = Settled()
        try:
            try:
                settled = await self._end_until(until, hold, function, {**params, **turn})
            except (ValueRefused, Unavailable) as error:
                if not turn:
                    raise
                # The turn cannot be stored. Charge it anyway, so that no text is a way to free answers. Unavailable:
                # even if nothing but the turn prevented the settlement until now.
                observer.failure("turn not stored", error, **identity, function=function)
                settled = await self._end_until(until, hold, function, params)
        except AppError as error:
            observer.failure("hold left to expire", error, **identity, function=function)
            observer.count(HoldsLeftToExpire=1)
        observer.info(
            "query",
            **identity,
            **usage,
            tier=hold.admission.tier,
            funding=hold.admission.funding,
            outcome=settled.outcome,
            charged_usd=str(settled.charged_usd),
            aws_request_id=hold.query.arrival.aws_request_id,
            duration_ms=hold.query.arrival.ms_until(time.perf_counter()),
            first_token_ms=(first_token_ms := hold.query.arrival.ms_until(pace.first_text_at)),
            steps=pace.steps,
        )
        is_ours = hold.admission.funding != "byok" and usage["cost_usd"] is not None
        paid = {"CostUsd": float(usage["cost_usd"])} if is_ours else {}
        first = {} if first_token_ms is None else {"FirstTokenMs": first_token_ms}
        observer.count(Queries=1, ChargedUsd=float(settled.charged_usd or 0), **paid, **first)
        return settled

    async def _end_until(self, until: float, hold: Hold, function: str, params: Mapping[str, Any]) -> Settled:
        """End the hold, with rounds of calls while the database is out of reach. A server that stops ends this too."""
        loop = asyncio.get_running_loop()
        while True:
            left_s = 0 if self._is_closing else until - loop.time()
            timeout_s = max(limits.SETTLE_PAUSE_S, min(limits.SETTLE_S, left_s))
            try:
                return await self._end_or_readmit(hold, function, params, timeout_s)
            except Unavailable as error:
                if self._is_closing or until - loop.time() <= limits.SETTLE_PAUSE_S:
                    raise
                self._observer.failure("hold not ended yet", error, **hold.query.identity, function=function)
                await asyncio.sleep(limits.SETTLE_PAUSE_S)

    async def _end_or_readmit(self, hold: Hold, function: str, params: Mapping[str, Any], timeout_s: float) -> Settled:
        """End the hold. If the database lost the admission, admit the query again, on what can pay for it now."""
        try:
            return await self._call(function, params, timeout_s)
        except NotFound as error:
            # A backup was restored, or a replica promoted, without the last admissions. The provider cost money anyway.
            self._observer.failure("admission forgotten", error, **hold.query.identity, function=function)
        # The own key pays again exactly if it paid before. The user may have signed out meanwhile.
        query = replace(hold.query, arrival=replace(hold.query.arrival, session_id=None))
        admitted = await self._admit(query, own_key=hold.admission.funding == "byok")
        if isinstance(admitted, Ended):
            raise AlreadyAnswered
        hold.admission = admitted
        try:
            return await self._call(function, params, timeout_s)
        except NotFound as error:
            raise Unavailable from error  # two databases answer in turn while one replaces the other

    async def _call(self, function: str, params: Mapping[str, Any], timeout_s: float) -> Settled:
        settled: Settled = await self._database.call(function, params, parse=Settled.from_row, timeout_s=timeout_s)
        return settled
