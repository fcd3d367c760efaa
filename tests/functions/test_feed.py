"""The feed of a turn: every reader gets it from the start, and readers do not affect the turn."""

import asyncio
import json

import pytest

from functions.chat.feed import Feed
from functions.chat.wire import KEEP_ALIVE
from functions.common.errors import ProviderError, TooManyFollowers


async def read_all(feed: Feed, keep_alive_s: float = 60) -> bytes:
    return b"".join([chunk async for chunk in feed.read(keep_alive_s)])


async def test_readers_read_the_same_whenever_they_start() -> None:
    feed = Feed()
    early = asyncio.create_task(read_all(feed))
    feed.write(b"a")
    await asyncio.sleep(0)
    late = asyncio.create_task(read_all(feed))
    feed.write(b"b")
    feed.close({"message": "ab"})
    assert [await early, await late, await read_all(feed)] == [b"ab"] * 3
    assert await feed.answer() == {"message": "ab"}


async def test_a_feed_opens_with_its_first_chunk_or_raises() -> None:
    opened, failed = Feed(), Feed()
    opened.write(b"a")
    await opened.opened()
    failed.fail(ProviderError())
    with pytest.raises(ProviderError):
        await failed.opened()
    with pytest.raises(ProviderError):
        await failed.answer()


async def test_a_failure_after_the_first_chunk_ends_the_stream_silently() -> None:
    feed = Feed()
    feed.write(b"a")
    feed.fail(ProviderError())
    await feed.opened()
    assert await read_all(feed) == b"a"


async def test_a_refusal_of_a_promised_stream_is_a_stream() -> None:
    feed = Feed("fr")
    await feed.opened_within(0.001)
    feed.fail(TooManyFollowers())
    keep_alive, *parts = (await read_all(feed)).decode().split("\n\n")
    assert keep_alive == ": keep-alive"
    start, error = (json.loads(part.removeprefix("data: ")) for part in parts[:2])
    known = {"code": "too_many_requests", "reason_code": "too_many_followers", "action": "wait"}
    assert start == {"type": "start", "messageMetadata": {"error": known}}
    assert error == {"type": "error", "errorText": TooManyFollowers().sentence("fr")}
    assert parts[2:] == ["data: [DONE]", ""]


async def test_silence_is_filled_with_comments() -> None:
    feed = Feed()
    feed.write(b"a")
    reader = feed.read(keep_alive_s=0.001)
    assert [await anext(reader), await anext(reader), await anext(reader)] == [b"a", KEEP_ALIVE, KEEP_ALIVE]
    feed.close({})


async def test_a_cancelled_reader_does_not_affect_the_others() -> None:
    feed = Feed()
    leaving = asyncio.create_task(read_all(feed))
    staying = asyncio.create_task(read_all(feed))
    await asyncio.sleep(0)
    leaving.cancel()
    feed.write(b"a")
    feed.close({})
    assert await staying == b"a"
