"""What the chat adds to its provider: the time to the first text, the cost of many streams, and 1,000 at once.

The baseline is a bare relay of the same provider, and both are served as on Lambda (functions/chat/run.sh). The load
and the provider are C programs (load.py). The chat keeps its real time limits, meters every query in a real Postgres
over a real PostgREST, and calls it without the local gateway (chat.py).

(a) First text: one stream at a time, against the same request to the provider itself.
(b) Many streams: 64 open. CPU seconds are those of the process, and of PostgREST and Postgres.
(c) 1,000 streams of 20 s, opened at 100 and at 500 a second: every answer is complete and charged, or refused at once.
"""

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from bench.load import Stream, cpu_seconds, memory_kb
from bench.service import PATHS, Server, Service, ask_provider, running_service

ROUNDS = 3
FIRST_TEXTS = 60  # of each server in a round
DELTAS, PAUSE_MS = 20, 5
OPEN = 64
STREAMS = {"baseline": 2000, "ours": 600}  # in a round; takes seconds each
MANY, LONG = 1000, (40, 500)  # streams, and the deltas of each with their pause
REFUSED_WITHIN_MS = 3000

Row = dict[str, Any]
Requests = Callable[[int, int, int], list[bytes]]


def run() -> list[Row]:
    """Measures everything."""
    with (
        running_service() as service,
        service.serving("bench.relay:create", {"PROVIDER_URL": service.provider_url}) as relay,
        service.serving("bench.chat:create") as chat,
    ):
        warm_up(service, chat)
        return [
            *first_texts(service, chat, relay),
            *many_streams(service, chat, relay),
            *thousand_streams(service, chat, relay),
        ]


def to_chat(service: Service, count: int, deltas: int, pause_ms: int, provider: str | None = None) -> list[bytes]:
    """Questions to the chat, for both providers unless one is named."""
    names = [provider] if provider else list(PATHS)
    return [service.ask(number, deltas, pause_ms, names[number % len(names)]) for number in range(count)]


def to_relay(count: int, deltas: int, pause_ms: int) -> list[bytes]:
    """The same questions to the relay, or to the provider itself."""
    return [ask_provider(PATHS["anthropic"], deltas, pause_ms)] * count


def warm_up(service: Service, chat: Server) -> None:
    """Imports what is imported on demand, and fills the connection pools."""
    service.drive(chat, to_chat(service, 100, 2, 5), 10)


def first_text_ms(service: Service, server: Server, requests: Sequence[bytes]) -> list[float]:
    """The milliseconds to the first text, one stream at a time."""
    streams = service.drive(server, requests, 1)
    assert all(stream.complete for stream in streams), streams
    return [stream.waited for stream in streams]


# (a) -----------------------------------------------------------------------------------------------------------------


def first_texts(service: Service, chat: Server, relay: Server) -> list[Row]:
    """Measures (a): medians over interleaved rounds."""
    provider = Server(service.provider_url)
    times: dict[str, list[float]] = {}
    for number in range(ROUNDS):
        times.setdefault("relay", []).extend(first_text_ms(service, relay, to_relay(FIRST_TEXTS, 2, PAUSE_MS)))
        for name, path in PATHS.items():
            direct = [ask_provider(path, 2, PAUSE_MS)] * FIRST_TEXTS
            times.setdefault("direct", []).extend(first_text_ms(service, provider, direct))
            questions = to_chat(service, FIRST_TEXTS, 2, PAUSE_MS, name)
            times.setdefault(name, []).extend(first_text_ms(service, chat, questions))
        print(f"turn: first texts, round {number + 1} of {ROUNDS}", flush=True)
    medians = {name: statistics.median(values) for name, values in times.items()}
    relayed = medians["relay"] - medians["direct"]
    return [
        row(f"added first text in ms, {name}, against a relay's", medians[name] - medians["direct"], relayed)
        for name in PATHS
    ]


# (b) -----------------------------------------------------------------------------------------------------------------


def many_streams(service: Service, chat: Server, relay: Server) -> list[Row]:
    """Measures (b): medians of interleaved rounds."""
    servers = {"baseline": relay, "ours": chat}
    requests: Mapping[str, Requests] = {"baseline": to_relay, "ours": lambda *size: to_chat(service, *size)}
    figures: dict[str, list[float]] = {}
    for number in range(ROUNDS):
        for name, server in servers.items():
            load = requests[name](STREAMS[name], DELTAS, PAUSE_MS)
            rate, cpu_s, database_s = throughput(service, server, load)
            figures.setdefault(f"{name} rate", []).append(rate)
            figures.setdefault(f"{name} cpu", []).append(cpu_s)
            figures.setdefault(f"{name} all", []).append(cpu_s + (database_s if name == "ours" else 0))
        print(f"turn: {OPEN} open, round {number + 1} of {ROUNDS}", flush=True)
    names = {
        "rate": f"streams per second, {OPEN} open, against a relay",
        "cpu": "CPU seconds of 1,000 streams, against a relay",
        "all": "... with PostgREST and Postgres",
    }
    medians = {name: statistics.median(values) for name, values in figures.items()}
    return [row(what, medians[f"ours {name}"], medians[f"baseline {name}"]) for name, what in names.items()]


def throughput(service: Service, server: Server, requests: Sequence[bytes]) -> tuple[float, float, float]:
    """Streams per second, and CPU seconds of 1,000: of the server, and of PostgREST and Postgres."""
    cpu_s, database_s = cpu_seconds(server.pid), service.database_seconds()
    started = time.perf_counter()
    streams = service.drive(server, requests, OPEN)
    took = time.perf_counter() - started
    assert all(stream.complete for stream in streams), [stream for stream in streams if not stream.complete][:3]
    thousands = len(requests) / 1000
    cpu_s, database_s = cpu_seconds(server.pid) - cpu_s, service.database_seconds() - database_s
    return len(requests) / took, cpu_s / thousands, database_s / thousands


# (c) -----------------------------------------------------------------------------------------------------------------


def thousand_streams(service: Service, chat: Server, relay: Server) -> list[Row]:
    """Measures (c)."""
    with peak_memory(relay) as relay_kb:
        relayed = service.drive(relay, to_relay(MANY, *LONG), MANY, 100)
    assert all(stream.complete for stream in relayed)
    rows = []
    usual_ms = statistics.median(first_text_ms(service, chat, to_chat(service, FIRST_TEXTS, 2, PAUSE_MS)))
    for a_second in (100, 500):
        charged = service.charged()
        with peak_memory(chat) as chat_kb:
            streams = service.drive(chat, to_chat(service, MANY, *LONG), MANY, a_second)
        time.sleep(1)
        after_ms = statistics.median(first_text_ms(service, chat, to_chat(service, FIRST_TEXTS, 2, PAUSE_MS)))
        answered, refused = check(service, streams, charged + FIRST_TEXTS)
        title = f"{MANY:,} opened at {a_second} a second:"
        rows += [
            row(f"{title} answered and charged, of all", len(answered), MANY),
            row(f"{title} 95th percentile of the first text in ms, against a relay", p95(answered), p95(relayed)),
            row(f"{title} first text a second later, against before", after_ms, usual_ms),
        ]
        if a_second == 100:
            rows.append(row("memory of an open stream in KB, against a relay", chat_kb[0] / MANY, relay_kb[0] / MANY))
        else:
            slowest = max((stream.lasted for stream in refused), default=0.0)
            rows.append(row(f"{title} slowest refusal in ms, against {REFUSED_WITHIN_MS}", slowest, REFUSED_WITHIN_MS))
        print(f"turn: {title} {len(answered)} answered, {len(refused)} refused", flush=True)
    return rows


def check(service: Service, streams: Sequence[Stream], charged: int) -> tuple[list[Stream], list[Stream]]:
    """The answered and the refused streams. Asserts that there are no others, and what the database has of them."""
    answered = [stream for stream in streams if stream.status == 200 and stream.complete]
    refused = [stream for stream in streams if stream.status == 503 and stream.retry_after]
    assert len(answered) + len(refused) == len(streams), [s for s in streams if s not in answered + refused][:3]
    assert (service.charged() - charged, service.open_holds()) == (len(answered), 0)
    return answered, refused


@contextmanager
def peak_memory(server: Server) -> Iterator[list[float]]:
    """The list gets the most KB that the process had meanwhile, beyond what it had before."""
    grown: list[float] = []
    before, ended = memory_kb(server.pid), threading.Event()

    def watch() -> None:
        most = 0
        while not ended.wait(0.2):
            most = max(most, memory_kb(server.pid))
        grown.append(most - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield grown
    finally:
        ended.set()
        watcher.join()


def p95(streams: Sequence[Stream]) -> float:
    """The 95th percentile of the milliseconds to the first text."""
    return statistics.quantiles([stream.waited for stream in streams], n=20)[-1]


def row(what: str, ours: float, baseline: float) -> Row:
    """A line of the table."""
    return {"what": what, "ratio": ours / baseline, "ours": ours, "baseline": baseline}
