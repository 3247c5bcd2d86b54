"""Rewards that ask a service keep their time, try again where that helps, say what is wrong, and never say the key."""

import dataclasses
import json
import logging
import signal
import subprocess
import sys
import textwrap
import threading
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from helpers.samples import samples_of
from helpers.service import Answer, in_turn, said, serving
from tunix_grpo.config import selected_rewards
from tunix_grpo.errors import UserError
from tunix_grpo.rewards import remote
from tunix_grpo.rewards.base import Failure, RewardError, Scored
from tunix_grpo.rewards.builders import build_rewards
from tunix_grpo.rewards.custom import require_columns
from tunix_grpo.rewards.http import build_http_reward
from tunix_grpo.rewards.judge import build_judge_reward
from tunix_grpo.rewards.judge_prompt import JudgePrompt
from tunix_grpo.rewards.remote import Client, ServiceError
from tunix_grpo.rewards.scoring import score_completions
from tunix_grpo.tasks.base import ExactTask, Question
from tunix_grpo.train import train

KEY = "sk-not-to-be-seen/0123456789"
QUESTIONS = [Question("What is 1 + 2?", "3", {"level": 1}), Question("What is 2 + 2?", "4", {"hint": "even"})]
COMPLETIONS = ["It is 3.", "It is 5."]
UNREACHABLE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.01)
    monkeypatch.setenv("JUDGE_KEY", KEY)


def client(address, **changed):
    settings = {"api_key_env": None, "timeout_s": 5.0, "retries": 0, "concurrency": 8}
    return Client(setting="reward.http.url", url=f"{address}/score", **settings | changed)


def asked_once(address, deadline=None, **changed):
    (reply,) = client(address, **changed).ask([b"{}"], deadline)
    return reply


# --- the client ---

WRONG = [
    # what the service does, what is said of it
    (Answer(b"no", 400), "it answered 400 Bad Request: no"),
    (Answer(b"", 401), "it answered 401 Unauthorized; name the key's variable by reward.http.api_key_env"),
    (Answer({"error": {"message": "no such model"}}, 404), "it answered 404 Not Found: {"),
    (Answer(b"x" * 10_000, 422), f"it answered 422 Unprocessable Entity: {'x' * 120}..."),
    (Answer(b"busy", 429), "it answered 429 Too Many Requests: busy"),
    (Answer(b"<html>oops</html>", 500), "it answered 500 Internal Server Error: <html>oops</html>"),
    (Answer(b"", 302, {"Location": "http://elsewhere/x"}), "it redirects to http://elsewhere/x; give that address"),
    (Answer(b"", 308, {"Location": "/score/"}), "it redirects to /score/; give that address"),
    (Answer(b"hello"), "its reply is no JSON (Expecting value: line 1 column 1 (char 0)): hello"),
    (Answer(b""), "its reply is no JSON"),
    (Answer(b'{"scores": [NaN]}'), "its reply is no JSON (NaN is no JSON number)"),
    (Answer(b"[" * 100_000), "its reply is no JSON (maximum recursion depth exceeded"),
    (Answer(b"9" * 1_000_000), "its reply is no JSON (Exceeds the limit"),
    (Answer({"scores": [1]}, how="cut"), "RemoteProtocolError: peer closed connection without sending complete"),
    (Answer(how="dropped"), "RemoteProtocolError: Server disconnected without sending a response"),
    (Answer(b"x", how="endless"), f"its reply has more than {remote.MAX_REPLY_BYTES} bytes"),
    (Answer(b"\x1f\x8b rubbish", headers={"Content-Encoding": "gzip"}), "DecodingError: "),
]


@pytest.mark.parametrize(("answer", "problem"), WRONG)
def test_a_service_that_answers_wrongly(answer, problem):
    with serving(in_turn(answer)) as service:
        reply = asked_once(service.address)
        assert isinstance(reply, ServiceError)
        assert str(reply).startswith(f"reward.http.url={service.address}/score: {problem}")
        assert len(str(reply)) < 500
        assert reply.kind == "error"
        assert len(service.asked) == 1


def test_a_service_that_is_not_there():
    reply = asked_once(UNREACHABLE, retries=1)
    assert (
        str(reply)
        == f"reward.http.url={UNREACHABLE}/score: ConnectError: All connection attempts failed (tried 2 times)"
    )


@pytest.mark.parametrize("how", ["whole", "dripping"])
def test_a_service_that_is_slow_is_not_waited_for(how):
    """Neither one that begins late, nor one that never stops sending a little."""
    answer = Answer(b" " * 1000, how=how, after_s=30 if how == "whole" else 0)
    with serving(in_turn(answer)) as service:
        start = time.perf_counter()
        reply = asked_once(service.address, timeout_s=0.3, retries=1)
        assert 0.5 < time.perf_counter() - start < 10
        assert str(reply).endswith("no reply within reward.http.request_timeout_s=0.3 (tried 2 times)")
        assert reply.kind == "timeout"
        assert len(service.asked) == 2


def test_what_is_passing_is_tried_again(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 1e-4)  # the ninth wait is 256 times as long
    broken = [Answer(b"", status) for status in (408, 429, 500, 502, 503, 504)]
    torn = [Answer({"a": 1}, how="cut"), Answer(how="dropped"), Answer({"a": 1}, after_s=20)]
    with serving(in_turn(*broken, *torn, Answer({"a": 1}))) as service:
        assert asked_once(service.address, retries=9, timeout_s=0.5) == {"a": 1}
        assert len(service.asked) == 10


def test_what_is_not_passing_is_not_tried_again():
    for answer in (Answer(b"", 400), Answer(b"", 401), Answer(b"", 301), Answer(b"hello")):
        with serving(in_turn(answer)) as service:
            assert isinstance(asked_once(service.address, retries=5), ServiceError)
            assert len(service.asked) == 1


@pytest.mark.long
@pytest.mark.parametrize("header", ["0.4", "date", "soon", "-3", ""])
def test_a_service_says_how_long_to_wait(header):
    """Not beyond a minute, and nonsense is no time at all."""
    value = formatdate(time.time() + 2, usegmt=True) if header == "date" else header
    with serving(in_turn(Answer(b"", 429, {"Retry-After": value}), Answer({}))) as service:
        start = time.perf_counter()
        assert asked_once(service.address, retries=1) == {}
        waited = time.perf_counter() - start
    assert waited > {"0.4": 0.4, "date": 0.5}.get(header, 0.0)
    assert waited < 10


def test_a_wait_is_bounded(monkeypatch):
    monkeypatch.setattr(remote, "LONGEST_WAIT_S", 0.05)
    with serving(in_turn(Answer(b"", 503, {"Retry-After": "86400"}), Answer({}))) as service:
        assert asked_once(service.address, retries=1) == {}


def test_waits_grow(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.1)
    with serving(in_turn(Answer(b"", 500))) as service:
        start = time.perf_counter()
        asked_once(service.address, retries=3)
        assert time.perf_counter() - start > 0.1 + 0.2 + 0.4


def test_requests_run_at_once_and_no_more_than_asked_for():
    with serving(lambda asked: Answer(asked.content, after_s=0.2)) as service:
        start = time.perf_counter()
        replies = client(service.address, concurrency=4).ask([b"%d" % number for number in range(12)], None)
        assert replies == list(range(12))
        assert 0.6 < time.perf_counter() - start < 2.3  # one after the other they would take 2.4 s
        assert service.at_once == 4


def test_all_end_at_the_deadline_and_those_that_were_done_stay():
    slow = {"0": 0.0}
    with serving(lambda asked: Answer(asked.content, after_s=slow.get(str(asked.content), 30))) as service:
        start = time.perf_counter()
        replies = client(service.address, timeout_s=60, concurrency=2).ask(
            [b"0", b"1", b"2", b"3"], time.monotonic() + 0.5
        )
        assert time.perf_counter() - start < 10
        assert replies[0] == 0
        assert {(type(each), each.kind) for each in replies[1:]} == {(ServiceError, "timeout")}
        assert str(replies[1]).endswith("no reply within reward.http.time_limit")


def test_ctrl_c_ends_a_wait_at_once():
    program = """
        import sys
        from tunix_grpo.rewards.remote import Client
        client = Client(
            setting="reward.http.url", url=sys.argv[1], api_key_env=None, timeout_s=600, retries=9, concurrency=2
        )
        print("asking", flush=True)
        try:
            client.ask([b"{}"] * 5, None)
        except KeyboardInterrupt:
            print("stopped", flush=True)
    """
    with serving(in_turn(Answer({}, after_s=600))) as service:
        command = [sys.executable, "-c", textwrap.dedent(program), service.address]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "asking\n"
            while len(service.asked) < 2:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            start = time.perf_counter()
            assert process.stdout.readline() == "stopped\n"
            assert process.wait(10) == 0
            assert time.perf_counter() - start < 5
        assert len(service.asked) == 2  # the others were never sent


def test_a_service_can_be_asked_from_any_thread():
    """As the thread of a time limit, and one in which an event loop runs already, as in a notebook."""
    import asyncio

    async def inside(one):
        return one.ask([b"1"], None)

    with serving(lambda asked: Answer(asked.content)) as service:
        one = client(service.address)
        found = []
        thread = threading.Thread(target=lambda: found.append(one.ask([b"1"], None)))
        thread.start()
        thread.join(10)
        assert found == [[1]]
        assert asyncio.run(inside(one)) == [1]


# --- the key ---


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            None,
            "reward.http.api_key_env=JUDGE_KEY: there is no such environment variable; set it, or give null for no key",
        ),
        (" ", "there is no such environment variable"),
        ("two words", "the variable holds characters that no key has; set it to the key alone"),
        ("schlüssel", "the variable holds characters that no key has"),
    ],
)
def test_a_key_that_cannot_be_used(value, said, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY")
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(UserError) as raised:
        client(UNREACHABLE, api_key_env="JUDGE_KEY")
    assert said in str(raised.value)
    assert value is None or value == " " or value not in str(raised.value)


ECHOES = [
    Answer({"error": f"wrong key {KEY}"}, 401),
    Answer(f"no {KEY}".encode(), 500),
    Answer(f"{KEY} is no JSON".encode()),
    Answer(b"", 302, {"Location": f"http://elsewhere/?key={KEY}"}),
    said(f"Your key is {KEY}. Score: 5"),
    said(f"{KEY} has no number"),
    said(f"Score: {KEY}"),
    Answer({"choices": f"{KEY}"}),
    Answer(json.dumps({"choices": f"{KEY}"}).replace("/", "\\/").encode()),
    Answer(b"x", headers={"Content-Encoding": "gzip", f"{KEY}": "x"}),
    Answer(b"x", 429, {"Retry-After": KEY}),
    Answer(json.dumps({"choices": [{"message": {"content": f"{KEY} Score: 2"}}]}).replace("/", "\\/").encode()),
]


@pytest.mark.parametrize("answer", ECHOES)
def test_the_key_is_sent_and_never_said(answer, tmp_path, caplog):
    """Not even where the service says it itself: neither in values, nor in the log, nor in files."""
    caplog.set_level(logging.DEBUG)
    with serving(in_turn(answer)) as service:
        reward = judge(service.address, cache_dir=str(tmp_path), api_key_env="JUDGE_KEY")
        values = reward(samples_of(COMPLETIONS, QUESTIONS))
        assert {asked.headers["Authorization"] for asked in service.asked} == {f"Bearer {KEY}"}
    written = [str(values), caplog.text, repr(vars(reward)), *(file.read_text() for file in files(tmp_path))]
    assert [text for text in written if KEY in text] == []


def test_a_key_in_place_of_its_variable_is_not_said(compose):
    with pytest.raises(UserError) as raised:
        compose("reward=[http]", "reward.http.url=http://localhost/", f"reward.http.api_key_env='{KEY}'")
    assert str(raised.value).startswith("reward.http.api_key_env=***: must be the name of an environment variable")


@pytest.mark.parametrize(
    "address",
    [
        "localhost:8000",
        "ftp://localhost/v1",
        "http://",
        "http:///v1",
        "http://user:pass@host/v1",
        "http://a b/",
        "http://h:x",
    ],
)
def test_what_is_no_address(compose, address):
    with pytest.raises(UserError, match="reward.http.url=.*: (must be an address such as|a password does not belong)"):
        compose("reward=[http]", f"reward.http.url='{address}'")


# --- the judge ---

PROMPT = "Q: {question} A: {completion} Right: {answer}"


def judge_settings(prompt_file="bundled:judge"):
    return {
        "model": "referee",
        "prompt_file": str(prompt_file),
        "score_pattern": r"(?i)score\W{0,8}?(-?\d+(?:\.\d+)?)",
        "lowest": 0.0,
        "highest": 10.0,
        "temperature": 0.0,
        "max_tokens": 100,
        "body": None,
        "concurrency": 8,
        "request_timeout_s": 5.0,
        "retries": 0,
        "api_key_env": None,
        "cache_dir": None,
    }


def judge(address, prompt_file="bundled:judge", **changed):
    return build_judge_reward(base_url=f"{address}/v1", **judge_settings(prompt_file) | changed)


def files(folder):
    return [file for file in Path(folder).rglob("*") if file.is_file()]


def test_fields_of_the_request_are_given_on_the_command_line(compose):
    words = ("reward=[judge]", "reward.judge.base_url=http://localhost/v1", "reward.judge.model=referee")
    config = compose(*words, "reward.judge.body={reasoning_effort: low, top_p: 0.5}")
    assert selected_rewards(config.reward)["judge"].body == {"reasoning_effort": "low", "top_p": 0.5}


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("/v1/", "/v1/chat/completions"),
        ("/deployments/referee?api-version=2", "/deployments/referee/chat/completions?api-version=2"),
    ],
)
def test_an_address_keeps_what_stands_behind_its_path(given, asked):
    with serving(lambda asked: said("Score: 7")) as service:
        reward = build_judge_reward(base_url=f"{service.address}{given}", **judge_settings())
        assert reward(samples_of(["3"], QUESTIONS[:1])) == [Scored(0.7)]
        assert [each.path for each in service.asked] == [asked]


def test_a_judge_is_asked_as_an_openai_service_is(tmp_path):
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("{{Q}}: {question} ({hint}) A: {completion} Right: {answer}")
    completions = ["It is {answer}.", "9**9**9"]
    with serving(lambda asked: said("Score: 7")) as service:
        reward = judge(service.address, prompt, body={"top_p": 0.5, "max_tokens": 7})
        assert reward(samples_of(completions, QUESTIONS)) == [Scored(0.7), Scored(0.7)]
        assert {asked.path for asked in service.asked} == {"/v1/chat/completions"}
        assert {"Authorization"} & {name for asked in service.asked for name in asked.headers} == set()
        bodies = sorted((asked.content for asked in service.asked), key=str)
    assert bodies[0] == {
        "model": "referee",
        "messages": [{"role": "user", "content": "{Q}: What is 1 + 2? () A: It is {answer}. Right: 3"}],
        "temperature": 0.0,
        "max_tokens": 7,
        "top_p": 0.5,
    }
    assert bodies[1]["messages"][0]["content"] == "{Q}: What is 2 + 2? (even) A: 9**9**9 Right: 4"


REPLIES = [
    # what the judge says, its score of 0 to 10, or what is wrong
    ("Score: 10", 1.0),
    ("score:0", 0.0),
    ("**Score:** 7.5/10", 0.75),
    ("<think>Score: 2?</think> It is fine.\nScore: 8", 0.8),
    ("Score: 3\nScore: 4.", 0.4),
    ("Score: 11", "got no score: the score 11 is not from 0 to 10 in the judge's reply"),
    ("Score: -1", "got no score: the score -1 is not from 0 to 10"),
    ("Score: " + "9" * 5000, "got no score: the score inf is not from 0 to 10"),
    ("Score: NUMBER", "got no score: there is no score in the judge's reply ...'Score: NUMBER'"),
    ("", "got no score: there is no score in the judge's reply ...''"),
    ("x" * 100_000 + "Score: 6", 0.6),
    ("Score: 6" + "x" * 100_000, "got no score: there is no score in the judge's reply ...'xxx"),
    (None, "got no score: there is no score"),
    (["Score: 6"], "got no score: the judge's reply has no text at choices[0].message.content: {"),
    ({"a": 1}, "got no score: the judge's reply has no text"),
]


@pytest.mark.parametrize(("reply", "wanted"), REPLIES)
def test_what_a_judge_says(reply, wanted):
    with serving(in_turn(said(reply))) as service:
        (value,) = judge(service.address)(samples_of(COMPLETIONS[:1], QUESTIONS[:1]))
    if isinstance(wanted, float):
        assert value == Scored(pytest.approx(wanted))
    else:
        assert value.kind == "error"
        assert value.reason.startswith(wanted)
        assert len(value.reason) < 500


@pytest.mark.parametrize("body", [{}, [], 3, {"choices": []}, {"choices": [{}]}, {"choices": [{"message": 3}]}, None])
def test_a_reply_of_another_form_is_a_failure(body, tmp_path):
    with serving(in_turn(Answer(body))) as service:
        (value,) = judge(service.address, cache_dir=str(tmp_path))(samples_of(COMPLETIONS[:1], QUESTIONS[:1]))
    assert value.kind == "error"
    assert "the judge's reply has no text at choices[0].message.content" in value.reason
    assert files(tmp_path) == []  # may be right the next time


def test_a_judge_that_fails_on_one_completion_scores_the_others():
    def answer(asked):
        return said("Score: 5") if "is 3" in str(asked.content) else Answer(b"overloaded", 503)

    with serving(answer) as service:
        right, wrong = judge(service.address, retries=1)(samples_of(COMPLETIONS, QUESTIONS))
    assert right == Scored(0.5)
    url = f"{service.address}/v1/chat/completions"
    problem = "it answered 503 Service Unavailable: overloaded (tried 2 times)"
    assert wrong == Failure("error", f"got no score: reward.judge.base_url={url}: {problem}")


def test_a_second_run_asks_nothing(tmp_path):
    """Completions that are alike are asked about once, and what was said once is said for ever."""
    completions, questions = ["a", "b", "a", "a"], [QUESTIONS[0]] * 4
    answers = in_turn(*(said(f"Score: {number}") for number in range(3)))
    with serving(answers) as service:
        first = judge(service.address, cache_dir=str(tmp_path))(samples_of(completions, questions))
        assert len(service.asked) == 2
        assert first[0] == first[2] == first[3] != first[1]
        again = judge(service.address, cache_dir=str(tmp_path), request_timeout_s=9.0, concurrency=1, retries=3)
        assert again(samples_of(completions, questions)) == first
        other_scale = judge(service.address, cache_dir=str(tmp_path), highest=20.0)(samples_of(completions, questions))
        assert [each.value for each in other_scale] == [each.value / 2 for each in first]
        assert len(service.asked) == 2
    stopped = judge(service.address, cache_dir=str(tmp_path))
    assert stopped(samples_of(completions, questions)) == first


def test_whatever_decides_the_reply_is_asked_anew(tmp_path):
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(PROMPT)
    samples = samples_of(COMPLETIONS[:1], QUESTIONS[:1])
    changes = [
        {},
        {"model": "another"},
        {"temperature": None},
        {"max_tokens": 5},
        {"body": {"seed": 1}},
        {"prompt_file": "bundled:judge"},
    ]
    with serving(in_turn(said("Score: 1"))) as service:
        for change in changes:
            judge(service.address, **{"prompt_file": prompt, "cache_dir": str(tmp_path / "kept"), **change})(samples)
        assert len(service.asked) == len(changes)
        prompt.write_text(PROMPT + "!")
        judge(service.address, prompt, cache_dir=str(tmp_path / "kept"))(samples)
        assert len(service.asked) == len(changes) + 1
        assert len(files(tmp_path / "kept")) == len(service.asked)
    with serving(in_turn(said("Score: 2"))) as other:  # another address
        assert judge(other.address, prompt, cache_dir=str(tmp_path / "kept"))(samples) == [Scored(0.2)]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"reply": 3}', b"\xff\xfe", b"[" * 100_000, None])
def test_a_damaged_entry_is_asked_anew_and_mended(damage, tmp_path):
    samples = samples_of(COMPLETIONS[:1], QUESTIONS[:1])
    with serving(in_turn(said("Score: 1"), said("Score: 2"))) as service:
        assert judge(service.address, cache_dir=str(tmp_path))(samples) == [Scored(0.1)]
        (file,) = files(tmp_path)
        if damage is None:
            file.unlink()
            file.mkdir()  # cannot be written either
        else:
            file.write_bytes(damage)
        assert judge(service.address, cache_dir=str(tmp_path))(samples) == [Scored(0.2)]
        if damage is not None:
            assert judge(service.address, cache_dir=str(tmp_path))(samples) == [Scored(0.2)]
            assert len(service.asked) == 2


def test_replies_are_kept_as_they_come(tmp_path):
    """Those that were there when a batch ended early are not asked for again."""

    def answer(asked):
        return said("Score: 5") if "is 3" in str(asked.content) else said("Score: 4")._replace(after_s=30)

    with serving(answer) as service:
        reward = judge(service.address, cache_dir=str(tmp_path), request_timeout_s=60.0)
        right, late = reward(samples_of(COMPLETIONS, QUESTIONS, deadline=time.monotonic() + 1.0))
        assert (right, late.kind) == (Scored(0.5), "timeout")
        assert len(files(tmp_path)) == 1
        assert reward(samples_of(COMPLETIONS[:1], QUESTIONS[:1])) == [Scored(0.5)]
        assert len(service.asked) == 2


def test_a_folder_that_cannot_be_written_to_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"reward.judge.cache_dir=.*: cannot be written \(.*\); choose another folder"):
        judge(UNREACHABLE, cache_dir=str(tmp_path / "file" / "folder"))


TEMPLATES = [
    ("{question}", "does not say where the completion stands; write {completion} there"),
    ("{completion} {", "a brace that is meant as such is written twice, {{"),
    ("{completion} {}", "{} is no name of a column"),
    ("{completion} {0}", "{0} is no name of a column"),
    ("{completion.__class__}", "{completion.__class__} is no name of a column"),
    ("{completion} {answer!r}", "{answer!r} is no name of a column"),
    ("{completion} {answer:>9999999999}", "{answer:>9999999999} is no name of a column"),
    ('{completion} reply as {"score": 3}', '{"score": 3} is no name of a column'),
    (b"{completion} \xff", "is no UTF-8 text"),
    (None, "cannot be read (No such file or directory); give a text file"),
    ("{completion}" + " " * (1 << 20), "has more than 1048576 bytes"),
]


@pytest.mark.parametrize(("content", "said"), TEMPLATES)
def test_a_prompt_that_cannot_be_used(content, said, tmp_path):
    file = tmp_path / "prompt.txt"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as raised:
        JudgePrompt(str(file))
    assert str(raised.value).startswith(f"reward.judge.prompt_file={file}: ")
    assert said in str(raised.value)
    assert len(str(raised.value)) < 600


def test_the_columns_of_a_prompt_are_checked_against_the_data(compose, tmp_path):
    (tmp_path / "prompt.txt").write_text("{completion} {level} {hints}")
    config = compose(
        "reward=[judge]",
        "reward.judge.base_url=http://127.0.0.1:9/v1",
        "reward.judge.model=referee",
        "reward.judge.prompt_file=prompt.txt",
        f"reward.judge.cache_dir={tmp_path}/kept",
    )
    rewards = build_rewards(config.reward)
    assert rewards[0].columns == ("level", "hints")
    with pytest.raises(UserError, match="the reward judge takes 'hints', which is no column .* did you mean hint?"):
        require_columns(rewards, ExactTask("own", QUESTIONS, QUESTIONS))


def test_the_bundled_prompt_asks_for_what_the_pattern_finds():
    text = JudgePrompt("bundled:judge").filled("p", "an answer", QUESTIONS[0])
    assert "What is 1 + 2?" in text and "an answer" in text and "\n3\n" in text
    assert text.rstrip().endswith("Score: NUMBER")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"score_pattern": "score: [0-9"}, "reward.judge.score_pattern=score: [0-9: is no regular expression"),
        ({"score_pattern": r"score: \d+"}, "has 0 groups; give it one, around the number, and write others as (?:...)"),
        ({"score_pattern": r"(score|grade): (\d+)"}, "has 2 groups"),
        ({"lowest": 10.0, "highest": 0.0}, "must be in ascending order"),
        ({"body": {"stream": True}}, "reward.judge.body={'stream': True}: stream is not for it to say; leave it out"),
        ({"prompt_file": "bundled:other"}, "reward.judge.prompt_file=bundled:other: cannot be read"),
        ({"api_key_env": "NOT_SET"}, "reward.judge.api_key_env=NOT_SET: there is no such environment variable"),
    ],
)
def test_a_judge_that_cannot_be_built(changed, said):
    with pytest.raises(UserError) as raised:
        judge(UNREACHABLE, **changed)
    assert said in str(raised.value)


def test_a_pattern_that_takes_for_ever_on_a_reply_is_a_failure(monkeypatch):
    monkeypatch.setattr("tunix_grpo.rewards.judge._PATTERN_S", 0.1)
    with serving(in_turn(said("a" * 15_000 + "!"))) as service:
        reward = judge(service.address, score_pattern=r"((?:a|aa)+)$")
        (value,) = reward(samples_of(COMPLETIONS[:1], QUESTIONS[:1]))
    assert "reward.judge.score_pattern took longer than 0.1 s" in value.reason


# --- http ---


def http(address, **changed):
    settings = {"batch_size": None, "concurrency": 8, "request_timeout_s": 5.0, "retries": 0, "api_key_env": None}
    return build_http_reward(url=f"{address}/score", **settings | changed)


def test_a_batch_goes_out_and_scores_come_in():
    reply = {"scores": [0.5, None], "extras": {"words": [3, None], "tone": [None, 1]}}
    with serving(in_turn(Answer(reply))) as service:
        values = http(service.address)(samples_of(COMPLETIONS, QUESTIONS, step=7))
        (asked,) = service.asked
    assert values == [Scored(0.5, {"words": 3}), Scored(None, {"tone": 1})]
    assert asked.path == "/score"
    assert asked.content == {
        "prompts": ["<user>What is 1 + 2?", "<user>What is 2 + 2?"],
        "completions": COMPLETIONS,
        "questions": ["What is 1 + 2?", "What is 2 + 2?"],
        "answers": ["3", "4"],
        "columns": {"level": [1, None], "hint": [None, "even"]},
        "token_lengths": [8, 8],
        "step": 7,
        "num_generations": 1,
    }


def test_what_json_cannot_hold_goes_out_as_null_or_text():
    import datetime

    extra = {"nan": float("nan"), "day": datetime.date(2025, 1, 2), "text": "NaN \ud800"}
    with serving(in_turn(Answer({"scores": [1]}))) as service:
        assert http(service.address)(samples_of(["x"], [Question("q", "a", extra)])) == [1]
        assert service.asked[0].content["columns"] == {"nan": [None], "day": ["2025-01-02"], "text": ["NaN \ud800"]}


def test_a_batch_is_cut_between_groups():
    questions = [QUESTIONS[0]] * 4 + [QUESTIONS[1]] * 4 + [QUESTIONS[0]] * 4
    samples = samples_of([str(row) for row in range(12)], questions, num_generations=4)

    def answer(asked):
        return Answer({"scores": [float(text) for text in asked.content["completions"]]})

    for batch_size, sizes in ((None, [12]), (1, [4, 4, 4]), (5, [4, 8]), (8, [4, 8]), (100, [12])):
        with serving(answer) as service:
            assert http(service.address, batch_size=batch_size)(samples) == [float(row) for row in range(12)]
            assert sorted(len(asked.content["completions"]) for asked in service.asked) == sizes
            assert {asked.content["num_generations"] for asked in service.asked} == {4}


BAD_SCORES = [
    ([0.5, 1.0], "there is no list scores: [0.5, 1.0]"),
    ({"score": [1, 2]}, 'there is no list scores: {"score": [1, 2]}'),
    ({"scores": 3}, "there is no list scores"),
    ({"scores": [1]}, "scores has 1 values for 2 completions; it must have one for each"),
    ({"scores": [1, 2, 3]}, "scores has 3 values for 2 completions"),
    ({"scores": [1, 2], "extras": [1, 2]}, "extras is no object but [1, 2]"),
    ({"scores": [1, 2], "extras": {"a": [1]}}, "a has 1 values for 2 completions"),
    ({"scores": [1, 2], "extras": {"a": 1}}, "there is no list a"),
    ({"scores": [1, 2], "extras": {"a/../b": [1, 2]}}, 'the extra "a/../b" has a name that is no word'),
]


@pytest.mark.parametrize(("reply", "problem"), BAD_SCORES)
def test_a_reply_that_gives_no_scores(reply, problem):
    with serving(in_turn(Answer(reply))) as service:
        values = http(service.address)(samples_of(COMPLETIONS, QUESTIONS))
    about = f"got no score: reward.http.url={service.address}/score: in its reply "
    assert [value.kind for value in values] == ["error", "error"]
    assert values[0] == values[1]
    assert values[0].reason.startswith(about + problem)


def test_parts_fail_alone():
    def answer(asked):
        return Answer({"scores": [1.0]}) if asked.content["completions"] == ["It is 3."] else Answer(b"no", 500)

    with serving(answer) as service:
        right, wrong = http(service.address, batch_size=1)(samples_of(COMPLETIONS, QUESTIONS))
    assert right == 1.0
    assert wrong.kind == "error"


def test_settings_of_services_do_not_decide_what_is_learned_unless_they_do(compose, tmp_path):
    """A resumed run may ask more at once, wait longer, or take its key from elsewhere."""
    from tunix_grpo.config.course import decides_the_course

    free = ["concurrency", "request_timeout_s", "retries", "api_key_env", "cache_dir", "time_limit"]
    assert not any(decides_the_course(f"reward.judge.{name}") for name in free)
    assert all(decides_the_course(f"reward.judge.{name}") for name in ("model", "base_url", "prompt_file", "body"))


def test_a_prompt_or_schema_that_was_edited_is_another_run(compose, tmp_path):
    """Its name alone stands in the settings."""
    from tunix_grpo.run.identity import reward_files

    (tmp_path / "prompt.txt").write_text("{completion}")
    (tmp_path / "schema.json").write_text("{}")
    given = ["reward=[judge,json_schema]", "reward.judge.base_url=http://localhost/v1", "reward.judge.model=x"]
    files_given = ["reward.judge.prompt_file=prompt.txt", "reward.json_schema.path=schema.json"]
    first = reward_files(compose(*given, *files_given).reward)
    assert set(first) == {"content of reward.judge.prompt_file", "content of reward.json_schema.path"}
    (tmp_path / "prompt.txt").write_text("{completion}!")
    second = reward_files(compose(*given, *files_given).reward)
    assert {key for key in first if first[key] != second[key]} == {"content of reward.judge.prompt_file"}
    assert reward_files(compose(*given, "reward.json_schema.schema={}").reward) == {}
    assert reward_files(compose().reward) == {}


# --- in a run ---


def judged(compose, address, folder, *words):
    return compose(
        *("model=tiny", "device=cpu", "task=arithmetic", "reward=[correctness,judge]"),
        *(f"reward.judge.base_url={address}/v1", "reward.judge.model=referee", f"reward.judge.cache_dir={folder}/kept"),
        *("reward.judge.retries=0", *words),
    )


def by_length(asked):
    """Answers with a score that depends on all that is asked."""
    return said(f"Score: {len(str(asked.content)) % 11}")


@pytest.mark.parametrize(("policy", "total"), [("zero", [0.5, 0.0]), ("skip_group", [0.5, 0.0]), ("stop", None)])
def test_a_failure_is_dealt_with_as_the_settings_say(compose, tmp_path, policy, total):
    with serving(lambda asked: said("Score: 5" if "is 3" in str(asked.content) else "I cannot say")) as service:
        config = judged(compose, service.address, tmp_path, "reward=[judge]", f"reward.judge.on_error={policy}")
        rewards = build_rewards(config.reward)
        samples = samples_of(COMPLETIONS, QUESTIONS)
        if total is None:
            with pytest.raises(RewardError, match="reward judge got no score: there is no score in the judge's reply"):
                score_completions(rewards, samples)
            return
        table = score_completions(rewards, samples)
    assert table.total == total
    assert table.events["judge/errors"] == 1
    assert table.skipped == ({1} if policy == "skip_group" else set())


def test_a_judge_keeps_the_time_limit_of_its_batch(compose, tmp_path):
    with serving(in_turn(said("Score: 5")._replace(after_s=60))) as service:
        limits = ["reward.judge.time_limit=0.5", "reward.judge.on_timeout=zero"]
        rewards = build_rewards(judged(compose, service.address, tmp_path, "reward=[judge]", *limits).reward)
        start = time.perf_counter()
        table = score_completions(rewards, samples_of(COMPLETIONS, QUESTIONS))
    assert time.perf_counter() - start < 10
    assert (table.total, table.events["judge/timeouts"]) == ([0.0, 0.0], 2)


@pytest.mark.slow
def test_a_second_run_is_equal_without_a_request(compose, tmp_path, monkeypatch):
    """As it is after a kill: the replies that decided what was learned are there again."""
    few = [
        *("training.num_batches=2", "training.micro_batch_size=2", "training.log_interval_steps=1"),
        *("grpo.num_generations=2", "evaluation.num_questions=2", "tracker.wandb=false", "tracker.tensorboard=false"),
        *("reward.judge.api_key_env=JUDGE_KEY", "training.first_look=off"),
    ]
    records = []
    with serving(by_length) as service:
        for name in ("first", "second"):
            words = [*few, f"training.checkpoint_dir={tmp_path}/{name}/checkpoints"]
            config = judged(compose, service.address, tmp_path, *words)
            train(dataclasses.replace(config, output_dir=f"{tmp_path}/{name}"))
            rows = [json.loads(line) for line in (tmp_path / name / "completions.jsonl").read_text().splitlines()]
            records.append((len(service.asked), rows))
            service.answer = lambda asked: Answer(b"gone", 500)
    (asked, first), (asked_again, second) = records
    assert 0 < asked == asked_again
    assert first == second
    assert len({row["rewards"]["judge"] for row in first}) > 1
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert [file for file in written if KEY.encode() in file.read_bytes()] == []
