"""What a guest says, shown by the programs that show it: they obey nothing of it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
import xmlschema
from markdown_it import MarkdownIt

from lifsea_testbed.boottime import attribution, charts
from lifsea_testbed.powercut import timeline_svg
from lifsea_testbed.powercut.crash_states import CrashKind, CrashState
from lifsea_testbed.powercut.operation import CheckDepth
from lifsea_testbed.powercut.verdicts import CrashResult, CrashVerdict
from lifsea_testbed.report import junit, markdown
from lifsea_testbed.report.document import Document
from lifsea_testbed.report.gate import TestOutcome
from lifsea_testbed.report.outcome import Status
from lifsea_testbed.support import sinks
from lifsea_testbed.support.sanitize import printable
from lifsea_testbed.support.terminal_filter import TerminalFilter
from tests.report.test_outputs import document, failed
from tests.support import JUNIT_SCHEMA, attacks
from tests.support.boots import boot, unit
from tests.support.browser import Browser, browser
from tests.support.quick import lay_out

SUITE = '''
import logging, warnings
import pytest
from lifsea_testbed import AnswerUnreadable, CommandFailed, NotJudged, Reason, claim
from tests.support.attacks import ALL

GUEST = "\\n".join(ALL)

@pytest.mark.parametrize("number", range(0, len(ALL), 4))
@claim("no-sshd")
def test_a_command_fails(number):
    text = "\\n".join(ALL[number:number + 4])
    print(text)
    logging.error("%s", text)
    raise CommandFailed(text, expected=text, evidence=text, hint=text)

@claim("no-python")
def test_an_assertion_fails():
    print(GUEST)
    assert [GUEST] == [], GUEST

@claim("shell-kept")
def test_is_not_judged():
    raise NotJudged(GUEST, Reason.IMAGE)

@claim("boots-to-ready")
def test_something_else():
    raise RuntimeError(GUEST) from AnswerUnreadable(GUEST, evidence=GUEST)
'''


def hostile() -> Document:
    """A document all of whose texts that come from an image are attacks."""
    outcomes = [failed(number, why=text) for number, text in enumerate(attacks.ALL)]
    made = document(*outcomes, TestOutcome(claim="kept", test="t", status=Status.PASSED), gone=1)
    image = made.image.model_copy(update={"name": "x".join(attacks.MARKDOWN), "version": " ".join(attacks.ALL)})
    return made.model_copy(update={"image": image, "why": " ".join(attacks.ALL)})


# Text

def test_nothing_is_invisible_and_nothing_changes_the_direction() -> None:
    import unicodedata

    for code in range(sys.maxunicode + 1):
        category = unicodedata.category(character := chr(code))
        if category in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in "\n\t":
            assert printable(f"a{character}b").isascii(), hex(code)
    for text in attacks.INVISIBLE:
        assert printable(f"a{text}").strip() not in ("a", "")


# HTML and SVG: Chromium

@pytest.fixture(scope="module")
def page() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


def pictures() -> Iterator[str]:
    """Every kind of picture, with each attack where an image's words stand."""
    state = CrashState(name="cut-1", kind=CrashKind.PREFIX, position=1, latest=1)
    timeline: Any = SimpleNamespace(states=SimpleNamespace(tried=[SimpleNamespace(first=0)]),
                                    log=SimpleNamespace(entries=[]), facts=SimpleNamespace(started=0, announced=1))
    for text in attacks.ALL:
        seen = boot(image=text, units=[unit(text, 0.4)], programs={text: 5})
        yield charts.boot(seen)
        yield charts.difference(attribution.suspects([boot()] * 5, [seen] * 5), text)
        result = CrashResult(digest="", state=text, outcome=CrashVerdict.BROKEN, depth=next(iter(CheckDepth)), why=text)
        yield timeline_svg.draw(timeline, [(state, result)])


def looked_at(page: Browser, path: Path, content: str) -> dict[str, Any]:
    """What a browser made of the file: scripts that ran, elements that it should not have, its requests."""
    path.write_text(content, "utf-8")
    page.requests.clear()
    page.call("Page.navigate", url=path.as_uri())
    page.wait_for("document.readyState === 'complete'")
    page.run("document.querySelectorAll('[onmouseover]').forEach(each => each.dispatchEvent(new Event('mouseover')))")
    active = "script, img, a, iframe, object, embed, base, link, meta[http-equiv], foreignObject, [onload], [onerror]"
    found = f"[String(window.owned), document.querySelectorAll({active!r}).length, document.title]"
    owned, count, title = page.run(found)
    requests = [url for url in page.requests if not url.startswith((path.as_uri(), "about:", "data:"))]
    return {"owned": owned, "active": count, "title": title, "requests": requests}


def test_pictures_are_pictures_to_a_browser(page: Browser, tmp_path: Path) -> None:
    """All of them on one page, as an HTML page has them, and one of each kind as a file of its own."""
    drawn = list(pictures())
    whole = f"<!doctype html><meta charset=utf-8><title>mine</title>{''.join(drawn)}"
    harmless = {"owned": "undefined", "active": 0, "requests": []}
    assert looked_at(page, tmp_path / "all.html", whole) == {**harmless, "title": "mine"}
    for number, picture in enumerate(drawn):
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(picture).iter()}
        assert tags <= {"svg", "rect", "text", "title", "line", "polyline", "circle"}, picture
        if number % 60 < 3:
            assert looked_at(page, tmp_path / "one.svg", picture) == {**harmless, "title": ""}


def test_text_is_text_to_a_browser_wherever_a_page_has_it(page: Browser, tmp_path: Path) -> None:
    rows = "".join(f'<p title="{sinks.markup(text)}" lang=\'{sinks.markup(text)}\'>{sinks.markup(text)}</p>'
                   for text in attacks.ALL)  # fmt: skip
    data = sinks.json_text(list(attacks.ALL), indent=None)
    content = f"<!doctype html><meta charset=utf-8><title>mine</title>{rows}<script>window.data = {data}</script>"
    assert looked_at(page, tmp_path / "text.html", content) == {
        "owned": "undefined", "active": 1, "title": "mine", "requests": []}  # fmt: skip
    assert page.run("[...document.querySelectorAll('p')].map(each => each.textContent)") == \
        [printable(text) for text in attacks.ALL]  # fmt: skip
    assert page.run("window.data.length") == len(attacks.ALL)


def test_the_attacks_work_on_a_page_that_does_not_escape_them(page: Browser, tmp_path: Path) -> None:
    content = f"<!doctype html><title>x</title><p>{' '.join(attacks.MARKUP[:4])}"
    seen = looked_at(page, tmp_path / "bad.html", content)
    assert seen["owned"] == "1" and seen["active"] > 0 and seen["requests"]


# Markdown: a renderer with GitHub's rules

def rendered(text: str) -> tuple[str, list[str]]:
    """The HTML that a renderer with GitHub's rules makes of Markdown, and the types of its inline tokens."""
    renderer = MarkdownIt("gfm-like")
    inline = [child for token in renderer.parse(text) for child in token.children or ()]
    return renderer.render(text), [token.type for token in inline]


#: What GitHub looks for in text that is neither code nor a link: users, issues, emoji, commits, addresses.
GITHUB = r"@\w|#\d|GH-\d|:\w+:|\b[0-9a-f]{7,40}\b|https?:|ftp:|www\.|mailto:|\$"


def test_a_summary_has_no_link_picture_or_mention_of_an_image() -> None:
    import re

    text = markdown.summary(hostile())
    page, tokens = rendered(text)
    assert set(tokens) <= {"text", "code_inline", "link_open", "link_close", "html_inline"}
    assert re.findall(r'href="([^"]*)"', page) == ["https://a"], "the address of the known issue, which is the caller's"
    bare = re.sub(r"<code>.*?</code>", "", page, flags=re.DOTALL)
    assert set(re.findall(r"<(\w+)", bare)) <= {"h2", "h3", "p", "table", "thead", "tbody", "tr", "th", "td", "details",
                                                "summary", "a"}  # fmt: skip
    assert re.findall(GITHUB, re.sub(r"<a .*?</a>", "", bare)) == []
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    assert {row.count("<td>") for row in rows} == {0, 4, 6}
    assert page.count("<tr>") == len(attacks.ALL) + 2 + 1


def test_the_words_of_an_image_stay_legible() -> None:
    for text in attacks.ALL:
        page, _ = rendered(f"| a | b |\n|---|---|\n| {sinks.markdown(text)} | x |\n")
        shown = ElementTree.fromstring(f"<x>{page}</x>").findtext(".//code")
        assert shown == " ".join(printable(text).split()) or not printable(text).strip(), text


@pytest.mark.parametrize("address", ["javascript:x", "https://x/|y", "https://x/>", "https://x y", "data:x", "//x"])
def test_only_an_address_of_the_web_becomes_a_link(address: str) -> None:
    assert "href" not in rendered(sinks.markdown_link(address))[0]


# JUnit: the schema that Jenkins reads by

def test_junit_is_valid_and_has_every_word(tmp_path: Path) -> None:
    made = hostile()
    path = tmp_path / "junit.xml"
    junit.write(made, path, durations={})
    xmlschema.XMLSchema(str(JUNIT_SCHEMA)).validate(str(path))
    messages = [failure.attrib["message"] for failure in ElementTree.parse(path).iter("failure")]
    assert messages == [f"failed: {printable(text)}" for text in attacks.ALL]


# The log of a CI system, and a terminal: a run of pytest with a guest that attacks

@pytest.fixture(scope="module", params=[("-l",), ("-n", "1", "--tb=native")], ids=["alone", "worker"])
def log(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> bytes:
    """The output of a run in which every text of a guest is an attack."""
    place = tmp_path_factory.mktemp("run")
    (place / "suite").mkdir()
    command = [sys.executable, "-m", "pytest", *lay_out(place, SUITE), "-rA", "--color=yes",
               "test_suite.py", *request.param]  # fmt: skip
    root = Path(__file__).parents[2]
    environment = {**os.environ, "GITHUB_ACTIONS": "true", "CI": "true", "PYTHONPATH": str(root), "PYTHONUTF8": "1",
                   "GITHUB_STEP_SUMMARY": str(place / "summary.md"), "TMPDIR": str(place / "tmp")}  # fmt: skip
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, check=False)
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr
    assert done.stderr == b"", done.stderr
    return done.stdout


def test_a_ci_system_finds_no_command_but_the_run_s_own(log: bytes) -> None:
    found = list(attacks.commands(log.decode()))
    own = [line for line in found if line.startswith(("::error file=test_suite.py,", "::notice file=test_suite.py,"))]
    assert found == own and len(own) == len(range(0, len(attacks.ALL), 4)) + 3


def test_the_reader_of_logs_finds_the_attacks() -> None:
    obeyed = [text for text in attacks.CI_LOG if list(attacks.commands(text))]
    assert len(obeyed) >= 20


class Tmux:
    """A terminal 200 × 50 with a server of its own, in which a program has run to its end."""

    def __init__(self, place: Path, program: str) -> None:
        self._command = ["tmux", "-f", "/dev/null", "-S", str(place / "tmux")]
        script = place / "program.py"
        script.write_text(program)
        self("new-session", "-d", "-x", "200", "-y", "50", "-n", "window", "sleep infinity", ";",
             "set", "-g", "set-clipboard", "on", ";", "set", "-g", "allow-rename", "on", ";",
             "set", "-g", "allow-passthrough", "on", ";", "set", "-g", "remain-on-exit", "on", ";",
             "select-pane", "-T", "title")  # fmt: skip
        done = f"{shlex.join([sys.executable, str(script)])}; tmux -S {place / 'tmux'} wait-for -S done"
        self("respawn-pane", "-k", done, ";", "wait-for", "done")

    def __call__(self, *arguments: str) -> str:
        return subprocess.run([*self._command, *arguments], capture_output=True, text=True, check=False,
                              timeout=60).stdout  # fmt: skip

    def changes(self) -> dict[str, str]:
        """What the program changed of the terminal beside its screen."""
        flags = ("mouse_any_flag", "mouse_sgr_flag", "insert_flag", "keypad_cursor_flag", "keypad_flag")
        shown = self("display", "-p", " ".join(f"#{{{flag}}}" for flag in flags)).strip()
        found = {"title": self("display", "-p", "#{pane_title}").strip(), "window": self("display", "-p", "#W").strip(),
                 "clipboard": self("list-buffers").strip(), "flags": shown}  # fmt: skip
        plain = {"title": "title", "window": "window", "clipboard": "", "flags": "0 0 0 0 0"}
        return {name: value for name, value in found.items() if value != plain[name]}


#: Shows what a file holds, and returns what the terminal typed meanwhile: all that came before the answer to the last
#: question, which is a known one.
SHOWS = """
import sys, termios, tty
tty.setraw(0)
screen, keys = sys.stdout.buffer, b""
screen.write(open({shown!r}, "rb").read() + b"\\x1b[5n\\x1b[c")
screen.flush()
while not keys.endswith(b"\\x1b[0n\\x1b[?1;2c"):
    keys += sys.stdin.buffer.raw.read(1)
open({answers!r}, "wb").write(keys.removesuffix(b"\\x1b[0n\\x1b[?1;2c"))
"""


def shown_by_tmux(place: Path, shown: bytes) -> tuple[bytes, dict[str, str]]:
    """What a terminal typed, and what else than its screen changed, while it showed those bytes."""
    place.mkdir()
    (place / "shown").write_bytes(shown)
    terminal = Tmux(place, SHOWS.format(shown=str(place / "shown"), answers=str(place / "answers")))
    try:
        return (place / "answers").read_bytes(), terminal.changes()
    finally:
        terminal("kill-server")


def filtered(texts: tuple[str, ...], size: int) -> bytes:
    """What the console of `lifsea-testbed shell` shows of the texts, which arrive in pieces of that size."""
    screen, data = TerminalFilter(), "\r\n".join(texts).encode("utf-8", "replace") + b"\r\n"
    return b"".join(screen.feed(data[at : at + size]) for at in range(0, len(data), size))


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_a_console_types_nothing_and_changes_nothing_but_the_screen(tmp_path: Path, size: int) -> None:
    assert shown_by_tmux(tmp_path / "t", filtered(attacks.ALL, size)) == (b"", {})


def test_the_output_of_a_run_types_nothing_and_changes_nothing_but_the_screen(tmp_path: Path, log: bytes) -> None:
    assert shown_by_tmux(tmp_path / "t", log.replace(b"\n", b"\r\n")) == (b"", {})


def test_the_attacks_work_on_a_terminal_without_a_filter(tmp_path: Path) -> None:
    texts = [text for text in attacks.TERMINAL if text != "\x1bc"]  # it undoes what came before
    typed, changed = shown_by_tmux(tmp_path / "t", "\r\n".join(texts).encode())
    assert len(typed) > 30 and {"title", "clipboard", "flags"} <= set(changed)
