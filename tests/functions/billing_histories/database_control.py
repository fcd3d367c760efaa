"""Controls the functions' database calls: their time, failures and waits."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg

from functions.common.database import request_headers
from infra.local.stack import Stack

HOOK = """
create schema test_control;
create table test_control.state (at timestamptz, failing text, blocked text);
insert into test_control.state default values;
create function test_control.before() returns void language plpgsql security definer as $$
declare
  v test_control.state;
begin
  select * into v from test_control.state;
  if v.at is not null then
    perform set_config('metering.now', v.at::text, true);
  end if;
  if v.failing = current_setting('request.path', true) then
    raise invalid_parameter_value using message = 'This call fails for the test.'; -- not repeated
  elsif v.blocked = current_setting('request.path', true) then
    perform pg_advisory_xact_lock(4711);
  end if;
end
$$;
grant usage on schema test_control to anon, authenticated, service_role;
grant execute on function test_control.before() to anon, authenticated, service_role;
"""


class DatabaseControl:
    """Moves the clock of the functions' database, and makes a call fail or wait. PostgREST runs test_control.before()
    before each call."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._db = psycopg.connect(stack.postgres.url(), autocommit=True)

    def __enter__(self) -> "DatabaseControl":
        self._db.execute(HOOK)
        self._configure("set pgrst.db_pre_request = 'test_control.before'", expected=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.set(at=None)
        self._configure("reset pgrst.db_pre_request", expected=False)
        self._db.execute("drop schema test_control cascade")
        self._db.close()

    def _configure(self, change: str, *, expected: bool) -> None:
        """Change PostgREST's configuration and wait until it is active."""
        with psycopg.connect(self._stack.postgres.url("supabase_admin"), autocommit=True) as admin:
            admin.execute(f"alter role authenticator {change}")
            admin.execute("notify pgrst, 'reload config'")
        self.set(failing="/rpc/list_plans")
        headers = request_headers(self._stack.info["secret_key"])
        while expected != (
            httpx.post(f"{self._stack.info['supabase_url']}/rest/v1/rpc/list_plans", headers=headers, json={}).is_error
        ):
            pass
        self.set(failing=None)

    def set(self, **columns: Any) -> None:
        for name, value in columns.items():
            self._db.execute(f"update test_control.state set {name} = %s", (value,))

    @contextmanager
    def block_call(self, path: str) -> Iterator[Callable[[Future[Any]], bool]]:
        """Makes the first call of that path wait until the block ends. Yields a function that returns True once the
        call waits, and False if its caller ended without it."""
        self._db.execute("select pg_advisory_lock(4711)")
        self.set(blocked=path)

        def wait_for_call(caller: Future[Any]) -> bool:
            waits = "select count(*) from pg_locks where locktype = 'advisory' and objid = 4711 and not granted"
            while not caller.done():
                row = self._db.execute(waits).fetchone()
                if row and row[0]:
                    break
                time.sleep(0.002)
            self.set(blocked=None)
            return not caller.done()

        try:
            yield wait_for_call
        finally:
            self.set(blocked=None)
            self._db.execute("select pg_advisory_unlock(4711)")
