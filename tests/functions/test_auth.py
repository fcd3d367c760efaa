"""Authentication: a token that fails any check is refused."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from functions.common import auth
from functions.common.errors import Unauthenticated, Unavailable
from functions.common.observe import Observer
from functions.common.settings import SupabaseSettings, load
from infra.local.auth import SigningKey, load_or_create_key
from infra.local.stack import Stack
from tests.api import Api, question
from tests.conftest import Person
from tests.servers import listening, serve_http, trickle
from tests.sql.metering import Db

People = Callable[..., Person]
SECRET = "a-legacy-project-secret-of-enough-characters"


@pytest.fixture
def key(stack: Stack) -> SigningKey:
    """The stack's signing key."""
    return load_or_create_key(stack.config.folder / "signing-key.pem")


@pytest.fixture
def claims(stack: Stack, person: People) -> dict[str, Any]:
    """The claims of a valid token."""
    now = int(time.time())
    return {
        "iss": f"{stack.info['supabase_url']}/auth/v1",
        "sub": person("basic").id,
        "aud": "authenticated",
        "role": "authenticated",
        "iat": now,
        "exp": now + 600,
    }


def b64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def public_pem(key: SigningKey) -> bytes:
    return key.private_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def hmac_token(header: dict[str, Any], claims: dict[str, Any], secret: bytes) -> str:
    """A token that is signed with HMAC-SHA256, whatever its header says."""
    signing_input = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}"
    return f"{signing_input}.{b64(hmac.new(secret, signing_input.encode(), hashlib.sha256).digest())}"


def signed_with_public_key_as_secret(key: SigningKey, claims: dict[str, Any]) -> str:
    """The algorithm confusion attack, which PyJWT refuses to encode."""
    return hmac_token({"alg": "HS256", "typ": "JWT", "kid": key.public_jwk["kid"]}, claims, public_pem(key))


def unsigned(claims: dict[str, Any]) -> str:
    return f"{b64(json.dumps({'alg': 'none', 'typ': 'JWT'}).encode())}.{b64(json.dumps(claims).encode())}."


def signed_with_another_key(claims: dict[str, Any], kid: object) -> str:
    another_key = ec.generate_private_key(ec.SECP256R1())
    return jwt.encode(claims, another_key, "ES256", headers={"kid": kid})


Forge = Callable[[SigningKey, dict[str, Any]], str]
FORGERIES: dict[str, Forge] = {
    "wrong audience": lambda key, claims: key.sign({**claims, "aud": "anon"}),
    "no audience": lambda key, claims: key.sign({k: v for k, v in claims.items() if k != "aud"}),
    "wrong issuer": lambda key, claims: key.sign({**claims, "iss": "https://evil.example/auth/v1"}),
    "expired": lambda key, claims: key.sign({**claims, "exp": claims["iat"] - 31}),
    "no expiry": lambda key, claims: key.sign({k: v for k, v in claims.items() if k != "exp"}),
    "issued in the future": lambda key, claims: key.sign({**claims, "iat": claims["iat"] + 300}),
    "not valid yet": lambda key, claims: key.sign({**claims, "nbf": claims["iat"] + 300}),
    "service role": lambda key, claims: key.sign({**claims, "role": "service_role"}),
    "anonymous role": lambda key, claims: key.sign({**claims, "role": "anon"}),
    "no role": lambda key, claims: key.sign({k: v for k, v in claims.items() if k != "role"}),
    "a session that is not a session id": lambda key, claims: key.sign({**claims, "session_id": 7}),
    "no subject": lambda key, claims: key.sign({k: v for k, v in claims.items() if k != "sub"}),
    "a subject that is not a user id": lambda key, claims: key.sign({**claims, "sub": "me"}),
    "alg none": lambda key, claims: unsigned(claims),
    "public key as HMAC secret": signed_with_public_key_as_secret,
    "signed with another key": lambda key, claims: signed_with_another_key(claims, key.public_jwk["kid"]),
    "unknown key id": lambda key, claims: signed_with_another_key(claims, "unknown"),
    "truncated": lambda key, claims: key.sign(claims)[:-10],
    "not a token": lambda key, claims: "token",
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_an_invalid_token_is_refused(api: Api, key: SigningKey, claims: dict[str, Any], forgery: str) -> None:
    headers = {"authorization": f"Bearer {FORGERIES[forgery](key, claims)}"}
    response = api.http.post("/chat", json=question("Let me in"), headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (401, "unauthenticated")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Basic dXNlcjpwYXNz", "Token x"])
def test_a_request_without_a_token_is_refused(api: Api, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header}
    assert api.http.get("/usage", headers=headers).status_code == 401


def test_the_keys_of_the_project_are_not_users(api: Api, stack: Stack) -> None:
    for name in ("anon_key", "service_role_key", "publishable_key", "secret_key"):
        response = api.http.get("/usage", headers={"authorization": f"Bearer {stack.info[name]}"})
        assert response.status_code == 401


def test_authentication_precedes_parsing_the_body(api: Api) -> None:
    assert api.http.post("/chat", content=b"{").status_code == 401


def test_a_valid_token_is_accepted(api: Api, key: SigningKey, claims: dict[str, Any]) -> None:
    headers = {"authorization": f"bearer {key.sign(claims)}"}
    assert api.http.get("/usage", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ("update auth.users set banned_until = now() + interval '1 day' where id = %s", (403, "account_blocked")),
        ("update auth.users set email_confirmed_at = null where id = %s", (403, "email_not_confirmed")),
        ("update auth.users set is_anonymous = true where id = %s", (403, "email_not_confirmed")),
        ("update auth.users set deleted_at = now() where id = %s", (401, "unauthenticated")),
        ("delete from auth.users where id = %s", (401, "unauthenticated")),
    ],
)
def test_a_valid_token_ends_with_its_account(
    api: Api, stack_db: Db, person: People, change: str, refusal: tuple[int, str]
) -> None:
    user = person("free")
    assert api.chat(user, question("Before")).status_code == 200
    stack_db.execute(change, (user.id,))
    response = api.http.post("/chat", json=question("After"), headers=user.headers)
    assert (response.status_code, response.json()["error"]["code"]) == refusal


def test_signing_out_everywhere_ends_the_chat_of_its_tokens(
    api: Api, stack: Stack, sign_up: Callable[[str], Person]
) -> None:
    user = sign_up("basic")
    assert api.chat(user, question("Before")).status_code == 200
    url = f"{stack.info['supabase_url']}/auth/v1/logout?scope=global"
    assert httpx.post(url, headers={**user.headers, "apikey": stack.info["publishable_key"]}).status_code == 204
    response = api.http.post("/chat", json=question("After"), headers=user.headers)
    assert (response.status_code, response.json()["error"]["code"]) == (401, "unauthenticated")


# Other signing configurations, without the stack.


def verifier_of(url: str = "http://127.0.0.1:9", **more: str) -> auth.Verifier:
    """The verifier of a project. Nothing listens on port 9."""
    environment = {"SUPABASE_URL": url, "SUPABASE_ANON_KEY": "anon", "SUPABASE_SERVICE_ROLE_KEY": "service", **more}
    return auth.Verifier(load(SupabaseSettings, environment), Observer("auth-test"))


def claims_of_user(**claims: Any) -> dict[str, Any]:
    now = int(time.time())
    return {
        "iss": "http://127.0.0.1:9/auth/v1",
        "sub": "6f1c8f5e-7f0a-4f0e-9d0a-0c6b3f1f7c11",
        "aud": "authenticated",
        "role": "authenticated",
        "iat": now,
        "exp": now + 60,
        **claims,
    }


@dataclass
class Clock:
    """What auth.py uses of the time module."""

    passed_s: float = 0

    def time(self) -> float:
        return time.time() + self.passed_s

    def monotonic(self) -> float:
        return time.monotonic() + self.passed_s


@pytest.mark.parametrize("claim", ["iat", "nbf", "exp"])
async def test_times_have_the_leeway_of_postgrest(claim: str) -> None:
    verifier, now = verifier_of(SUPABASE_JWT_SECRET=SECRET), int(time.time())
    sign = -1 if claim == "exp" else 1
    accepted, refused = ({claim: now + sign * (auth.LEEWAY_S + more)} for more in (-20, 20))
    assert (await verifier.verify(jwt.encode(claims_of_user(**accepted), SECRET, "HS256"))).id
    with pytest.raises(Unauthenticated):
        await verifier.verify(jwt.encode(claims_of_user(**refused), SECRET, "HS256"))


@dataclass
class Project:
    """A project whose JWKS the test may change. `body` replaces it; `fetched` are the requested paths."""

    url: str = ""
    keys: list[dict[str, Any]] = field(default_factory=list)
    body: bytes | None = None
    fetched: list[str] = field(default_factory=list)

    def publish(self, private: Any, kid: str, **more: str) -> None:
        """Publish the public key of a private key."""
        algorithm = (
            jwt.algorithms.RSAAlgorithm if isinstance(private, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
        )
        self.keys.append({**algorithm.to_jwk(private.public_key(), as_dict=True), "kid": kid, **more})

    def claims(self, **claims: Any) -> dict[str, Any]:
        """The claims of a token of the project."""
        return claims_of_user(iss=f"{self.url}/auth/v1", **claims)

    def token(self, private: Any, kid: str, algorithm: str = "ES256", **claims: Any) -> str:
        """A token of the project."""
        return jwt.encode(self.claims(**claims), private, algorithm, {"kid": kid})


@pytest.fixture
def project() -> Iterator[Project]:
    """A project without keys."""
    project = Project()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            project.fetched.append(self.path)
            body = json.dumps({"keys": project.keys}).encode() if project.body is None else project.body
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with serve_http(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as project.url:
        yield project


async def test_two_secrets_are_valid_while_one_replaces_the_other() -> None:
    old, new = "old-" * 8, "new-" * 8
    verifier = verifier_of(SUPABASE_JWT_SECRET=f"{new},{old}")
    for secret in (old, new):
        assert (await verifier.verify(jwt.encode(claims_of_user(), secret, "HS256"))).id
    for token in (jwt.encode(claims_of_user(), "bad-" * 8, "HS256"), jwt.encode(claims_of_user(), old, "HS256") + "é"):
        with pytest.raises(Unauthenticated):
            await verifier.verify(token)


async def test_a_project_may_have_a_secret_and_published_keys(project: Project) -> None:
    """As while it moves from one to the other. No key verifies a token of another's algorithm."""
    elliptic, rsa_key, other = (
        ec.generate_private_key(ec.SECP256R1()),
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP256R1()),
    )
    project.publish(elliptic, "1")
    project.publish(rsa_key, "2")
    project.keys.append({"kty": "oct", "kid": "3", "k": b64(SECRET.encode()), "alg": "HS256"})
    verifier = verifier_of(project.url, SUPABASE_JWT_SECRET=SECRET)
    for token in (
        jwt.encode(project.claims(), SECRET, "HS256"),
        jwt.encode(project.claims(), SECRET, "HS256", {"kid": "1"}),
        project.token(elliptic, "1"),
        project.token(rsa_key, "2", "RS256"),
    ):
        for _ in range(2):  # verified, remembered
            assert (await verifier.verify(token)).id == project.claims()["sub"]
    pem = elliptic.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for token in (
        hmac_token({"alg": "HS256", "kid": "1"}, project.claims(), pem),
        hmac_token({"alg": "ES256", "kid": "3"}, project.claims(), SECRET.encode()),
        hmac_token({"alg": "RS256", "kid": "2"}, project.claims(), SECRET.encode()),
        jwt.encode(project.claims(), SECRET * 2, "HS512", {"kid": "3"}),
        jwt.encode(project.claims(), "another-secret-of-quite-enough-characters", "HS256"),
        jwt.encode(project.claims(aud="anon"), SECRET, "HS256"),
        jwt.encode(project.claims(), elliptic, "ES256"),
        project.token(elliptic, "2"),
        project.token(rsa_key, "2", "PS256"),
        project.token(other, "1"),
        unsigned(project.claims()),
    ):
        with pytest.raises(Unauthenticated):
            await verifier.verify(token)
    with pytest.raises(Unauthenticated):  # without the secret, the published one is none
        await verifier_of(project.url).verify(jwt.encode(project.claims(), SECRET, "HS256", {"kid": "3"}))


NAMELESS = b'{"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", %s"x": "%s", "y": "%s"}]}'
POINT = (b"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", b"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0")


@pytest.mark.parametrize(
    "body",
    [
        *(b'{"keys": []}', b"{}", b"[]", b"<html>Log in to the network</html>", b"\xff", b"", b"[" * 5_000),
        *(NAMELESS % (kid, *POINT) for kid in (b"", b'"kid": 1, ', b'"kid": null, ')),
    ],
)
async def test_missing_keys_are_our_failure(
    project: Project, body: bytes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the project's keys, no token can be called invalid, whatever its algorithm."""
    clock = Clock()
    monkeypatch.setattr(auth, "time", clock)
    private = ec.generate_private_key(ec.SECP256R1())
    verifier = verifier_of(project.url)
    project.body = body
    for token in (project.token(private, "1"), jwt.encode(project.claims(), SECRET, "HS256")):
        with pytest.raises(Unavailable):
            await verifier.verify(token)
        clock.passed_s += 0.1
    (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]  # one fetch a second
    assert (line["level"], line["message"]) == ("ERROR", "no signing keys")
    assert line["error_type"] in {"PyJWKSetError", "AttributeError", "JSONDecodeError"}
    project.body = None
    project.publish(private, "1")
    clock.passed_s += auth.FETCH_COOLDOWN_S
    assert (await verifier.verify(project.token(private, "1"))).id


async def test_keys_that_trickle_are_our_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "FETCH_TIMEOUT_S", 0.2)
    private, ended = ec.generate_private_key(ec.SECP256R1()), asyncio.Event()
    async with listening(lambda reader, writer: trickle(reader, writer, ended)) as url:
        token = jwt.encode(claims_of_user(), private, "ES256", {"kid": "1"})
        async with asyncio.timeout(20):
            with pytest.raises(Unavailable):
                await verifier_of(url).verify(token)
            await ended.wait()


async def test_a_burst_of_first_tokens_fetches_the_keys_once(project: Project) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    project.publish(private, "1")
    verifier = verifier_of(project.url)
    users = [str(uuid.uuid4()) for _ in range(20)]
    verified = await asyncio.gather(*(verifier.verify(project.token(private, "1", sub=user)) for user in users))
    assert ([user.id for user in verified], len(project.fetched)) == (users, 1)


async def test_a_new_key_is_found_after_a_pause_and_an_old_one_ends(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(auth, "time", clock)
    old, new = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    project.publish(old, "old")
    verifier = verifier_of(project.url)
    of_old = project.token(old, "old", exp=int(time.time()) + 3600)
    assert (await verifier.verify(of_old)).id
    project.keys.clear()
    project.publish(new, "new")
    with pytest.raises(Unauthenticated):  # fetched a moment ago
        await verifier.verify(project.token(new, "new"))
    clock.passed_s = auth.KEYS_COOLDOWN_S + 1
    assert (await verifier.verify(project.token(new, "new"))).id
    clock.passed_s = auth.KEYS_LIFESPAN_S + 1
    with pytest.raises(Unauthenticated):
        await verifier.verify(of_old)


async def test_published_keys_are_fetched_once_despite_unknown_key_ids(project: Project) -> None:
    private = rsa.generate_private_key(65537, 2048)
    project.publish(private, "1", use="sig")
    verifier = verifier_of(project.url)
    for _ in range(3):
        assert (await verifier.verify(project.token(private, "1", "RS256"))).id == project.claims()["sub"]
    for number in range(5):
        with pytest.raises(Unauthenticated):
            await verifier.verify(project.token(private, f"invented-{number}", "RS256"))
    assert project.fetched == ["/auth/v1/.well-known/jwks.json"]


async def test_a_token_is_verified_until_it_expires_or_its_key_does(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    project.publish(private, "1")
    clock, decode, decoded = Clock(), jwt.decode, []
    monkeypatch.setattr(auth, "time", clock)
    monkeypatch.setattr(
        jwt, "decode", lambda token, *rest, **options: (decoded.append(token), decode(token, *rest, **options))[1]
    )
    verifier = verifier_of(project.url, SUPABASE_JWT_SECRET=SECRET)
    short = project.token(private, "1", exp=int(time.time()) + 60)
    long = project.token(private, "1", exp=int(time.time()) + 3600)
    of_secret = jwt.encode(project.claims(exp=int(time.time()) + 3600), SECRET, "HS256")
    tokens = [short, long, of_secret]
    expired_s, keys_expired_s = 61 + auth.LEEWAY_S, auth.KEYS_LIFESPAN_S + 1
    for passed_s, verified in ((0, tokens), (85, []), (expired_s, [short]), (keys_expired_s, [short, long])):
        clock.passed_s = passed_s
        decoded.clear()
        for token in tokens:
            assert (await verifier.verify(token)).token == token  # PyJWT has a clock of its own
        assert decoded == verified
    assert len(project.fetched) == 2


async def test_a_forged_copy_of_a_verified_token_is_refused() -> None:
    verifier = verifier_of(SUPABASE_JWT_SECRET=SECRET)
    token = jwt.encode(claims_of_user(), SECRET, "HS256")
    await verifier.verify(token)
    header, payload, signature = token.split(".")
    another = b64(json.dumps(claims_of_user(sub="00000000-0000-4000-8000-000000000000")).encode())
    for forged in (f"{header}.{another}.{signature}", f"{header}.{payload}.{signature[::-1]}", token[:-1]):
        with pytest.raises(Unauthenticated):
            await verifier.verify(forged)


async def test_the_number_of_remembered_tokens_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "REMEMBERED_TOKENS", 2)
    verifier = verifier_of(SUPABASE_JWT_SECRET=SECRET)
    users = [str(uuid.uuid4()) for _ in range(4)]
    for user in users * 2:
        assert (await verifier.verify(jwt.encode(claims_of_user(sub=user), SECRET, "HS256"))).id == user
        assert len(verifier._verified) <= 2


async def test_unreachable_keys_are_our_failure() -> None:
    verifier = verifier_of()
    private = ec.generate_private_key(ec.SECP256R1())
    for _ in range(2):
        with pytest.raises(Unavailable):
            await verifier.verify(jwt.encode(claims_of_user(), private, "ES256", headers={"kid": "1"}))


def test_the_repr_of_a_user_hides_the_token() -> None:
    assert "secret" not in repr(auth.User(id="1", token="secret"))


def test_the_error_does_not_reveal_which_check_failed(api: Api, key: SigningKey, claims: dict[str, Any]) -> None:
    messages = set()
    for forgery in ("expired", "wrong issuer", "alg none"):
        headers = {"authorization": f"Bearer {FORGERIES[forgery](key, claims)}"}
        response: httpx.Response = api.http.get("/usage", headers=headers)
        messages.add(response.json()["error"]["message"])
    assert len(messages) == 1
