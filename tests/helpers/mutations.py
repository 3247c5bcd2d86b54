"""Random words of a command line, and files with random mistakes: each a function of a random.Random alone."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 0.5, -0.5, 1e-09, 1e308, 2147483648, 9223372036854775808),
    *(-9223372036854775808, 1000000000000000000000000000000, float("inf"), float("nan"), "", " ", "null"),
    *("true", "x", "ä", "\u202e", "a b", "0", "-1", "1e3", "1e400", "nan", "0x10", "1_000", "/", "/dev/null"),
    *("..", "~", "model.safetensors", "a/b", "x" * 5000, "\n", "\t", "\x00", "'", '"', "\\", "{", "}", "%s"),
    *("{0}", "${x}", [], [1], [None], ["a", 1], [[]], [0.5, 0.1], {}, {"a": 1}, {"": None}, {"a": {"b": [1]}}),
)
# As they are typed.
TYPED = (
    *("", "null", "true", "false", "0", "1", "-1", "2", "7", "0.5", "-0.5", "1e-9", "1e308", "1e309", "nan"),
    *("inf", "-inf", "1_0", "9223372036854775808", "1" + "0" * 400, "x", "ä", "a b", "'a b'", '"a"', "'", '"'),
    *("\\", "\\'", "''", "[]", "[1]", "[1,2", "[,]", "{}", "{a:1}", "{a:{b:1}}", "{a:", "${seed}", "${nothing}"),
    *("${training.seed}", "${", "${oc.env:HOME}", "${oc.env:NOTHING}", "${now:%Y}", "${oc.decode:'['}", "???"),
    *("1,2", "a,b", "[1],[2]", "range(1,5)", "choice(1,2)", "glob(*)", "interval(0,1)", "interval(1,0)"),
    *("sort(3,1)", "shuffle(1,2)", "tag(log,interval(1,2))", "int(x)", "str(1)", "range(1,5,0)", "f(1)"),
    *("/dev/null", "/", "..", "~", "~nobody", "x.py:y", "/dev/null:y", "bundled:tiny", "bundled:../..", "auto"),
    *("all", "%", "=", "=a", "#a", "@", "a:b", ":", "x" * 3000, "\t", "\u202e", "1 2", "0x1F", "1e", ".5", "5."),
    *("+1", "--1", "None", "NULL", "True", "yes"),
)
_SIGNS = ("", "", "", "", "", "", "+", "++", "~")


def word(numbers: random.Random, keys: Sequence[str]) -> str:
    """Returns a word of a command line: usually a key that exists, with any value."""
    key = numbers.choice(keys)
    if numbers.random() < 0.05:
        place = numbers.randrange(len(key))
        key = key[:place] + numbers.choice(["", ".", "x", " ", "@", "/", "é", "["]) + key[place + 1 :]
    if numbers.random() < 0.03:
        return numbers.choice(["", key, "=", "--" + key, f"{key}==1", f"={key}", "-h=1", "---", "+", "~", "@", "\x7f"])
    return f"{numbers.choice(_SIGNS)}{key}={numbers.choice(TYPED)}"


def changed_json(numbers: random.Random, content: Any) -> Any:
    """Returns JSON in which one to three places hold something else, are gone or are doubled."""
    content = json.loads(json.dumps(content))
    for _ in range(numbers.randint(1, 3)):
        inside = [content] if not isinstance(content, dict | list) else list(_containers(content))
        place = numbers.choice(inside)
        if isinstance(place, dict) and place:
            key = numbers.choice(list(place))
            if numbers.random() < 0.2:
                del place[key]
            else:
                place[key] = _value(numbers)
        elif isinstance(place, list) and place:
            place[numbers.randrange(len(place))] = _value(numbers)
        else:
            content = _value(numbers) if numbers.random() < 0.1 else content
    return content


def changed_bytes(numbers: random.Random, data: bytes) -> bytes:
    """Returns a file's bytes with something flipped, cut, doubled, or put in between."""
    place, other = (numbers.randrange(len(data) + 1) for _ in range(2))
    begin, end = sorted((place, other))
    match numbers.randrange(6):
        case 0:
            return data[:place]
        case 1:
            return data[:begin] + data[end:]
        case 2:
            return data[:end] + data[begin:]
        case 3:
            rubbish = (
                b"\x00",
                b"\xff\xfe",
                b"\xef\xbb\xbf",
                b"\r\n",
                b"{",
                b"}",
                b'"',
                b"[" * 3000,
                b"NaN",
                b"9" * 5000,
            )
            return data[:place] + numbers.choice(rubbish) + data[place:]
        case 4:
            return bytes(numbers.randrange(256) for _ in range(numbers.randrange(50)))
        case _:
            flipped = bytearray(data)
            for _ in range(numbers.randint(1, 4)):
                flipped[numbers.randrange(len(flipped))] ^= 1 << numbers.randrange(8)
            return bytes(flipped)


def changed_file(numbers: random.Random, data: bytes) -> bytes:
    """Returns a JSON file with mistakes in its values, or in its letters."""
    if numbers.random() < 0.7:
        return json.dumps(changed_json(numbers, json.loads(data)), ensure_ascii=numbers.random() < 0.5).encode(
            "utf-8", "replace"
        )
    return changed_bytes(numbers, data)


def _value(numbers: random.Random) -> Any:
    return copy.deepcopy(numbers.choice(VALUES))


def _containers(value: Any) -> list[Any]:
    found = [value]
    for each in value.values() if isinstance(value, dict) else value:
        if isinstance(each, dict | list):
            found += _containers(each)
    return found
