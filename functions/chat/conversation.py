"""The conversation with the model within one turn: step after step, the model writes text and calls tools."""

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass

from functions.chat import limits
from functions.chat.answer import Answer, Call, Step, outcome_events
from functions.chat.budget import Budget
from functions.chat.feed import Feed
from functions.chat.providers import (
    Finished,
    FinishReason,
    Opened,
    Prompt,
    Text,
    ToolCall,
    ToolCallStarted,
    Usage,
    parsed_arguments,
    prices,
)
from functions.chat.providers.failover import Failover
from functions.chat.sources.base import Language
from functions.chat.spending import Spending, estimated
from functions.chat.system_prompt import cut_short
from functions.chat.tools import Outcome, Tools
from functions.chat.wire import MessageStream
from functions.common.errors import InvalidRequest, ProviderError
from functions.common.surrogates import Joiner
from functions.common.validation import field_problem
from functions.common.vault import PlainKey

LEFT_OUT = "This result is left out, because the answer has reached its limit. Answer with what you have."


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Adds steps to `answer`, their events to `feed` and their tokens to `spending`."""

    failover: Failover
    own_key: PlainKey | None
    tools: Tools
    language: Language
    answer: Answer
    budget: Budget
    spending: Spending
    stream: MessageStream
    feed: Feed

    async def run(self) -> FinishReason:
        """Ask the model until it calls no more tools, or the query has reached its cost limit ("limit").

        Raises InvalidRequest if the question is too long for every model of the plan, and what the provider raises.
        """
        if not prices.are_loaded():
            await asyncio.to_thread(prices.load)
        for number in range(1, limits.STEPS + 1):
            may_call = number < limits.STEPS
            prompt = self._next_prompt(self.failover.provider, self.failover.model, may_call=may_call)
            if prompt is None and number == 1:
                prompt = self._cheaper_prompt()
            if prompt is None:
                break
            reason = await self._step(prompt)
            if reason == "limit":
                self._write(self.answer.steps[-1], f"\n\n{cut_short(self.language)}")
                return "limit"
            if reason != "stop" or not self.answer.steps[-1].calls:
                return reason
            await self.spending.price()
            await self._run_tools()
        if not self.answer.steps:
            raise InvalidRequest(field_problem("messages", "question_cost"), reason_code="question_too_long")
        self.answer.steps.append(Step())
        self.feed.write(self.stream.finish_step() + self.stream.start_step())
        self._write(self.answer.steps[-1], cut_short(self.language))
        return "limit"

    def _write(self, step: Step, text: str) -> None:
        if text:
            if self.answer.first_text_at is None:
                self.answer.first_text_at = time.perf_counter()
            step.text += text
            self.feed.write(self.stream.text(text))

    def _cheaper_prompt(self) -> Prompt | None:
        """The first prompt for another model of the plan: the question is too long for the chosen one."""
        provider = self.failover.provider
        for model in self.failover.models.get(provider, ()):
            if prompt := self._next_prompt(provider, model, may_call=True):
                self.failover.model = model
                return prompt
        return None

    def _next_prompt(self, provider: str, model: str, *, may_call: bool) -> Prompt | None:
        return self.budget.next_prompt(provider, model, self.answer.messages(provider), may_call=may_call)

    async def _step(self, prompt: Prompt) -> FinishReason:
        """Stream one response of the model and note its calls. "limit": it wrote as much as the cost limit allows."""
        step = Step()
        usage: Usage | None = None
        reason: FinishReason | None = None
        joiner = Joiner()

        def prompt_for(provider: str, model: str) -> Prompt | None:
            nonlocal prompt
            other = self._next_prompt(provider, model, may_call=prompt.may_call)
            prompt = other or prompt
            return other

        try:
            async with aclosing(self.failover.stream(prompt, self.own_key, prompt_for)) as events:
                async for event in events:
                    match event:
                        case Opened():
                            usage = Usage()
                            self.answer.steps.append(step)
                            self.feed.write(self.stream.finish_step() + self.stream.start_step())
                        case Text(delta):
                            self._write(step, joiner.add(delta))
                        case ToolCallStarted(id, name):
                            self._write(step, joiner.end())
                            step.calls.append(Call(id, name, None, at=len(step.text), provider=self.failover.provider))
                            self.feed.write(self.stream.tool_input_start(id, name))
                        case ToolCall():
                            self._complete_call(step, event)
                        case Usage():
                            usage = event
                        case Finished():
                            self._write(step, joiner.end())
                            reason = event.reason
        finally:
            if usage is not None:
                is_counted = reason is not None and usage.tokens_input > 0 and usage.tokens_output > 0
                usage = usage if is_counted else estimated(prompt, step, usage)
                self.spending.add(self.failover.provider, self.failover.model, usage)
        if reason is None:
            raise ProviderError
        assert usage is not None
        if is_counted:
            self.budget.count(self.failover.provider, prompt, usage)
        was_limited = prompt.max_output_tokens < limits.OUTPUT_TOKENS
        if reason == "length" and was_limited and usage.tokens_output >= prompt.max_output_tokens:
            return "limit"
        return reason

    def _complete_call(self, step: Step, event: ToolCall) -> None:
        """Add what the model wrote to a call that has started."""
        number, call = next((at, call) for at, call in enumerate(step.calls) if call.id == event.id)
        too_long = len(event.arguments.encode()) > limits.ARGUMENTS_BYTES
        call.input = None if too_long else parsed_arguments(event)
        earlier = {known.id_for(call.provider) for before in self.answer.steps for known in before.calls}
        call.given_id = "" if event.given_id in earlier else event.given_id
        if call.input is None:
            reason = f"longer than {limits.ARGUMENTS_BYTES} bytes" if too_long else "not a JSON object"
            call.outcome = Outcome(None, f"The arguments are {reason}.", [])
            return
        self.feed.write(self.stream.tool_input(call.id, call.name, call.input))
        if number >= limits.CALLS_A_STEP:
            call.outcome = Outcome(None, f"At most {limits.CALLS_A_STEP} tools are run at once. Call it again.", [])

    async def _run_tools(self) -> None:
        """Run the last step's calls one after the other: openparliament.ca accepts one request at a time.

        A result that would leave no room for the answer is left out.
        """
        for call in self.answer.steps[-1].calls:
            if call.outcome is None:
                call.outcome = await self.tools.run(call.name, call.input, self.language)
                prompt = self._next_prompt(self.failover.provider, self.failover.model, may_call=False)
                if prompt is None or prompt.max_output_tokens < limits.ANSWER_TOKENS:
                    call.outcome = Outcome(None, LEFT_OUT, [])
            self.feed.write(outcome_events(self.stream, call))
