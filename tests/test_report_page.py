"""Reports in a real browser: what is shown, what a filter changes; nothing is requested, and nothing hostile runs."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, find_browser, open_browser

from helpers.run_folder import completion, write_run
from tunix_grpo.config.compare import CompareConfig
from tunix_grpo.record.report.side_by_side import compare
from tunix_grpo.record.report.writing import write_report

pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed: apt-get install chromium")

# Ends the element that it might stand in, asks a server, turns the line around, clears a terminal, ends a text of C.
HOSTILE = (
    "</script></style><script>window.hacked = 1</script>"
    '<img src="http://127.0.0.1:PORT/x" onerror="window.hacked = 2">'
    "\u202eright to left\u2066\u200f \x1b[2J\x1b[31mred \0 zero\r\x7f \u2028\ud800 \U000e0041 &lt;b&gt; "
    "<!-- \u05d0\u05d1"
)
NUM_STEPS = 12


class Server(http.server.BaseHTTPRequestHandler):
    """Counts who asks."""

    asked: list[str] = []

    def do_GET(self) -> None:  # noqa: N802 (the library's name)
        Server.asked.append(self.path)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory, port) -> Path:
    """Twelve steps of three groups, question 0 in each; a completion, a prompt, a reward, a note are hostile."""
    hostile = HOSTILE.replace("PORT", str(port))
    completions = []
    for step in range(1, NUM_STEPS + 1):
        for question in (0, 2 * step, 2 * step + 1):
            for place in range(4):
                cut = {"truncated": True} if (step, place) == (3, 1) else {}
                completions.append(completion(step, question, place, **cut))
    parts = {"format": 1.0, "correctness": 0.0, hostile: 0.25}
    completions[-1] |= {"completion": hostile, "rewards": parts, "reward": -3.0}
    for row in range(-4, 0):
        completions[row] |= {"prompt": f"prompt {hostile}", "answer": hostile}
    folder = write_run(
        tmp_path_factory.mktemp("page") / "a <b>run</b>\u202e",
        f"+notes.hostile='{hostile.split(' ')[0]}'",
        completions=completions,
        metrics=[{"step": 0, "eval/accuracy": 0.25}]
        + [{"step": step, "reward": step / 10, f"rewards/{hostile}/mean": 0.5} for step in range(1, NUM_STEPS + 1)]
        + [{"step": NUM_STEPS, "eval/accuracy": 0.75}],
        notes=[{"step": 1, "where": "first look", "level": "warning", "name": "x", "sentence": hostile}],
        environment={"total_steps": NUM_STEPS, "questions": {"eval/accuracy": 64}, "device": hostile},
    )
    write_report(folder, folder / "report.html", most=1000)
    return folder


@pytest.fixture
def page(browser, report) -> Browser:
    """The report, opened anew."""
    browser.look()
    browser.open(report / "report.html")
    return browser


def type_into(page: Browser, name: str, value: str) -> None:
    """Fills in a field of the filter as a person does, and waits until its answer is shown."""
    page.run(
        f"""new Promise((done) => {{
            const field = document.querySelector('.filter [name={name}]');
            new MutationObserver((_, it) => {{ it.disconnect(); setTimeout(done, 0); }})
              .observe(document.querySelector('#groups'), {{childList: true}});
            if (field.type === 'checkbox') field.checked = {json.dumps(value)} !== '';
            else field.value = {json.dumps(value)};
            field.dispatchEvent(new Event('input', {{bubbles: true}}));
            field.dispatchEvent(new Event('change', {{bubbles: true}}));
        }})"""
    )


def text(page: Browser, selector: str) -> str:
    return page.run(f"document.querySelector({json.dumps(selector)}).textContent")


def count(page: Browser, selector: str) -> int:
    return page.run(f"document.querySelectorAll({json.dumps(selector)}).length")


def test_a_report_shows_the_run_and_asks_nobody(page, report, port):
    assert page.requests == [(report / "report.html").resolve().as_uri()] and page.errors == []
    assert "finished, step 12 of 12" in text(page, "header")
    assert "25.0 % [16.0 % to 36.8 %], 16 of 64" in text(page, "#accuracy") and "+50.0 points" in text(
        page, "#accuracy"
    )
    assert text(page, "#found") == "144 in 36 groups, of 144 completions in 36 groups"
    assert count(page, "#groups .group") == 10 and count(page, "#groups .group:first-child .completion") == 4
    first = text(page, "#groups .completion")
    for shown in ("reward 1.5", "advantage 1", "tokens 8", "format 1", "correctness 1", "<answer>1</answer>"):
        assert shown in first
    page.wait_for("document.querySelectorAll('.uplot canvas').length >= 2")
    page.run("document.querySelector('#curves summary').click()")
    page.wait_for("document.querySelectorAll('#curves details figure').length >= 1")
    page.run(f"fetch('http://127.0.0.1:{port}/fetched').catch(() => 0)")
    page.run(f"document.body.append(Object.assign(new Image(), {{src: 'http://127.0.0.1:{port}/image'}}))")
    page.wait_for("true")
    assert Server.asked == [] and any("Content Security Policy" in said for said in page.errors)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"truncated": "yes"}, "3 in 3 groups"),
        ({"lowest": "1"}, "72 in 36 groups"),
        ({"highest": "-1"}, "1 in 1 group"),
        ({"rewardOf": "correctness", "lowest": "1"}, "72 in 36 groups"),
        ({"firstStep": "3", "lastStep": "4"}, "24 in 6 groups"),
        ({"text": "WHAT IS 8 + 1"}, "4 in 1 group"),
        ({"text": "<answer>9</answer>"}, "4 in 2 groups"),
        ({"text": "window.hacked"}, "4 in 1 group"),
        ({"text": ".*"}, "0 in 0 groups"),
        ({"again": "on"}, "48 in 12 groups"),
        ({"truncated": "yes", "lowest": "1"}, "0 in 0 groups"),
    ],
)
def test_a_filter_changes_what_is_shown(page, fields, found):
    for name, value in fields.items():
        type_into(page, name, value)
    assert text(page, "#found").startswith(f"{found}, of 144")


def test_what_was_searched_is_marked_and_others_stand_back(page):
    type_into(page, "text", "<answer>9</answer>")
    assert page.run(
        "[...document.querySelectorAll('#groups mark')].every((m) => m.textContent === '<answer>9</answer>')"
    )
    assert count(page, "#groups mark") == 4 and count(page, "#groups .completion.other") == 4


def test_orders_and_pages(page):
    type_into(page, "order", "lowest reward first")
    assert "step 12" in text(page, "#groups .group") and "-3" in text(page, "#groups .group")
    type_into(page, "order", "latest first")
    page.run("document.querySelectorAll('.paging button')[1].click()")
    page.wait_for("document.querySelector('.paging input').value === '2'")
    assert text(page, "#groups .group strong").startswith("step 9,") and count(page, "#groups .group") == 10


def test_one_question_is_followed_over_the_steps(page):
    page.run("document.querySelector('.follow').click()")
    page.wait_for("document.querySelector('#found').textContent.startsWith('48 in 12 groups')")
    page.wait_for("document.querySelector('#followed canvas') !== null")
    assert "Reward of question 1 over 12 steps" in text(page, "#followed")
    prompts = page.run("[...document.querySelectorAll('#groups .prompt')].map((each) => each.textContent)")
    assert set(prompts) == {"<user>What is 0 + 1?<model>"}
    page.run("document.querySelector('#followed > button').click()")
    page.wait_for("document.querySelector('#found').textContent.startsWith('144 in 36 groups')")
    assert text(page, "#followed") == ""


def test_light_and_dark(page):
    def background() -> int:
        return page.run("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")

    def ink_of_axes() -> str:
        return page.run("drawn[0].plot.axes[0].stroke(drawn[0].plot, 0)")

    page.wait_for("drawn.length > 0")
    assert background() == 255 and ink_of_axes() == "#24292f"
    page.look(dark=True)
    assert background() < 40
    page.wait_for("drawn[0].plot.axes[0].stroke(drawn[0].plot, 0) === '#e6edf3'")
    for look, light in (("light", True), ("dark", False)):
        page.run("document.getElementById('look').click()")
        assert text(page, "#look") == f"look: {look}"
        assert (background() > 200) is light
    page.look()
    assert background() < 40  # as the button says


def test_a_phone_shows_it_in_one_column(page):
    page.look(width=390, height=844)
    assert page.run("document.documentElement.scrollWidth") <= 390
    tops = "[...document.querySelectorAll('#groups .group:first-child .completion')].map((each) => each.offsetLeft)"
    assert len(set(page.run(tops))) == 1
    page.wait_for("drawn.length > 0 && drawn.every((one) => one.plot.width <= 390)")


def test_hostile_text_is_shown_as_text(page):
    """In a completion, its prompt, its answer, the name of a reward and of the run, a setting, a note."""
    type_into(page, "text", "window.hacked")
    assert page.run("window.hacked") is None and page.errors == [] and len(page.requests) == 1
    group = text(page, "#groups .group")
    assert "<script>window.hacked = 1</script><img src=" in group and "&lt;b&gt;" in group and "\u05d0\u05d1" in group
    for place in ("#groups .completion:last-child .text", "#groups .prompt", "#health", "#run"):
        assert "U+202E" in text(page, place), place
    shown = page.run(
        "[...document.querySelectorAll('#groups .completion:last-child pre .invisible')].map((e) => e.textContent)"
    )
    named = [
        "U+202E",
        "U+2066",
        "U+200F",
        "\u241b",
        "\u241b",
        "\u2400",
        "\u240d",
        "\u2421",
        "U+2028",
        "U+D800",
        "U+E0041",
    ]
    assert shown == named
    assert (
        page.run("/[\\u202e\\u2066\\u200f\\u2028\\0\\x1b]/.test(document.documentElement.textContent + document.title)")
        is False
    )
    assert page.run("document.title").endswith("a <b>run</b>U+202E")
    assert count(page, "#page script, #page img, #page b b") == 0
    assert Server.asked == []


def test_runs_lie_over_one_another(browser, report, tmp_path):
    other = write_run(tmp_path / "other", "optimizer.learning_rate=0.5", metrics=[{"step": 1, "reward": 0.5}])
    for run, right in ((report, "00011"), (other, "11111")):
        answers = run / "evaluations" / "12" / "answers"
        answers.mkdir(parents=True)
        lines = [{"question_id": str(place), "sample": None, "score": float(each)} for place, each in enumerate(right)]
        (answers / "arithmetic.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    compare(CompareConfig(runs=[str(report), str(other)], most=10, output=str(tmp_path / "pages" / "compare.html")))
    browser.look()
    browser.open(tmp_path / "pages" / "compare.html")
    assert browser.errors == [] and len(browser.requests) == 1
    assert "optimizer.learning_rate" in text(browser, "#settings") and "0.5" in text(browser, "#settings")
    assert "5 : 2" in text(browser, "#pairs") and "no difference shown" in text(browser, "#pairs")
    browser.wait_for("document.querySelectorAll('.uplot canvas').length >= 1")
    assert "other" in text(browser, "#curves .u-legend")


@pytest.mark.slow
def test_a_hundred_thousand_completions_stay_usable(browser, tmp_path):
    """They open in three seconds on two cores, measured by the browser; a search through all of them finds one."""
    words = " ".join(f"word{number}" for number in range(60))
    completions = (
        completion(1 + row // 64, row // 4 % 5000, row % 4, completion=f"{row} {words} {row * 7919 % 100_003}")
        for row in range(100_000)
    )
    folder = write_run(tmp_path, completions=completions)
    assert write_report(folder, folder / "report.html", most=100_000).shown == 100_000
    browser.look()
    browser.open(folder / "report.html")
    assert browser.run("Number(document.documentElement.dataset.ready)") < 3000
    assert text(browser, "#found") == "100,000 in 25,000 groups, of 100,000 completions in 25,000 groups"
    browser.run("document.querySelector('.filter [name=text]').value = '77777 word0'")
    browser.run("document.querySelector('.filter [name=text]').dispatchEvent(new Event('input'))")
    browser.wait_for("document.querySelector('#found').textContent.startsWith('1 in 1 group')", 30)
    browser.run("document.querySelector('.filter [name=text]').value = ''")
    browser.run("document.querySelector('.filter [name=text]').dispatchEvent(new Event('input'))")
    browser.wait_for("document.querySelector('#found').textContent.startsWith('100,000 in')", 30)
