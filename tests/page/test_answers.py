"""What a person reads in the conversation: what it is about, what was looked up, and text that is not trusted."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from playwright.sync_api import Page, expect

from infra.local.stack import Stack
from tests.conftest import Person
from tests.page.kit import Watch
from tests.page.reader import SLOWLY, answer, ask, begun, question_field, ready, stop

PageOf = Callable[..., Page]
NewPerson = Callable[..., Person]
Check = Callable[[Page], None]
Picture = Callable[[Page, str], None]


def test_a_question_about_a_bill_shows_its_record_and_votes(
    page_of: PageOf, person: NewPerson, axe: Check, picture: Picture
) -> None:
    page = page_of(person("pro"))
    page.get_by_role("button", name="Choose what it is about").click()
    page.get_by_role("searchbox", name="Number or words of the title").fill("small ferry")
    axe(page)
    picture(page, "context")
    page.get_by_role("dialog").get_by_role("button", name="Bill C-5").click()
    expect(question_field(page)).to_be_focused()
    expect(page.get_by_role("button", name="About: Bill C-5")).to_be_visible()
    page.get_by_role("button", name="Who voted against their party on Bill C-5?").click()
    ready(page)
    record = page.get_by_role("complementary", name="The record")
    expect(record).to_contain_text("Found in the public record: Bill C-5")
    expect(record).to_contain_text("Second reading (Senate)")

    ask(page, "How did my MP vote on C-5? I live at K1A 0A6.")
    ready(page)
    vote = answer(page).get_by_role("figure")
    expect(vote).to_contain_text("Fern Quillwater (Heron): Yes")
    expect(vote.get_by_role("listitem").filter(has_text="Juniper")).to_contain_text("49 nay, 2 did not vote")
    expect(vote).to_contain_text("Gideon Ivyreed (Heron): No")
    call = answer(page).get_by_role("button", name=re.compile("Looked up who voted how: C-5, K1A 0A6"))
    call.press("Enter")
    expect(call).to_have_attribute("aria-expanded", "true")
    expect(answer(page).get_by_role("row", name="Postal code K1A 0A6")).to_be_visible()
    source = answer(page).get_by_role("list", name="Sources").get_by_role("link", name="Vote 18")
    source.focus()
    assert page.evaluate("[...CSS.highlights.get('source')].join()").startswith("3rd reading")
    axe(page)
    picture(page, "vote")

    page.reload()
    expect(page.get_by_role("button", name="About: Bill C-5")).to_be_visible()
    page.get_by_role("button", name="Remove “Bill C-5”").click()
    expect(page.get_by_role("button", name="Choose what it is about")).to_be_visible()


def test_markup_in_an_answer_runs_nothing_and_loads_nothing(page_of: PageOf, person: NewPerson) -> None:
    page = page_of(person("pro"))
    ask(page, "<img src=/x onerror=alert(1)> ![y](http://127.0.0.1:1/y) [a](javascript:alert(1)) [b](http://b.test/)")
    ready(page)
    expect(answer(page)).to_contain_text("<img src=/x onerror=alert(1)>")
    assert answer(page).locator("img").count() == 0
    links = answer(page).locator(".text a")
    assert links.evaluate_all("all => all.map(one => [one.href, one.target, one.rel])") == [
        ["http://b.test/", "_blank", "noopener"]
    ]
    ask(page, 'When does it meet? [tool:get_committee {"slug": "wharves"}]')
    ready(page)
    meeting = answer(page).get_by_role("list", name="Sources").get_by_role("link", name="meeting").first
    expect(meeting).to_have_text(re.compile(r"meeting \d+, \w+ \d+, \d{4}$"))


def test_an_answer_continues_after_its_connection_is_cut(
    page_of: PageOf, person: NewPerson, stack: Stack, watch: Watch
) -> None:
    with cuttable(stack.info["functions_url"]) as (site, cut):
        page = page_of(person("free"), site=site)
        config = page.request.get("/config.json").json()
        config["functions"] = dict.fromkeys(config["functions"], site)
        page.context.route("**/config.json", lambda route: route.fulfill(json=config))
        page.reload()
        watch.expect("/chat", None)
        ask(page, f"At length {SLOWLY}")
        begun(page)
        cut()
        expect(page.get_by_role("status").filter(has_text="Reconnected.")).to_be_visible()
        stop(page)
        assert answer(page).inner_text().count("This is a stand-in answer") == 1
        page.goto("about:blank")  # or the page still asks for the usage when the relay ends


@contextmanager
def cuttable(url: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """A relay to the URL's server. Yields the relay's URL, and what cuts every open connection."""
    target = (urlsplit(url).hostname, urlsplit(url).port)
    opened = list[socket.socket]()

    def relay(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
        cut_all(source, sink)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(target)
                opened.extend((client, server))
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=relay, args=ends, daemon=True).start()

    def cut_all(*ends: socket.socket) -> None:
        for end in ends or opened:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", cut_all
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
    cut_all()
    for end in opened:
        end.close()
