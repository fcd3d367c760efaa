"""The stand-in for the model providers: Anthropic's Messages API and OpenAI's Responses API on one origin, offline.

The SDKs' `base_url` is http://host:port for anthropic and http://host:port/v1 for openai. Every key is accepted unless
it contains `invalid` or `exhausted`; one with `restricted` may answer, but not list models. After tools an answer is
written from their results, otherwise it quotes its question; it always states that no model was asked.

The last user message may contain directives: `[tool:NAME {"json": "arguments"}]` calls a tool once, `[tool-loop:NAME
{}]` calls it again after every result, and `[fault:NAME]` makes the reply fail (see FAULTS). Without a directive, a
postal code, a bill's number or a few words call the tool that `choose_tool` returns. `GET /_requests` returns the
requests received. `POST /_fault` applies a directive to every request until it is replaced.
"""

from infra.local.model.faults import FAULTS
from infra.local.model.reply import answer
from infra.local.model.server import create_app
from infra.local.model.text import tokens

__all__ = ["FAULTS", "answer", "create_app", "tokens"]
