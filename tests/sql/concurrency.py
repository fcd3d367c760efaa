"""Calls on several connections at the same time."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from tests.conftest import Connect
from tests.sql.metering import Db

CLIENTS = 64


def run_concurrently(connect: Connect, calls: list[Callable[[Db], Any]]) -> list[Any]:
    """Makes all calls at the same time, each on its own connection. Returns their results."""
    connections = [connect() for _ in calls]
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[Db], Any], connection: Db) -> Any:
        barrier.wait()
        return call(connection)

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls, connections))


def waits_for_lock(db: Db, pid: int, done: threading.Event) -> bool:
    """Waits until a session waits for a lock (True) or its call is done (False)."""
    while not done.wait(0.001):
        row = db.execute("select wait_event_type from pg_stat_activity where pid = %s", (pid,)).fetchone()
        if row is not None and row["wait_event_type"] == "Lock":
            return True
    return False


class BackgroundCall:
    """A call in a thread. `waited`: whether it had to wait for a lock."""

    def __init__(self, db: Db, pool: ThreadPoolExecutor, connection: Db, call: Callable[[Db], Any]) -> None:
        done = threading.Event()

        def run() -> Any:
            try:
                return call(connection)
            finally:
                done.set()

        self.future: Future[Any] = pool.submit(run)
        self.waited = waits_for_lock(db, connection.info.backend_pid, done)
