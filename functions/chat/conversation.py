"""The conversation with the model within one turn: step after step, the model writes text and calls tools."""

from contextlib import aclosing
from dataclasses import dataclass, replace
from decimal import Decimal

from functions.chat import limits
from functions.chat.answer import Answer, Call, Step, outcome_events
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
)
from functions.chat.providers.failover import Failover
from functions.chat.spending import Spending, estimated
from functions.chat.system_prompt import cut_short
from functions.chat.tools import Language, Outcome, Tools
from functions.chat.wire import MessageStream
from functions.common.errors import ProviderError
from functions.common.vault import PlainKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Adds steps to `answer`, their events to `feed` and their tokens to `spending`."""

    failover: Failover
    own_key: PlainKey | None
    tools: Tools
    language: Language
    answer: Answer
    spending: Spending
    stream: MessageStream
    feed: Feed

    async def run(self, prompt: Prompt, cost_limit_usd: Decimal) -> FinishReason:
        """Ask the model until it calls no more tools, or the query has reached its cost limit ("length").

        Raises what the provider raises.
        """
        for number in range(1, limits.STEPS + 1):
            cost_before = self.spending.cost_usd
            step = replace(
                prompt,
                messages=[*prompt.messages, *self.answer.messages()],
                may_call=prompt.may_call and number < limits.STEPS,
            )
            reason = await self._step(step)
            if reason != "tool-calls":
                return reason
            await self.spending.price()
            if self.spending.cost_usd is not None and cost_before is not None:
                room = cost_limit_usd - self.spending.cost_usd
                if room <= 0:
                    break
                # The next step reads more than this one did. If it may be the last one, the model has to answer now.
                prompt = replace(prompt, may_call=2 * (self.spending.cost_usd - cost_before) <= room)
            await self._run_tools()
        last_step = Step(cut_short(self.language))
        self.answer.steps.append(last_step)
        self.feed.write(self.stream.finish_step() + self.stream.start_step() + self.stream.text(last_step.text))
        return "length"

    async def _step(self, prompt: Prompt) -> FinishReason:
        """Stream one response of the model and note its calls."""
        step = Step()
        usage: Usage | None = None
        reason: FinishReason | None = None
        try:
            async with aclosing(self.failover.stream(prompt, self.own_key)) as events:
                async for event in events:
                    match event:
                        case Opened():
                            usage = Usage()
                            self.answer.steps.append(step)
                            self.feed.write(self.stream.finish_step() + self.stream.start_step())
                        case Text(delta):
                            step.text += delta
                            self.feed.write(self.stream.text(delta))
                        case ToolCallStarted(id, name):
                            self.feed.write(self.stream.tool_input_start(id, name))
                        case ToolCall():
                            self._add_call(step, event)
                        case Usage():
                            usage = event
                        case Finished():
                            reason = event.reason
        finally:
            if usage is not None:
                usage = usage if reason else estimated(prompt, step, usage)
                self.spending.add(self.failover.provider, self.failover.model, usage)
        if reason is None:
            raise ProviderError
        return reason

    def _add_call(self, step: Step, event: ToolCall) -> None:
        arguments = parsed_arguments(event)
        call = Call(event.id, event.name, arguments)
        step.calls.append(call)
        if arguments is not None:
            self.feed.write(self.stream.tool_input(call.id, call.name, arguments))
        if arguments is None:
            call.outcome = Outcome(None, "The arguments are not a JSON object.", [])
        elif len(step.calls) > limits.CALLS_A_STEP:
            call.outcome = Outcome(None, f"At most {limits.CALLS_A_STEP} tools are run at once. Call it again.", [])

    async def _run_tools(self) -> None:
        """Run the last step's calls one after the other: openparliament.ca accepts one request at a time."""
        for call in self.answer.steps[-1].calls:
            if call.outcome is None:
                call.outcome = await self.tools.run(call.name, call.input, self.language)
            self.feed.write(outcome_events(self.stream, call))
