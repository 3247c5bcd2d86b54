"""Each reward of the package gives what its page says, also of texts that were made to hurt."""

import json
import time

import pytest

from helpers.samples import samples_of
from tunix_grpo.errors import UserError
from tunix_grpo.record.facts import largest_reward
from tunix_grpo.rewards.builders import build_rewards
from tunix_grpo.rewards.format import build_format_reward
from tunix_grpo.rewards.json_schema import build_json_schema_reward
from tunix_grpo.rewards.length import build_length_reward
from tunix_grpo.rewards.overlong import build_overlong_reward
from tunix_grpo.rewards.regex import build_regex_reward
from tunix_grpo.rewards.repetition import build_repetition_reward
from tunix_grpo.tasks.base import Question

QUESTION = Question("What is 1 + 2?", "3", {"level": 1})
HOSTILE = {
    "empty": "",
    "long": "x" * 100_000,
    "words": "word " * 20_000,
    "tags": "<reasoning>" * 5_000 + "<answer>" * 5_000 + "</answer>" * 5_000 + "</reasoning>",
    "tower": "<answer>9**9**9</answer>",
    "brackets": "[" * 100_000,
    "closed brackets": "[" * 50_000 + "]" * 50_000,
    "braces": '{"a":' * 20_000,
    "digits": "9" * 1_000_000,
    "digits in JSON": '{"name": ' + "9" * 1_000_000 + "}",
    "surrogate": "\ud800 \x00 \u202e",
    "backtracking": "a" * 50_000 + "!",
}


def scores(reward, completions, **changed):
    """Returns the values that a reward gives, without their extras."""
    given = reward(samples_of(completions, [QUESTION] * len(completions), **changed))
    return [getattr(each, "value", each) for each in given]


def extras(reward, completion):
    (given,) = reward(samples_of([completion], [QUESTION]))
    return given.extras


# --- format: the package's own tags are in test_rewards.py ---

THINK = [
    # completion, its score, and that behind a prompt which ends with the tag
    ("<think>r</think>a", 1.0, 0.5),
    (" <think>\nr\n</think>\n\na\n", 1.0, 0.5),
    ("r</think>a", 0.5, 1.0),
    ("</think>a", 0.5, 0.5),  # no thought
    ("Well <think>r</think>a", 0.5, 0.5),
    ("<think> </think>a", 0.5, 0.5),
    ("<think>r</think>", 0.0, 0.0),  # no answer
    ("<think>r</think> \n", 0.0, 0.0),
    ("<think>r", 0.0, 0.0),  # cut off
    ("a", 0.0, 0.0),
    ("", 0.0, 0.0),
    ("<think>r</think>a<think>", 0.0, 0.0),  # thinks again
    ("<think>r</think>a</think>b", 0.0, 0.0),
    ("<think><think>r</think>a", 0.5, 0.5),
    ("</think>a<think>r", 0.0, 0.0),
    ("<THINK>r</THINK>a", 0.0, 0.0),
]


@pytest.mark.parametrize(("completion", "alone", "begun"), THINK)
def test_thinking_and_then_an_answer(completion, alone, begun):
    reward = build_format_reward(reasoning="think", answer=None)
    assert scores(reward, [completion]) == [alone]
    assert scores(reward, [completion], prompts=["<user>What?<assistant><think>\n"]) == [begun]


OTHER_TAGS = [
    ("think", "answer", "<think>r</think><answer>a</answer>", 1.0),
    ("think", "answer", "<reasoning>r</reasoning><answer>a</answer>", 0.5),
    ("[THINK] [/THINK]", None, "[THINK]r[/THINK]a", 1.0),
    (
        "<|begin_of_thought|> <|end_of_thought|>",
        "<|a|> <|/a|>",
        "<|begin_of_thought|>r<|end_of_thought|><|a|>b<|/a|>",
        1.0,
    ),
    ("(.*) [.*]", "answer", "(.*)r[.*]<answer>a</answer>", 1.0),  # tags are no patterns
]


@pytest.mark.parametrize(("reasoning", "answer", "completion", "score"), OTHER_TAGS)
def test_tags_of_other_names(reasoning, answer, completion, score):
    assert scores(build_format_reward(reasoning=reasoning, answer=answer), [completion]) == [score]


def test_a_template_may_open_the_tags_of_the_package_too():
    reward = build_format_reward(reasoning="reasoning", answer="answer")
    completion = "r</reasoning><answer>a</answer>"
    assert scores(reward, [completion]) == [0.5]
    assert scores(reward, [completion], prompts=["<assistant><reasoning>"]) == [1.0]


@pytest.mark.parametrize(
    ("reasoning", "answer", "said"),
    [
        ("a b c", "answer", "reward.format.reasoning=a b c: names no tags; give a word"),
        ("<think>", "answer", "reward.format.reasoning=<think>: names no tags"),
        ("think", "<a> <a>", "reward.format.answer=<a> <a>: names no tags"),
        ("think", "think", "have a tag in common"),
        ("<a> </a>", "<b> </a>", "have a tag in common"),
    ],
)
def test_what_names_no_tags(reasoning, answer, said):
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        build_format_reward(reasoning=reasoning, answer=answer)


# --- lengths ---


def test_overlong_is_dapo_s_penalty():
    lengths = [1, 80, 85, 90, 99, 100, 120]
    wanted = [0.0, 0.0, -0.25, -0.5, -0.95, -1.0, -1.0]
    reward = build_overlong_reward(max_length=100, cache=20)
    assert scores(reward, [""] * 7, token_lengths=lengths) == pytest.approx(wanted, abs=1e-12)
    # the largest length is the run's, and the cache a fifth of it
    reward = build_overlong_reward(max_length=None, cache=None)
    assert scores(reward, [""] * 7, token_lengths=lengths, max_tokens=100) == pytest.approx(wanted, abs=1e-12)


def test_overlong_without_a_cache_is_a_step():
    reward = build_overlong_reward(max_length=100, cache=0)
    assert scores(reward, [""] * 3, token_lengths=[99, 100, 101]) == [0.0, 0.0, -1.0]
    assert scores(build_overlong_reward(max_length=1, cache=1), [""] * 2, token_lengths=[0, 1]) == [0.0, -1.0]


def test_length_is_the_distance_in_targets():
    reward = build_length_reward(target=50)
    lengths = [50, 40, 60, 0, 100, 5_000_000]
    assert scores(reward, [""] * 6, token_lengths=lengths) == pytest.approx([0.0, -0.2, -0.2, -1.0, -1.0, -1.0])


# --- repetition ---

REPETITIONS = [
    ("", 0.0),
    ("one two", 0.0),  # shorter than an n-gram
    ("one two three", 0.0),
    ("one two three four five", 0.0),
    ("one two three one two three", -0.25),  # 3 of 4 are different
    ("One two THREE one two three", -0.25),
    ("a a a a", -0.5),
    ("a " * 102, -0.99),
]


@pytest.mark.parametrize(("completion", "score"), REPETITIONS)
def test_repetition_is_the_share_of_ngrams_that_stood_there_before(completion, score):
    assert scores(build_repetition_reward(ngram_size=3, unit="words"), [completion]) == pytest.approx([score])


def test_repetition_of_characters():
    texts = ["好的" * 51, "一二三四五六", "abcab"]
    reward = build_repetition_reward(ngram_size=2, unit="characters")
    assert scores(reward, texts) == pytest.approx([-(1 - 2 / 101), 0.0, -0.25])
    assert scores(build_repetition_reward(ngram_size=2, unit="words"), texts) == [0.0, 0.0, 0.0]


# --- regex ---

PATTERNS = [
    (r"\d+", "search", "is 42.", 1.0),
    (r"\d+", "search", "is it", 0.0),
    (r"\d+", "full", "is 42.", 0.0),
    (r"\d+", "full", "42", 1.0),
    (r"^yes", "search", "Yes", 0.0),
    (r"(?i)^yes", "search", "Yes", 1.0),
    (r"a.b", "search", "a\nb", 0.0),
    (r"(?s)a.b", "search", "a\nb", 1.0),
    (r"", "search", "", 1.0),
    (r"\p{Han}", "search", "好", 1.0),
]


@pytest.mark.parametrize(("pattern", "match", "completion", "score"), PATTERNS)
def test_regex(pattern, match, completion, score):
    assert scores(build_regex_reward(pattern=pattern, match=match, value=1.0, timeout_s=1.0), [completion]) == [score]
    assert scores(build_regex_reward(pattern=pattern, match=match, value=-2.5, timeout_s=1.0), [completion]) == [
        -2.5 * score
    ]


def test_a_pattern_that_would_take_for_ever_is_given_up():
    reward = build_regex_reward(pattern=r"(a|aa)+$", match="search", value=1.0, timeout_s=0.1)
    start = time.perf_counter()
    assert extras(reward, "a" * 50_000 + "!") == {"too_slow": 1.0}
    assert time.perf_counter() - start < 5
    assert extras(reward, "aa") == {"too_slow": 0.0}


@pytest.mark.parametrize("pattern", ["(", "[a", "*", "(?P<x>a)(?P=y)", "a{3,2}", "\\"])
def test_what_is_no_pattern(pattern):
    with pytest.raises(UserError, match=r"reward.regex.pattern=.*: is no regular expression \(.*\); mend it"):
        build_regex_reward(pattern=pattern, match="search", value=1.0, timeout_s=1.0)


# --- json_schema ---

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "pattern": "^(a|aa)+$"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}
DOCUMENTS = [
    ('{"name": "aaa"}', 1.0, 1.0),
    (' {"name": "a", "age": 3}\n', 1.0, 1.0),
    ('```json\n{"name": "a"}\n```', 1.0, 1.0),
    ('<think>{"name": 1}</think>{"name": "a"}', 1.0, 1.0),
    ('{"name": "b"}', 1.0, 0.0),
    ('{"name": "a", "age": -1}', 1.0, 0.0),
    ('{"name": "a", "more": 1}', 1.0, 0.0),
    ("{}", 1.0, 0.0),
    ("3", 1.0, 0.0),
    ("null", 1.0, 0.0),
    ('Here it is: {"name": "a"}', 0.0, 0.0),
    ('{"name": "a"', 0.0, 0.0),
    ("{'name': 'a'}", 0.0, 0.0),
    ('{"name": "a", "age": NaN}', 0.0, 0.0),
    ("", 0.0, 0.0),
]


@pytest.fixture(scope="module")
def schema_reward():
    return build_json_schema_reward(schema=SCHEMA, path=None, where="completion", timeout_s=20.0, workers=1)


@pytest.mark.parametrize(("completion", "parsed", "score"), DOCUMENTS)
def test_json_schema(schema_reward, completion, parsed, score):
    assert scores(schema_reward, [completion]) == [score]
    assert extras(schema_reward, completion) == {"parsed": parsed}


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ('so <answer>{"name": "a"}</answer>', 1.0),
        ('<answer>{"name": 1}</answer> no, <answer>{"name": "a"}</answer>', 1.0),
        ('<answer>{"name": "a"}', 0.0),
        ('{"name": "a"}', 0.0),
    ],
)
def test_json_in_answer_tags(completion, score, tmp_path):
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA))
    reward = build_json_schema_reward(schema=None, path=str(file), where="answer", timeout_s=20.0, workers=1)
    assert scores(reward, [completion]) == [score]


def test_a_schema_that_would_take_for_ever_on_a_text_is_given_up(schema_reward):
    reward = build_json_schema_reward(schema=SCHEMA, path=None, where="completion", timeout_s=0.5, workers=1)
    start = time.perf_counter()
    assert scores(reward, ['{"name": "' + "a" * 5_000 + '!"}', '{"name": "aa"}']) == [0.0, 1.0]
    assert time.perf_counter() - start < 30


def test_a_schema_that_refers_to_itself_is_safe_with_deep_values():
    schema = {"$ref": "#/$defs/n", "$defs": {"n": {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/n"}}]}}}
    reward = build_json_schema_reward(schema=schema, path=None, where="completion", timeout_s=20.0, workers=1)
    assert scores(reward, ["[[], [[]]]", "[" * 900 + "]" * 900, "[1]"]) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"$schema": 7}, r"is no JSON schema \(its \$schema is no text but 7\); mend it"),
        ({"type": "objekt"}, r"reward.json_schema.schema: is no JSON schema \(at \$.type: 'objekt' is not valid"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "it refers to #/\\$defs/b, which is not in it"),
        ({"$ref": "http://127.0.0.1:9/x.json"}, "it refers to http://127.0.0.1:9/x.json, which is not in it"),
        (None, "one of the two is needed, not both"),
    ],
)
def test_what_is_no_schema(schema, said):
    with pytest.raises(UserError, match=said):
        build_json_schema_reward(schema=schema, path=None, where="completion", timeout_s=1.0, workers=1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"cannot be read \(No such file or directory\); give a JSON file"),
        ("{", r"is not valid JSON \(.*\); give a JSON file"),
        ("[" * 100_000, "is not valid JSON"),
        ("[1]", r"is no JSON schema \(it is not an object\); mend it"),
    ],
)
def test_what_is_no_file_with_a_schema(content, said, tmp_path):
    file = tmp_path / "schema.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=f"^reward.json_schema.path={file}: {said}"):
        build_json_schema_reward(schema=None, path=str(file), where="completion", timeout_s=1.0, workers=1)


# --- all of them ---


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_completions_get_finite_scores_in_little_time(name, schema_reward):
    rewards = [
        schema_reward,
        build_format_reward(reasoning="reasoning", answer="answer"),
        build_format_reward(reasoning="think", answer=None),
        build_length_reward(target=10),
        build_overlong_reward(max_length=None, cache=None),
        build_repetition_reward(ngram_size=3, unit="words"),
        build_repetition_reward(ngram_size=20, unit="characters"),
        build_regex_reward(pattern=r"(a|aa)+$", match="search", value=1.0, timeout_s=0.2),
    ]
    for reward in rewards:
        start = time.perf_counter()
        (score,) = scores(reward, [HOSTILE[name]])
        assert -1.0 <= score <= 1.0
        assert time.perf_counter() - start < 10  # the worker of json_schema takes a second to start


def test_the_options_fill_in_all_settings(compose, tmp_path):
    """What conf/ says builds each reward, and the largest total is known where the bounds are."""
    given = ["reward.length.target=50", "reward.regex.pattern='(a|b)+, c'", "reward.json_schema.schema={type: object}"]
    names = "format,length,overlong,repetition,regex,json_schema"
    config = compose("task=arithmetic", f"reward=[{names}]", "reward.regex.value=-2", *given)
    rewards = build_rewards(config.reward)
    assert sorted(reward.name for reward in rewards) == sorted(names.split(","))
    assert config.reward.regex.pattern == "(a|b)+, c"
    assert largest_reward(config.reward) == 0.5 + 1.0  # format and json_schema; the others are penalties


def test_a_penalty_over_more_tokens_than_there_are_is_refused(compose):
    with pytest.raises(UserError, match="reward.overlong.cache=500 and .*: the penalty would grow over more tokens"):
        compose("reward=[overlong]", "generation.max_generation_steps=100", "reward.overlong.cache=500")


def test_names_in_a_schema_are_not_taken_for_settings(compose):
    schema = "{type: object, default: {weight: 0, function: x}}"
    config = compose("reward=[json_schema]", f"reward.json_schema.schema={schema}")
    assert config.reward.json_schema.schema["default"] == {"weight": 0, "function": "x"}
