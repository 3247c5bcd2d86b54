"""Files appear whole or not at all; JSON that is damaged is named in one sentence."""

from pathlib import Path

import pytest

from tunix_grpo.errors import UserError, one_line
from tunix_grpo.files import read_json, read_json_lines, whole_file, whole_folder


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_file_is_replaced_once_it_is_whole(tmp_path: Path):
    file = tmp_path / "notes.txt"
    file.write_text("old")
    with whole_file(file) as written:
        written.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert names_in(tmp_path) == ["notes.txt"]


def test_a_file_that_is_not_finished_leaves_the_old_one(tmp_path: Path):
    file = tmp_path / "notes.txt"
    file.write_text("old")
    with pytest.raises(KeyError), whole_file(file) as written:
        written.write_text("half")
        raise KeyError("interrupted")
    assert file.read_text() == "old"
    assert names_in(tmp_path) == ["notes.txt"]


def test_a_folder_is_replaced_once_it_is_whole(tmp_path: Path):
    folder = tmp_path / "new" / "out"
    for content in ("one", "two"):
        with whole_folder(folder, "to") as written:
            (written / content).write_text(content)
            assert folder.exists() == (content == "two")
    assert names_in(tmp_path) == ["new", "new/out", "new/out/two"]


def test_a_folder_that_is_not_finished_leaves_the_old_one(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    with (
        pytest.raises(UserError, match=r"^to=.*/out: cannot be written \(no room\); choose another folder$"),
        whole_folder(tmp_path / "out", "to") as written,
    ):
        (written / "half").write_text("half")
        raise OSError("no room")
    assert names_in(tmp_path) == ["out", "out/old"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"a": 1', r"not valid JSON \(Expecting ',' delimiter: line 1 column 8 \(char 7\)\)"),
        (b"", r"not valid JSON \(Expecting value: line 1 column 1 \(char 0\)\)"),
        (b"\xff\xfe", r"not valid JSON \('utf-8' codec can't decode byte 0xff .*\)"),
        (b"[1]", "not a JSON object"),
        (None, r"cannot be read \(No such file or directory\)"),
    ],
)
def test_a_damaged_json_file_is_one_sentence(tmp_path: Path, content: bytes | None, problem: str):
    file = tmp_path / "config.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=rf"^{file}: {problem}$"):
        read_json(file)


def test_json_is_read_as_utf8(tmp_path: Path):
    (tmp_path / "a.json").write_bytes('{"é": "数"}'.encode())
    assert read_json(tmp_path / "a.json") == {"é": "数"}


@pytest.mark.parametrize(
    "tail", [b"", b'{"step": 3, "rew', b'{"step": 3}', b"\xf0\x9f"], ids=["ended", "cut", "no newline", "half letter"]
)
def test_a_line_that_is_still_being_written_does_not_count(tmp_path: Path, tail: bytes):
    # U+2028 ends a line for str.splitlines, and not in JSON.
    (tmp_path / "lines").write_bytes('{"step": 1}\n{"step": 2, "text": "\u2028"}\n'.encode() + tail)
    assert read_json_lines(tmp_path / "lines") == [{"step": 1}, {"step": 2, "text": "\u2028"}]


@pytest.mark.parametrize("line", ["oops", "[1]", ""])
def test_a_damaged_line_is_named(tmp_path: Path, line: str):
    (tmp_path / "lines").write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(UserError, match=r"lines:2: not valid JSON \(.+\); remove the line$"):
        read_json_lines(tmp_path / "lines")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\n  two.\n"), "one two"),
        (ValueError(""), "ValueError"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (RuntimeError("x" * 400), "x" * 300 + "..."),
    ],
)
def test_an_error_fits_into_a_line(error: Exception, line: str):
    assert one_line(error) == line
