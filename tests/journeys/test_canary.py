"""Users' own keys go through every ending there is, and are then searched for everywhere but at their provider.

A planted key in every place that is searched shows that the search works there.
"""

import errno
import gc
import io
import json
import logging
import os
import traceback
import uuid
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest

from functions.chat import limits
from functions.chat.chat import Chat
from functions.chat.providers import Event, Opened, Prompt, Provider, Providers, Text
from functions.chat.request import ChatRequest
from functions.chat.settings import ChatSettings
from functions.chat.sources import Parliament
from functions.common.database import Database
from functions.common.errors import AppError, Internal, ProviderTimeout
from functions.common.observe import Observer
from functions.common.settings import load, load_vault
from functions.common.vault import PlainKey
from functions.keys import handler as keys_handler
from infra.local.stack import Config, Stack, free_offset, running
from tests.api import Api, StateOf, question
from tests.conftest import Person, copy_stack
from tests.journeys.canary_kit import PLACES, CanaryKeys, Observation, logs, plant
from tests.own_keys import ENCRYPTION, store_key

People = Callable[..., Person]
PROVIDERS = ("anthropic", "openai")
CLIENTS = 6

# The highest log levels of the SDKs, asyncio and the logger, as used for debugging.
VERBOSE = {
    "ANTHROPIC_LOG": "debug",
    "OPENAI_LOG": "debug",
    "POWERTOOLS_LOG_LEVEL": "DEBUG",
    "AWS_LAMBDA_LOG_LEVEL": "DEBUG",
    "POWERTOOLS_LOGGER_LOG_EVENT": "true",
    "LOG_LEVEL": "DEBUG",
    "DEBUG": "1",
    "PYTHONASYNCIODEBUG": "1",
    "PYTHONDEVMODE": "1",
    "PYTHONFAULTHANDLER": "1",
}

ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "as it is": lambda key: key.encode(),
    "its first half": lambda key: key[: len(key) // 2].encode(),
    "its second half": lambda key: key[len(key) // 2 :].encode(),
    "backwards": lambda key: key[::-1].encode(),
    "hex": lambda key: key.encode().hex().encode(),
    "Postgres's bytea": lambda key: b"\\x" + key.encode().hex().encode(),
    "HEX": lambda key: key.encode().hex().upper().encode(),
    "URL encoding": lambda key: quote(key, safe="").encode(),
    "base64": lambda key: b64encode(key.encode()),
    "a header's base64": lambda key: b64encode(f"user:{key}".encode()),
    "base64 of JSON": lambda key: b64encode(json.dumps({"api_key": key}).encode()),
    "base64url": lambda key: urlsafe_b64encode(f"?{key}".encode()),
    "JSON": lambda key: json.dumps({"api_key": key}).encode(),
    "repr": lambda key: repr({"api_key": key}).encode(),
    "UTF-16": lambda key: key.encode("utf-16-le"),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_search_recognises_a_key_in_every_encoding(encoding: str) -> None:
    canaries, another = CanaryKeys(), CanaryKeys()
    place = b"before \x00" + ENCODINGS[encoding](canaries.key("this")) + b"\xff after"
    assert canaries.traces(place)
    assert not another.traces(place)


def test_the_hint_is_not_reported_as_a_trace() -> None:
    canaries = CanaryKeys()
    assert canaries.traces(f"{canaries.key('this')[-4:]} sk- this".encode()) == []


@pytest.fixture(scope="module")
def planted() -> CanaryKeys:
    """Keys that are put in every place, so that the search must find them."""
    return CanaryKeys()


@pytest.fixture(scope="module")
def stack(stopped_stack: Path, tmp_path_factory: pytest.TempPathFactory, planted: CanaryKeys) -> Iterator[Stack]:
    """A stack that logs as much as possible: SDKs in debug mode, every statement in Postgres."""
    environ = {**VERBOSE, **ENCRYPTION, "PLANTED": planted.key("environment")}
    folder = copy_stack(stopped_stack, tmp_path_factory.mktemp("stack"))
    config = Config(folder, offset=free_offset(), durable=False, environ=environ)
    with running(config) as stack:
        with psycopg.connect(stack.postgres.url("supabase_admin"), autocommit=True) as db:
            for setting, level in {
                "log_statement": "all",
                "log_min_messages": "debug1",
                "log_error_verbosity": "verbose",
                "log_parameter_max_length": "-1",
                "log_parameter_max_length_on_error": "-1",
                "track_activity_query_size": "1MB",  # at the next start only
            }.items():
                db.execute(f"alter system set {setting} = '{level}'".encode())
            db.execute("select pg_reload_conf()")
        yield stack


# The provider's fault in a chat with an own key, and the status of the JSON answer.
ENDINGS = {
    "": 200,
    "[fault:max-tokens]": 200,
    "[fault:refusal]": 200,
    "[fault:status 400]": 502,
    "[fault:status 401]": 422,
    "[fault:status 403]": 502,
    "[fault:status 404]": 422,
    "[fault:status 429 7]": 429,
    "[fault:status 500]": 502,
    "[fault:status 504]": 504,
    "[fault:overloaded]": 503,
    "[fault:error-event]": 503,
    "[fault:drop]": 502,
    "[fault:early-end]": 502,
    "[fault:bad-json]": 502,
    "[fault:empty]": 502,
}


@dataclass(frozen=True, slots=True)
class Scenarios:
    """What happens to canary keys. Every scenario asserts its outcome."""

    observation: Observation
    canaries: CanaryKeys
    person: People
    state_of: StateOf
    eventually: Callable[..., None]

    @property
    def api(self) -> Api:
        return self.observation.api

    def put(self, person: Person, provider: str, name: str, status: int = 200) -> None:
        body = {"api_key": self.canaries.key(name)}
        response = self.api.http.put(f"/keys/{provider}", json=body, headers=person.headers)
        assert response.status_code == status, response.text

    def validate(self, person: Person, provider: str, status: int = 200) -> None:
        response = self.api.http.post(f"/keys/{provider}/validate", headers=person.headers)
        assert response.status_code == status, response.text

    def owner(self, provider: str, name: str) -> Person:
        """A user with a stored key."""
        person = self.person("basic")
        self.put(person, provider, name)
        return person

    def chat(self, person: Person, provider: str, text: str, status: int, **fields: Any) -> None:
        """Chat with a JSON answer, then with a stream. A rejected key is validated in between."""
        body = question(f"Explain it {text}", provider=provider, **fields)
        assert self.api.chat(person, body).status_code == status
        if status == 422 and "[" in text:
            self.validate(person, provider)
        self.api.http.post("/chat", json=question(f"Explain it {text}", provider=provider), headers=person.headers)

    def chat_ends(self, provider: str, text: str) -> None:
        """A chat that ends with a fault of the provider."""
        self.chat(self.owner(provider, "valid"), provider, text, ENDINGS[text])

    def key_is_rejected(self, provider: str) -> None:
        """A key that the provider rejects, and an account without credit."""
        person = self.person("basic")
        store_key(self.observation.stack, person, self.canaries.key("invalid"), provider)
        self.chat(person, provider, "", 422)
        self.validate(person, provider)
        self.chat(self.owner(provider, "exhausted"), provider, "", 402)

    def key_is_replaced_and_deleted(self, provider: str) -> None:
        person = self.owner(provider, "first")
        self.put(person, provider, "second")
        self.put(person, provider, "invalid-third", 422)
        self.validate(person, provider)
        self.chat(person, provider, "", 200)
        for _ in range(2):
            response = self.api.http.delete(f"/keys/{provider}", headers=person.headers)
            assert response.status_code == 200
        self.validate(person, provider, 404)
        self.put(self.person("free"), provider, "of-a-free-user", 403)

    def key_is_read(self, provider: str) -> None:
        """By its owner and by the service role."""
        person = self.owner(provider, "read")
        info = self.observation.stack.info
        rest, service = f"{info['supabase_url']}/rest/v1", info["service_role_key"]
        with httpx.Client(event_hooks={"response": [self.observation.record]}, timeout=30) as http:
            for token in (person.token, service):
                headers = {"apikey": info["anon_key"], "authorization": f"Bearer {token}"}
                for columns in ("*", "provider,hint,is_active,validation_error", "encrypted_key"):
                    http.get(f"{rest}/user_api_keys?select={columns}", headers=headers)
                http.post(f"{rest}/rpc/list_api_keys", json={}, headers=headers)
                params = {"p_user_id": person.id, "p_provider": provider}
                http.post(f"{rest}/rpc/get_api_key", json=params, headers=headers)
        assert self.api.http.get("/keys", headers=person.headers).status_code == 200

    def key_is_misplaced(self, provider: str) -> None:
        """In malformed bodies, and in places where no key belongs."""
        person, key, path = self.person("basic"), self.canaries.key("mistaken"), f"/keys/{provider}"
        http = self.api.http
        for content, status in (
            (json.dumps({"api_key": f"{key} {key}"}), 422),
            (json.dumps({"api_key": f"{key}\0"}), 422),
            (json.dumps({"api_key": f"{key}é"}), 422),
            (json.dumps({"api_key": key * 20}), 422),
            (json.dumps({"api_key": [key]}), 422),
            (json.dumps({"api_key": {key: key}}), 422),
            (json.dumps({"key": key}), 422),
            (json.dumps({key: key}), 422),
            (json.dumps(key), 422),
            (f'{{"api_key": "{key}', 400),
            (f"api_key={key}", 400),
            (json.dumps({"api_key": key * 10_000}), 413),
        ):
            assert http.put(path, content=content, headers=person.headers).status_code == status
        body = {"api_key": key}
        assert http.put("/keys/mistral", json=body, headers=person.headers).status_code == 404
        assert http.post(path, json=body, headers=person.headers).status_code == 405
        assert http.put(path, json=body).status_code == 401
        assert http.put(path, json=body, headers={"authorization": f"Bearer {key}"}).status_code == 401
        assert http.get("/keys", params=body, headers={**person.headers, "x-api-key": key}).status_code == 200
        bad = question("Hi", provider=provider, api_key=key, language=key)
        assert self.api.chat(person, bad).status_code == 422

    def model_is_not_in_the_plan(self, provider: str) -> None:
        model = {"anthropic": "claude-opus-5-5", "openai": "gpt-6-astra"}[provider]
        self.chat(self.owner(provider, "valid"), provider, "", 422, model=model)

    def client_disconnects(self, provider: str) -> None:
        """In the middle of an answer, and before its start."""
        person = self.owner(provider, "left")
        with httpx.Client(base_url=self.api.http.base_url, timeout=30) as http:
            body = question("At length [fault:slow 0.05]", provider=provider)
            with http.stream("POST", "/chat", json=body, headers=person.headers) as response:
                lines = response.iter_lines()
                self.observation.received.append(next(line for line in lines if "text-delta" in line).encode())
            body = question("At last [fault:stall-before 2]", provider=provider)
            with suppress(httpx.ReadTimeout):
                http.post("/chat", json=body, headers=person.headers, timeout=0.5)
        self.eventually(lambda: self.state_of(person).outcomes == ["answered", "answered"])

    def our_own_faults(self, provider: str) -> None:
        """The database refuses each write, and a stored key cannot be decrypted."""
        at_put, at_history, at_settle, at_note, at_decrypt = (self.person("basic") for _ in range(5))
        for person in (at_history, at_settle, at_note, at_decrypt):
            self.put(person, provider, "unlucky")
        with psycopg.connect(self.observation.stack.postgres.url(), autocommit=True) as db:
            for number, (table, when, value) in enumerate(
                [
                    ("user_api_keys", "insert", f"new.user_id = '{at_put.id}'"),
                    ("conversations", "insert", f"new.user_id = '{at_history.id}'"),
                    ("usage_logs", "insert", f"new.user_id = '{at_settle.id}'"),
                    ("user_api_keys", "update", f"new.user_id = '{at_note.id}'"),
                ]
            ):
                name = f"refuse_{provider}_{number}"
                db.execute(
                    f"create function private.{name}() returns trigger language plpgsql as"
                    " $$ begin raise exception 'not this one: %', new using errcode = 'check_violation'; end $$;"
                    f"create trigger {name} before {when} on public.{table} for each row"
                    f" when ({value}) execute function private.{name}()".encode()
                )
            db.execute(
                "update public.user_api_keys set encryption_tag = '0123456789abcdef' where user_id = %s",
                (at_decrypt.id,),
            )
        self.put(at_put, provider, "unlucky", 500)
        self.chat(at_history, provider, "", 200)
        self.api.chat(at_settle, question("Well?", provider=provider))
        self.api.chat(at_settle, question("Well? [fault:drop]", provider=provider))
        assert self.api.chat(at_note, question("Well? [fault:status 401]", provider=provider)).status_code == 422
        self.validate(at_decrypt, provider, 422)
        self.chat(at_decrypt, provider, "", 422)

    def run_all(self) -> None:
        """Run every scenario for both providers, several at a time."""
        steps = (
            self.key_is_rejected, self.key_is_replaced_and_deleted, self.key_is_read, self.key_is_misplaced,
            self.model_is_not_in_the_plan, self.client_disconnects, self.our_own_faults,
        )  # fmt: skip
        with ThreadPoolExecutor(CLIENTS) as pool:
            runs = [pool.submit(step, provider) for step in steps for provider in PROVIDERS]
            runs += [pool.submit(self.chat_ends, provider, text) for text in ENDINGS for provider in PROVIDERS]
            for run in runs:
                run.result()


@pytest.mark.timeout(300)
def test_no_key_appears_anywhere_but_at_its_provider(
    stack: Stack, person: People, state_of: StateOf, eventually: Callable[..., None], planted: CanaryKeys
) -> None:
    canaries = CanaryKeys()
    with httpx.Client(base_url=stack.info["functions_url"], timeout=60) as http:
        observation = Observation(stack, Api(http, stack.info["model_url"]))
        http.event_hooks = {"response": [observation.record]}
        with observation.watching():
            Scenarios(observation, canaries, person, state_of, eventually).run_all()
            plant(observation, planted, person("basic"), eventually)
        with psycopg.connect(stack.postgres.url("supabase_admin"), autocommit=True) as db:
            db.execute("checkpoint")

        # The logs are verbose, and show that every path was taken.
        texts_of_logs = {name: text.decode(errors="replace") for name, text in logs(observation)}
        for line in (
            "Request options", "HTTP Response", '"HoldsLeftToExpire"', "hold left to expire", "turn not stored",
            "rejected key not noted", "own key not decrypted",
        ):  # fmt: skip
            assert line in texts_of_logs["functions.log"], line
        for function in ("admit_query", "put_api_key", "note_api_key", "settle_query", "release_query"):
            assert function in texts_of_logs["postgres.log"], function
        assert "Parameters: $1" in texts_of_logs["postgres.log"]

        found = {place.__name__: list(place(observation)) for place in PLACES}
    assert [place for place, texts in found.items() if not any(planted.traces(text) for _, text in texts)] == []
    leaks = {
        f"{place}: {name}": traces
        for place, texts in found.items()
        for name, text in texts
        if (traces := canaries.traces(text))
    }
    assert leaks == {}


# Faults that only this process can cause ---------------------------------------------------------------


def exception_with(kind: type[BaseException], plain: str) -> BaseException:
    """An exception with a key in its message."""
    if kind is ExceptionGroup:
        return ExceptionGroup(f"two attempts with {plain}", [ValueError(plain), KeyError(plain)])
    return kind(f"cannot use {plain}")


@dataclass(slots=True)
class LeakingProvider:
    """In place of all providers: fails with the key in the exception's message, its arguments and its locals."""

    kind: type[BaseException]
    at_once: bool
    platform = ("anthropic", "openai")
    raised: BaseException | None = None

    def get(self, name: str) -> Provider:
        return self

    async def stream(self, prompt: Prompt, own_key: PlainKey | None = None) -> AsyncGenerator[Event, None]:
        assert own_key is not None
        plain = own_key.reveal()
        if not self.at_once:
            yield Opened()
            yield Text("Well, ")
        self.raised = exception_with(self.kind, plain)
        raise self.raised

    async def close(self) -> None:
        pass


class Panic(BaseException):
    """A BaseException, as extensions written in Rust raise."""


Output = Callable[[], bytes]


@pytest.fixture
def output(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Output:
    """Everything that this process has written and logged, at every level."""
    caplog.set_level(logging.DEBUG)

    def read() -> bytes:
        captured = capfd.readouterr()
        logged = caplog.text + "".join(str(vars(record)) for record in caplog.records)
        return f"{captured.out}{captured.err}{logged}".encode()

    return read


@pytest.fixture
def environ(stack: Stack) -> Mapping[str, str]:
    """The environment of the functions."""
    return {
        "SUPABASE_URL": stack.info["supabase_url"],
        "SUPABASE_ANON_KEY": stack.info["publishable_key"],
        "SUPABASE_SERVICE_ROLE_KEY": stack.info["secret_key"],
        "ANTHROPIC_API_KEY": "of-the-platform",
        "ANTHROPIC_BASE_URL": stack.info["model_url"],
        "OPENAI_API_KEY": "of-the-platform",
        "OPENAI_BASE_URL": f"{stack.info['model_url']}/v1",
        **ENCRYPTION,
    }


@asynccontextmanager
async def chatting(environ: Mapping[str, str]) -> AsyncIterator[Chat]:
    """The chat. Not a fixture, because its logger uses the standard output at the time of its creation."""
    settings = load(ChatSettings, environ)
    # A unique name, because powertools reuses a logger of the same name with its old stream.
    observer = Observer(f"canary-{uuid.uuid4()}")
    parliament = Parliament.at(settings.addresses, settings.contact)
    chat = Chat(Database(settings, observer), Providers(settings), parliament, load_vault(environ), observer)
    yield chat
    await chat.close()


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "in the middle"])
@pytest.mark.parametrize("kind", [RuntimeError, TimeoutError, OSError, ExceptionGroup, Panic])
async def test_an_exception_with_the_key_is_reported_without_it(
    stack: Stack,
    person: People,
    state_of: StateOf,
    output: Output,
    environ: Mapping[str, str],
    kind: type[BaseException],
    at_once: bool,
) -> None:
    canaries, user, provider = CanaryKeys(), person("basic"), LeakingProvider(kind, at_once)
    store_key(stack, user, canaries.key("valid"), "anthropic")
    body = question("Hi", provider="anthropic")
    async with chatting(environ) as chat:
        chat.providers = provider  # type: ignore[assignment]
        feed = chat.start(user.id, ChatRequest.model_validate(body))
        with pytest.raises((Internal, ProviderTimeout)) as caught:
            await feed.answer()
        raised = f"{caught.value}{caught.value!r}{caught.value.sentence('en')}".encode()
        streamed = b"".join([chunk async for chunk in feed.read(60)])
    assert state_of(user).outcomes == ["failed"]
    gc.collect()  # asyncio reports the exception of a task when the task is collected
    output_bytes = output()
    assert b'"message":"query"' in output_bytes
    assert canaries.traces(raised + streamed + output_bytes) == []

    # The exception contains the key: in its text, and in the locals of its frames.
    assert provider.raised is not None
    full_traceback = traceback.TracebackException.from_exception(provider.raised, capture_locals=True)
    assert canaries.traces(repr(provider.raised).encode())
    assert canaries.traces("".join(full_traceback.format()).encode())


class FullDisk(io.StringIO):
    """A log stream without space."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_a_failing_log_stream_does_not_print_the_key(
    stack: Stack, person: People, output: Output, environ: Mapping[str, str]
) -> None:
    """By default Python prints such a failure to stderr, with the exception that is being handled."""
    canaries, user = CanaryKeys(), person("basic")
    store_key(stack, user, canaries.key("valid"), "anthropic")
    async with chatting(environ) as chat:
        chat.providers = LeakingProvider(RuntimeError, at_once=True)  # type: ignore[assignment]
        chat.observer._logger.registered_handler.setStream(FullDisk())  # type: ignore[attr-defined]
        feed = chat.start(user.id, ChatRequest.model_validate(question("Hi", provider="anthropic")))
        with pytest.raises(Internal):
            await feed.answer()
    assert canaries.traces(output()) == []


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("fault", ["stall-before 60", "stall 60", "drop", "status 401", "status 429", "bad-json"])
async def test_a_broken_provider_is_reported_without_the_key(
    stack: Stack,
    person: People,
    state_of: StateOf,
    output: Output,
    environ: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
    provider: str,
    fault: str,
) -> None:
    monkeypatch.setattr(limits, "PROVIDER_SILENCE_S", 0.5)
    canaries, user = CanaryKeys(), person("basic")
    store_key(stack, user, canaries.key("valid"), provider)
    body = question(f"Hi [fault:{fault}]", provider=provider)
    async with chatting(environ) as chat:
        feed = chat.start(user.id, ChatRequest.model_validate(body))
        with pytest.raises(AppError) as caught:
            await feed.answer()
        raised = "".join(traceback.format_exception(caught.value)).encode()
        streamed = b"".join([chunk async for chunk in feed.read(60)])
    assert state_of(user).outcomes == ["failed"]
    output_bytes = output()
    assert b'"message":"query"' in output_bytes
    assert canaries.traces(raised + streamed + output_bytes) == []


@pytest.mark.parametrize("kind", [RuntimeError, KeyError, ExceptionGroup])
async def test_a_failing_key_check_is_reported_without_the_key(
    person: People, output: Output, environ: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    canaries, user = CanaryKeys(), person("basic")
    exceptions: list[BaseException] = []

    async def check(provider: str, key: PlainKey, settings: Any) -> None:
        plain = key.reveal()
        exceptions.append(exception_with(kind, plain))
        raise exceptions[-1]

    monkeypatch.setattr(keys_handler, "check", check)
    monkeypatch.setattr(keys_handler, "Observer", lambda name: Observer(f"{name}-{uuid.uuid4()}"))
    monkeypatch.setattr(keys_handler, "read_environment", lambda: dict(environ))
    app = keys_handler.create()
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://keys") as http,
    ):
        response = await http.put("/keys/openai", json={"api_key": canaries.key("valid")}, headers=user.headers)
    assert (response.status_code, response.json()["error"]["message"]) == (500, Internal().sentence("en"))
    assert canaries.traces(str(exceptions[0]).encode())
    output_bytes = output()
    assert b"unexpected failure" in output_bytes
    assert canaries.traces(output_bytes + response.content + repr(response.headers).encode()) == []
