"""Looks at a running service from outside: `make smoke URL=…`, also against the local stack.

It asks one question, which is charged to a user like any other: the user of SMOKE_EMAIL and SMOKE_PASSWORD, or of the
access token SMOKE_TOKEN. Without a user, and without STRIPE_WEBHOOK_SECRET, it leaves out what needs them and prints
that.
"""

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from infra.deploy import counterparts
from infra.deploy.counterparts import signature
from infra.deploy.secrets import SERVICE_KEY
from infra.deploy.stage import WITH_URL, DeployError, say

TIMEOUT_S = 60.0
EMPTY_WITHIN_S = 5.0  # a response without a body must end at once
# The text of a response that was buffered comes in one piece, otherwise while the model writes.
STREAMS_AT_LEAST = 0.02  # of the whole time between the first and the last piece with text
WITH_BROWSERS = ("chat", "keys", "checkout", "account")
QUESTION = "Which bills were voted on most recently?"


@dataclass(frozen=True, slots=True)
class Targets:
    """Where each function is, and what is needed to use it. `on_lambda`: whether Lambda's Web Adapter must be there."""

    urls: Mapping[str, str]
    token: str | None = None
    webhook_secret: str | None = None
    on_lambda: bool = False
    origins: tuple[str, ...] = ()

    @classmethod
    def at(cls, url: str, environ: Mapping[str, str]) -> "Targets":
        """Every function at one origin."""
        return cls.of(dict.fromkeys(WITH_URL, url.rstrip("/")), environ)

    @classmethod
    def of(cls, urls: Mapping[str, str], environ: Mapping[str, str], *, on_lambda: bool = False) -> "Targets":
        """Each function at its own URL."""
        origins = tuple(one.strip() for one in environ.get("ALLOWED_ORIGINS", "").split(",") if one.strip())
        secret = environ.get("STRIPE_WEBHOOK_SECRET") or None
        return cls(urls, sign_in(environ), secret, on_lambda, origins)


def sign_in(environ: Mapping[str, str]) -> str | None:
    """A new access token of SMOKE_EMAIL, otherwise SMOKE_TOKEN; None without a user.

    Raises DeployError if Auth refuses. Where CAPTCHA protection is on, only requests with the service key need none:
    https://github.com/supabase/auth/blob/master/internal/api/middleware.go
    """
    user = {"email": environ.get("SMOKE_EMAIL"), "password": environ.get("SMOKE_PASSWORD")}
    if not all(user.values()):
        return environ.get("SMOKE_TOKEN") or None
    url, key = environ.get("SUPABASE_URL"), environ.get(SERVICE_KEY) or environ.get("SUPABASE_ANON_KEY")
    if not url or not key:
        raise DeployError("SMOKE_EMAIL needs SUPABASE_URL and SUPABASE_ANON_KEY, where the user signs in.")
    try:
        answer = httpx.post(
            f"{url.rstrip('/')}/auth/v1/token?grant_type=password",
            json=user,
            headers=counterparts.supabase_headers(key),
            timeout=TIMEOUT_S,
        )
        token: str = answer.json()["access_token"]
    except (httpx.HTTPError, ValueError) as error:
        raise DeployError(f"Supabase Auth cannot sign SMOKE_EMAIL in ({type(error).__name__}).") from None
    except KeyError:
        raise DeployError(f"Supabase Auth refuses SMOKE_EMAIL (status {answer.status_code}).") from None
    return token


def run(targets: Targets) -> None:
    """Print each finding. Raises DeployError if one is wrong."""
    checks: list[tuple[str, Callable[[httpx.Client, Targets], str | None]]] = [
        ("every function answers /health", _health),
        ("the plans are read from the database", _plans),
        ("a chat without a token is refused", _refused_chat),
        ("an event with a wrong signature is refused", _refused_event),
        ("a signed event is accepted", _accepted_event),
        ("the empty response of a resume ends", _empty_response),
        ("browsers at ALLOWED_ORIGINS may call the functions", _preflights),
        ("the chat knows Lambda's deadline", _deadline),
        ("a question is answered, streamed and charged", _answered_chat),
    ]
    failures = 0
    with httpx.Client(timeout=TIMEOUT_S) as http:
        for title, check in checks:
            try:
                missing = check(http, targets)
            except Exception as error:  # noqa: BLE001 -- an answer of any other form is a finding
                failures += 1
                say("FAIL", f"{title}: {error if isinstance(error, DeployError) else type(error).__name__}")
            else:
                say("skip" if missing else "ok", f"{title}{f': {missing}' if missing else ''}")
    if failures:
        raise DeployError(f"{failures} of {len(checks)} checks failed.")


WITHOUT_USER = "there is no user: SMOKE_EMAIL and SMOKE_PASSWORD, or SMOKE_TOKEN"


def _health(http: httpx.Client, targets: Targets) -> None:
    for name in WITH_URL:
        answer = _expect(http.get(f"{targets.urls[name]}/health"), 200, name)
        if answer.headers.get("content-type") != "application/json" or answer.json() != {"status": "ok"}:
            raise DeployError(f"{name}: something else answers at {targets.urls[name]}")


def _plans(http: httpx.Client, targets: Targets) -> None:
    if not _expect(http.get(f"{targets.urls['checkout']}/plans"), 200).json()["plans"]:
        raise DeployError("there are none: the migrations have not run")


def _refused_chat(http: httpx.Client, targets: Targets) -> None:
    answer = _expect(http.post(f"{targets.urls['chat']}/chat", json=question()), 401)
    if answer.json()["error"]["code"] != "unauthenticated":
        raise DeployError("with another code than `unauthenticated`")


def _event() -> bytes:
    """A refund without a payment: the database stores that it came, and nothing else happens."""
    event = {"id": f"evt_smoke_{uuid.uuid4().hex}", "type": "refund.updated", "data": {"object": {}}}
    return json.dumps(event).encode()


def _refused_event(http: httpx.Client, targets: Targets) -> None:
    body = _event()
    headers = {"stripe-signature": signature("whsec_of_another_endpoint", body)}
    _expect(http.post(f"{targets.urls['webhooks']}/webhooks/stripe", content=body, headers=headers), 400)


def _accepted_event(http: httpx.Client, targets: Targets) -> str | None:
    if not targets.webhook_secret:
        return "STRIPE_WEBHOOK_SECRET is not set"
    for secret in targets.webhook_secret.split(","):
        body = _event()
        headers = {"stripe-signature": signature(secret.strip(), body)}
        url = f"{targets.urls['webhooks']}/webhooks/stripe"
        if (outcome := _expect(http.post(url, content=body, headers=headers), 200).json()["outcome"]) != "processed":
            raise DeployError(f"its outcome is `{outcome}`, not `processed`")
    return None


def _preflights(http: httpx.Client, targets: Targets) -> str | None:
    if not targets.origins:
        return "ALLOWED_ORIGINS is not set"
    for name in WITH_BROWSERS:
        for origin in targets.origins:
            headers = {"origin": origin, "access-control-request-method": "GET"}
            answer = http.options(f"{targets.urls[name]}/health", headers=headers)
            if answer.headers.get("access-control-allow-origin") != origin:
                raise DeployError(f"{name} refuses {origin}: an origin has no path and no slash at its end")
    return None


def _resume(http: httpx.Client, targets: Targets) -> httpx.Response:
    url = f"{targets.urls['chat']}/chat/{uuid.uuid4()}/stream"
    return http.get(url, headers=_authorization(targets), timeout=EMPTY_WITHIN_S)


def _empty_response(http: httpx.Client, targets: Targets) -> str | None:
    if not targets.token:
        return WITHOUT_USER
    try:
        _expect(_resume(http, targets), 204)
    except httpx.TimeoutException:
        raise DeployError("it does not: docs/deploy.md says how a page resumes without it") from None
    return None


def _deadline(http: httpx.Client, targets: Targets) -> str | None:
    if not targets.token:
        return WITHOUT_USER
    source = _expect(_resume(http, targets), 204).headers.get("x-deadline")
    if source != "lambda" and targets.on_lambda:
        raise DeployError("the Web Adapter's x-amzn-lambda-context does not arrive: every turn may last 170 s")
    return None if source == "lambda" else "this is not Lambda; every turn may last 170 s"


def _answered_chat(http: httpx.Client, targets: Targets) -> str | None:
    if not targets.token:
        return WITHOUT_USER
    started = time.monotonic()
    pieces: list[tuple[float, bytes]] = []
    with http.stream(
        "POST", f"{targets.urls['chat']}/chat", json=question(), headers=_authorization(targets)
    ) as answer:
        if answer.status_code != 200:
            answer.read()
            raise DeployError(_described(answer))
        pieces.extend((time.monotonic(), piece) for piece in answer.iter_raw())
    lines = b"".join(piece for _, piece in pieces).decode().splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    if error := next((event for event in events if event["type"] == "error"), None):
        raise DeployError(f"the answer ended with an error: {error.get('errorText')}")
    finish = next((event for event in events if event["type"] == "finish"), None)
    if finish is None or "data: [DONE]" not in lines:
        raise DeployError("the stream has no end")
    texts = [at for at, piece in pieces if b'"text-delta"' in piece]
    if not texts:
        raise DeployError("the answer has no text")
    first, last = pieces[0][0], pieces[-1][0]
    if texts[-1] - texts[0] < STREAMS_AT_LEAST * (last - started):
        raise DeployError("everything came at once: the URL's invokeMode and AWS_LWA_INVOKE_MODE must agree")
    metadata: dict[str, Any] = finish["messageMetadata"]
    if metadata.get("outcome") == "lost" or metadata["charged_usd"] is None:
        raise DeployError(f"it is not charged: the database could not settle it within {last - started:.0f} s")
    say(
        "note",
        f"{metadata['model']} began after {first - started:.1f} s and ended after {last - started:.1f} s; "
        f"paid by {metadata['funding']}",
    )
    return None


def question() -> dict[str, Any]:
    """The body of a chat's request."""
    parts = [{"type": "text", "text": QUESTION}]
    message = {"id": str(uuid.uuid4()), "role": "user", "parts": parts}
    return {"id": str(uuid.uuid4()), "messages": [message], "trigger": "submit-message"}


def _authorization(targets: Targets) -> dict[str, str]:
    return {"authorization": f"Bearer {targets.token}"}


def _expect(answer: httpx.Response, status: int, name: str = "") -> httpx.Response:
    if answer.status_code != status:
        raise DeployError(f"{name + ': ' if name else ''}{_described(answer)} instead of {status}")
    return answer


def _described(answer: httpx.Response) -> str:
    """The status, with the error's code where the body has one."""
    try:
        return f"status {answer.status_code} {answer.json()['error']['code']}"
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"
