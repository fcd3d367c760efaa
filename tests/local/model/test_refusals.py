"""Keys, error statuses and invalid directives."""

import anthropic
import httpx2
import openai
import pytest

from tests.local.model.kit import GPT_TOOL, ask_claude, ask_gpt


async def test_a_missing_key_is_refused_in_the_providers_shape(plain: httpx2.AsyncClient) -> None:
    refused = await plain.get("/v1/models", headers={"anthropic-version": "2023-06-01"})
    assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")
    refused = await plain.post("/v1/messages", json={})
    assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")
    refused = await plain.post("/v1/responses", json={"input": "Hello"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_an_invalid_key_is_refused_on_every_path(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    wrong_claude, wrong_gpt = claude.with_options(api_key="sk-ant-invalid"), gpt.with_options(api_key="sk-invalid")
    with pytest.raises(anthropic.AuthenticationError) as refused:
        await wrong_claude.models.list(limit=1)
    assert (refused.value.type, bool(refused.value.request_id)) == ("authentication_error", True)
    with pytest.raises(anthropic.AuthenticationError):
        await ask_claude(wrong_claude, "Hello")
    with pytest.raises(openai.AuthenticationError) as rejected:
        await wrong_gpt.models.list()
    assert (rejected.value.code, bool(rejected.value.request_id)) == ("invalid_api_key", True)
    with pytest.raises(openai.AuthenticationError):
        await ask_gpt(wrong_gpt, "Hello")


async def test_an_exhausted_balance_refuses_answers_but_not_the_key(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    poor_claude, poor_gpt = claude.with_options(api_key="sk-ant-exhausted"), gpt.with_options(api_key="sk-exhausted")
    assert (await poor_claude.models.list(limit=1)).data
    assert (await poor_gpt.models.list()).data
    with pytest.raises(anthropic.BadRequestError, match="credit balance is too low") as refused:
        await ask_claude(poor_claude, "Hello")
    assert refused.value.type == "invalid_request_error"
    with pytest.raises(openai.RateLimitError) as rejected:
        await ask_gpt(poor_gpt, "Hello")
    assert (rejected.value.code, rejected.value.type) == ("insufficient_quota", "insufficient_quota")


@pytest.mark.parametrize(
    ("status", "anthropic_error", "kind", "openai_error", "code"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error", openai.BadRequestError, None),
        (401, anthropic.AuthenticationError, "authentication_error", openai.AuthenticationError, "invalid_api_key"),
        (
            403,
            anthropic.PermissionDeniedError,
            "permission_error",
            openai.PermissionDeniedError,
            "insufficient_permissions",
        ),
        (404, anthropic.NotFoundError, "not_found_error", openai.NotFoundError, "model_not_found"),
        (413, anthropic.APIStatusError, "request_too_large", openai.APIStatusError, "request_too_large"),
        (429, anthropic.RateLimitError, "rate_limit_error", openai.RateLimitError, "rate_limit_exceeded"),
        (500, anthropic.InternalServerError, "api_error", openai.InternalServerError, "server_error"),
        (503, anthropic.InternalServerError, "api_error", openai.InternalServerError, "server_is_overloaded"),
        (529, anthropic.InternalServerError, "overloaded_error", openai.InternalServerError, "server_error"),
    ],
)
async def test_a_status_is_refused_in_the_providers_shape(
    claude: anthropic.AsyncAnthropic,
    gpt: openai.AsyncOpenAI,
    status: int,
    anthropic_error: type[anthropic.APIStatusError],
    kind: str,
    openai_error: type[openai.APIStatusError],
    code: str | None,
) -> None:
    with pytest.raises(anthropic_error) as refused:
        await ask_claude(claude, f"[fault:status {status} 7]")
    assert (refused.value.status_code, refused.value.type) == (status, kind)
    assert refused.value.response.headers["retry-after"] == "7"
    with pytest.raises(openai_error) as rejected:
        await ask_gpt(gpt, f"[fault:status {status}]")
    assert (rejected.value.status_code, rejected.value.code) == (status, code)
    assert "retry-after" not in rejected.value.response.headers


async def test_overload_has_the_providers_status(claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI) -> None:
    with pytest.raises(anthropic.InternalServerError) as refused:
        await ask_claude(claude, "[fault:overloaded]")
    assert (refused.value.status_code, refused.value.type) == (529, "overloaded_error")
    with pytest.raises(openai.InternalServerError) as rejected:
        await ask_gpt(gpt, "[fault:overloaded]")
    assert (rejected.value.status_code, rejected.value.code) == (503, "server_is_overloaded")


async def test_a_too_long_prompt_is_refused_as_by_each_provider(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long") as refused:
        await ask_claude(claude, "[fault:too-long]")
    assert refused.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as rejected:
        await ask_gpt(gpt, "[fault:too-long]")
    assert rejected.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    "directive", ["[fault:dorp]", "[fault:status 200]", "[fault:stall]", "[fault:stall soon]", "[tool:search {]"]
)
async def test_an_invalid_directive_is_refused(gpt: openai.AsyncOpenAI, directive: str) -> None:
    with pytest.raises(openai.BadRequestError, match="cannot follow"):
        await ask_gpt(gpt, directive, tools=[GPT_TOOL])


async def test_a_body_that_is_not_json_is_refused(plain: httpx2.AsyncClient) -> None:
    for body in ("{", "[]", '{"input": [3]}'):
        assert (
            await plain.post("/v1/responses", content=body, headers={"authorization": "Bearer k"})
        ).status_code == 400
