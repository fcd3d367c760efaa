"""The chat beside LiteLLM's proxy, in one run: `make bench-peers`, which installs the proxy in .build/peers.

Both forward the same streams of the same C stand-in to the same C clients (load.py), each from one process. The chat
verifies a token, meters every query in a real Postgres over a real PostgREST, and stores the turn. The proxy does none
of this: it has no keys, no users and no database. Its requests have only the question, ours also the system prompt and
the tools. Interleaved rounds; medians.

Three of its paths: messages (Anthropic's format), chat (OpenAI's Chat Completions), and passthrough (bytes).
"""

import json
import re
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.load import serving
from bench.service import Server, Service, ask_provider, free_port, running_service
from bench.turn import DELTAS, FIRST_TEXTS, PAUSE_MS, first_text_ms, row, throughput, to_chat, warm_up
from infra.local.postgres import ROOT

PROXY = ROOT / ".build/peers/bin/litellm"
ROUNDS = 3
# Our streams in a round, and those of each path of the proxy: about ten seconds each.
STREAMS, PROXY_STREAMS = 1000, 300
# Models that the proxy has prices for: without a price it takes longer.
CLAUDE, GPT = "claude-haiku-4-5", "gpt-4o-mini"
# For each kind of request: the proxy's path, the provider's path, and the model.
PATHS = {
    "messages": ("/v1/messages", "/v1/messages", CLAUDE),
    "chat": ("/v1/chat/completions", "/v1/chat/completions", GPT),
    "passthrough": ("/anthropic/v1/messages", "/v1/messages", CLAUDE),
}


def run() -> list[dict[str, Any]]:
    """Measures both sides."""
    if not PROXY.exists():
        raise SystemExit("LiteLLM's proxy is not installed: use `make bench-peers`.")
    with (
        running_service() as service,
        service.serving("bench.chat:create") as chat,
        running_proxy(service.provider_url) as proxy,
    ):
        warm_up(service, chat)
        for path in PATHS:
            service.drive(proxy, to_proxy(path, 50, 2, PAUSE_MS), 10)
        return measure(service, chat, proxy)


@contextmanager
def running_proxy(provider_url: str) -> Iterator[Server]:
    """The proxy with one worker, as its documentation recommends for one core, and without its database."""
    models = [
        (CLAUDE, f"anthropic/{CLAUDE}", provider_url),
        (GPT, f"openai/{GPT}", f"{provider_url}/v1"),
    ]
    config = {
        "model_list": [
            {"model_name": name, "litellm_params": {"model": model, "api_base": url, "api_key": "stand-in"}}
            for name, model, url in models
        ]
    }
    environment = {
        # Without it the proxy does not start without keys, which would cost it time. It listens on loopback only.
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "ANTHROPIC_API_BASE": provider_url,
        "ANTHROPIC_API_KEY": "stand-in",
    }
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(json.dumps(config))  # JSON is YAML
        command = [str(PROXY), "--config", str(path), "--host", "127.0.0.1", "--port", str(port)]
        with serving([*command, "--num_workers", "1", "--telemetry", "False"], environment, port) as pid:
            yield Server(f"http://127.0.0.1:{port}", pid)


def to_proxy(path: str, count: int, deltas: int, pause_ms: int) -> list[bytes]:
    """Questions on one of the proxy's paths."""
    proxied, _, model = PATHS[path]
    return [ask_provider(proxied, deltas, pause_ms, {"model": model})] * count


def measure(service: Service, chat: Server, proxy: Server) -> list[dict[str, Any]]:
    """The medians of interleaved rounds."""
    provider = Server(service.provider_url)
    first: dict[str, list[float]] = {}
    rate: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    everything: dict[str, list[float]] = {}
    for number in range(ROUNDS):
        direct: dict[str, float] = {}
        for path in dict.fromkeys(at for _, at, _ in PATHS.values()):
            requests = [ask_provider(path, 2, PAUSE_MS)] * FIRST_TEXTS
            direct[path] = statistics.median(first_text_ms(service, provider, requests))
        ours = statistics.median(first_text_ms(service, chat, to_chat(service, FIRST_TEXTS, 2, PAUSE_MS, "anthropic")))
        first.setdefault("ours", []).append(ours - direct["/v1/messages"])
        for path, (_, at, _) in PATHS.items():
            theirs = statistics.median(first_text_ms(service, proxy, to_proxy(path, FIRST_TEXTS, 2, PAUSE_MS)))
            first.setdefault(path, []).append(theirs - direct[at])
        loads = {path: (proxy, to_proxy(path, PROXY_STREAMS, DELTAS, PAUSE_MS)) for path in PATHS}
        loads["ours"] = chat, to_chat(service, STREAMS, DELTAS, PAUSE_MS, "anthropic")
        for name, (server, requests) in loads.items():
            a_second, cpu_s, database_s = throughput(service, server, requests)
            rate.setdefault(name, []).append(a_second)
            cpu.setdefault(name, []).append(cpu_s)
            everything.setdefault(name, []).append(cpu_s + (database_s if name == "ours" else 0))
        print(f"peers: round {number + 1} of {ROUNDS}", flush=True)
    figures = {
        "added first text in ms": first,
        "streams per second, 64 open": rate,
        "CPU seconds of 1,000 streams": cpu,
        "... with our PostgREST and Postgres": everything,
    }
    version = re.search(r"^litellm==(\S+)", (ROOT / "requirements/peers.txt").read_text(), re.MULTILINE)
    assert version
    return [
        row(
            f"{what}, against LiteLLM {version[1]} {path}",
            statistics.median(values["ours"]),
            statistics.median(values[path]),
        )
        for what, values in figures.items()
        for path in PATHS
    ]
