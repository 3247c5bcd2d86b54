"""Answers are found and compared as a careful reader would, in time linear in the completion."""

import time

import pytest

from helpers.answer_cases import FURTHER, REPORTED
from helpers.answer_neighbours import NEIGHBOURS
from tunix_grpo.text.answers import answers_match, extract_answer

EXTRACTED = [
    # tags
    ("<reasoning>27 + 48</reasoning><answer>75</answer>", "75"),
    ("<answer>\n 75 \n</answer>", "75"),  # space inside the tags
    ("<answer>1</answer> no: <answer>2</answer>", "2"),  # the last block counts
    ("<answer>1 <answer>2</answer>", "2"),  # opened twice
    ("<answer>1</answer> and <answer>2", "1"),  # a closed block wins over an open one
    ("<reasoning>3</reasoning><answer>75", "75"),  # cut off before the closing tag
    ("</answer><answer>75", "75"),  # closing tag first
    ("75</answer>", "75"),  # only the closing tag: the last number
    ("<answer></answer>", None),  # an empty block is no answer
    ("so 75 <answer> </answer>", None),  # and is not made up for by a number elsewhere
    ("<answer>1 2\n3 4</answer>", "1 2\n3 4"),  # several lines
    # boxed
    ("Thus \\boxed{75}.", "75"),
    ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),  # nested braces
    ("\\boxed{1} then \\boxed{x^{2}+{1}}", "x^{2}+{1}"),  # the last box counts
    ("\\boxed{75", "75"),  # cut off
    ("\\boxed{}", None),
    # the mark of GSM8K
    ("48 / 2 = 24\n#### 72", "72"),
    ("#### 1,234 \nbye", "1,234"),
    ("#### 1\n#### 2", "2"),
    # the last number
    ("It is 7, no, 75.", "75"),
    ("x = -5", "-5"),
    ("from 10-5", "5"),  # a dash between numbers is not a sign
    ("costs $1,234.50 now", "$1,234.50"),
    ("about 50 % of them", "50 %"),
    ("so 3/4", "3/4"),
    ("that is −5", "-5"),  # unicode minus
    ("1.5e3", "1.5e3"),
    # text
    ("Yes", "Yes"),
    ("  Paris \n", "Paris"),
    ("", None),
    (" \n ", None),
]


def test_extract_answer():
    found = [(completion, extract_answer(completion)) for completion, _ in EXTRACTED]
    assert found == EXTRACTED


EQUAL = [
    # plain numbers
    ("72", "72"),
    (" 72 ", "72"),
    ("72.", "72"),  # end of a sentence
    ("72.0", "72"),
    ("72.50", "72.5"),  # trailing zeros
    ("072", "72"),  # leading zeros
    (".5", "0.5"),
    ("5.", "5"),
    ("0", "-0"),
    # signs
    ("+72", "72"),
    ("-72", "-72"),
    ("- 72", "-72"),
    ("−72", "-72"),  # unicode minus
    ("–72", "-72"),  # dash
    # thousands separators
    ("1,234", "1234"),
    ("1,234,567.80", "1234567.8"),
    ("1{,}234", "1234"),  # LaTeX
    ("1\\,234", "1234"),  # LaTeX thin space
    # currency
    ("$72", "72"),
    ("72$", "72"),
    ("-$5", "-5"),
    ("$-5", "-5"),
    ("€1,234.00", "1234"),
    ("\\$72", "72"),
    # percent: a unit or a hundredth
    ("50%", "50"),
    ("50 %", "50%"),
    ("50%", "0.5"),
    ("0.5", "50%"),
    ("50", "50%"),
    ("50\\%", "50"),
    ("50 percent", "50%"),
    # fractions
    ("1/2", "0.5"),
    ("0.5", "1/2"),
    ("2/4", "1/2"),
    ("-1/2", "-0.5"),
    ("1 1/2", "1.5"),  # mixed
    ("\\frac{1}{2}", "0.5"),
    ("\\dfrac{1}{2}", "1/2"),
    ("\\frac12", "1/2"),
    ("-\\frac{1}{2}", "-1/2"),
    ("1\\frac{1}{2}", "1.5"),
    # exponents
    ("1.5e3", "1500"),
    ("1.5 \\times 10^{3}", "1500"),
    ("1.5×10^3", "1500"),
    ("2*10^-2", "0.02"),
    ("1.5 million", "1500000"),
    # LaTeX around it
    ("$72$", "72"),
    ("\\(72\\)", "72"),
    ("\\boxed{72}", "72"),
    ("\\boxed{\\frac{3}{4}}", "0.75"),
    ("72^\\circ", "72"),
    ("72°", "72"),
    ("\\text{Paris}", "Paris"),
    ("72\\text{ cm}", "72"),
    ("\\dfrac{\\sqrt{3}}{2}", "\\frac{\\sqrt{3}}{2}"),
    ("\\sqrt2", "\\sqrt{2}"),
    ("\\left(1, 2\\right)", "(1,2)"),
    # words around the only number
    ("72 apples", "72"),
    ("72", "72 apples"),
    ("72 apple", "72 apples"),
    ("The answer is 72.", "72"),
    ("x = 72", "72"),
    ("24 + 48 = 72", "72"),
    ("25 cm^2", "25"),
    ("25 cm²", "25"),
    ("total = 1,234", "1234"),
    ("60 km/h", "60"),
    ("**72**", "72"),  # bold
    # rounding of floating point in the data
    ("0.3", "0.30000000000000004"),
    # text
    ("Paris", "paris"),
    ("paris.", "Paris"),
    ("'Paris'", "Paris"),
    ("New  York\n", "new york"),
    ("(B)", "B"),
    ("b)", "B"),
    ("(1, 2)", "(1,2)"),
    ("x^2 + 1", "x^2+1"),
    ("x² + 1", "x^2+1"),
    ("\\frac{x + 1}{2}", "\\dfrac{x+1}{2}"),
    ("3:30", "3:30"),
]


def test_equal_answers_match():
    assert [row for row in EQUAL if not answers_match(*row)] == []


# A table to a test: as tests of their own these rows take longer to start than to judge.
@pytest.mark.parametrize(
    "cases",
    [REPORTED, *FURTHER.values(), *NEIGHBOURS.values()],
    ids=["reported", *FURTHER, *(f"near {name}" for name in NEIGHBOURS)],
)
def test_a_completion_is_judged_as_by_a_person(cases):
    judged = []
    for completion, gold, _ in cases:
        answer = extract_answer(completion)
        judged.append((completion, gold, answer is not None and answers_match(answer, gold)))
    assert judged == cases


DIFFERENT = [
    ("73", "72"),
    ("-72", "72"),  # the sign counts
    ("7 2", "72"),
    ("1,234", "1.234"),  # comma is for thousands, point for decimals
    ("1.234", "1234"),
    ("1,23", "123"),  # not a group of three
    ("50", "0.5"),  # without a percent sign
    ("0.5%", "50"),
    ("5%", "50%"),
    ("1/3", "0.33"),  # not rounded
    ("1/0", "0"),
    ("72/1", "1/72"),
    ("71 or 72", "72"),  # two numbers are no answer
    ("3-5", "5"),
    ("(1, 2)", "(2, 1)"),
    ("2x", "2"),  # a product, not a unit
    ("2 x", "2"),
    ("5²", "5"),
    ("x²", "x"),
    ("x = 5, y = 72", "72"),
    ("\\frac{x+1}{2}", "x+1/2"),
    ("5 miles", "5 km"),  # units differ
    ("1.5 million", "1.5"),
    ("66", "Route 66"),  # a name with a number in it is a text
    ("1000000000001", "1000000000000"),  # integers are compared exactly
    ("x", "y"),
    ("ice cream", "icecream"),
    ("", "72"),
    ("", ""),
    ("nan", "0"),
    ("inf", "1"),
    ("1e400", "1e401"),
    ("9**9**9", "9"),
    ("__import__('os')", "72"),
]


def test_different_answers_do_not_match():
    assert [row for row in DIFFERENT if answers_match(*row)] == []


HOSTILE = {
    "repeated opening tags": "<answer>" * 100_000,
    "repeated closing tags": "</answer>" * 100_000,
    "repeated blocks": "<reasoning>a</reasoning><answer>1</answer>" * 25_000,
    "opening tags, one closing": "<answer>" * 100_000 + "</answer>",
    "repeated boxes": "\\boxed{" * 100_000,
    "staged tags": ("<reasoning>" * 80 + "</reasoning>" * 80 + "<answer>" * 90 + "\n" * 600)[:3600],
    "power tower": "9**9**9",
    "power tower in LaTeX": "\\boxed{9^{9^{9}}}",
    "huge exponent": "1e999999999",
    "huge negative exponent": "1e-999999999",
    "long exponent": "1e" + "9" * 900,
    "million digits": "9" * 1_000_000,
    "thousand digits": "9" * 999,
    "million digits tagged": f"<answer>{'9' * 1_000_000}</answer>",
    "long fraction": "1/" + "9" * 900,
    "deep brackets": "(" * 100_000 + ")" * 100_000,
    "deep braces": "\\boxed{" + "{" * 100_000 + "}" * 100_000,
    "many groups": "1,234" * 20_000,
    "many commas": "1," * 50_000,
    "many words": "aaaaaaaa" * 100 + "#",
    "many spaces": "1" + " " * 100_000 + "x",
    "many fractions": "\\frac{" * 150,
    "signs": "+-" * 50_000,
    "slashes": "1 / " * 25_000,
}


@pytest.mark.parametrize("completion", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("gold", ["72", "\\frac{1}{2}"])
def test_hostile_completions_are_read_in_50_ms(completion, gold):
    seconds = []
    for _ in range(3):  # the best of three, in processor time: the machine may be busy
        start = time.thread_time()
        answer = extract_answer(completion)
        matched = answer is not None and answers_match(answer, gold)
        matched |= answers_match(completion, gold)
        seconds.append(time.thread_time() - start)
        assert not matched
    assert min(seconds) < 0.05


REPEATED = [
    *("<answer>", "</answer>", "<answer></answer>", "</answer><answer>", "<think>", "</think>", "<think>a</think>"),
    *("\\boxed{", "\\boxed{}", "####", "#### a\n", "the answer is ", "answer ", "Answer: not ", "answer\n"),
    *("$", "$$", "\\[", "\\frac{", "\\sqrt{", "(", "{", "[", "<", "<sup>", "\\text{", "&nbsp;", "~~", "**"),
    *("1/", "1 ", "1,", "1:", "1.", "2^", "-", "12 345 ", "1 1/2 ", "3 x ", "½", "٣", "x5", "5!", "five ", "= ", "or "),
    *(
        "0.(3)",
        ".5(",
        "3,14 ",
        "1, ",
        "5-6 ",
        "5 to 6 ",
        "half and ",
        "two thirds ",
        "option is ",
        "is … ",
        "< think >",
        "の5",
    ),
    *("$1$", "$1", "\\(1", "(1)-", "x-1", "2 and ", "<1", "|1|", "1 h "),
    "<reasoning>1,234 / 5 \\frac{1}{2} = -6 </reasoning> \\boxed ",
]


@pytest.mark.parametrize("repeated", REPEATED)
def test_time_is_linear_in_the_length(repeated):
    """Eight times the text takes about eight times as long; a square would be sixty-four times."""

    def seconds(text):
        runs = []
        for _ in range(3):
            start = time.thread_time()
            extract_answer(text)
            answers_match(text, "72")
            runs.append(time.thread_time() - start)
        return min(runs)

    short = repeated * (40_000 // len(repeated))
    # What is looked at closely is bounded, so that a short text may take as long as a long one; 5 ms allow for it.
    assert seconds(short * 8) < 20 * seconds(short) + 0.005


def test_nothing_is_evaluated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "__import__('os').system('touch X')"
    for completion in (text, f"<answer>{text}</answer>", f"\\boxed{{{text}}}", f"#### {text}"):
        assert not answers_match(extract_answer(completion), "0")
    assert list(tmp_path.iterdir()) == []
