"""Whether a gold answer can be matched at all by what completions say."""

from tunix_grpo.text.answers.finding import extract_answer, marked_answer
from tunix_grpo.text.answers.matching import MAX_PARSED_CHARS, answers_match
from tunix_grpo.text.answers.plain import plain
from tunix_grpo.text.answers.quantities import read_quantity

MAX_ANSWER_WORDS = 30

EMPTY = "empty"
LONG = f"longer than {MAX_PARSED_CHARS:,} characters"
WHOLE_TEXT = f"a text of more than {MAX_ANSWER_WORDS} words without a marked answer"
UNMATCHED = "not matched by itself in answer tags"

# How completions say an answer: a name of the form -> the completion around it.
FORMS = {
    "<answer>...</answer>": "<answer>{}</answer>",
    "\\boxed{...}": "\\boxed{{{}}}",
    "#### ...": "#### {}",
    "The answer is ...": "The answer is {}.",
}


def is_quantity(text: str) -> bool:
    """Says whether a text states one number, ratio or time."""
    return len(text) <= MAX_PARSED_CHARS and read_quantity(plain(text)) is not None


def gold_problem(gold: str) -> str | None:
    """Returns why no completion can be expected to match a gold answer; None where one can.

    One of EMPTY, LONG, WHOLE_TEXT and UNMATCHED. Of a worked solution the marked answer counts.
    """
    answer = marked_answer(gold).strip()
    if not answer:
        return EMPTY
    if len(answer) > MAX_PARSED_CHARS:
        return LONG
    if len(answer.split()) > MAX_ANSWER_WORDS and not is_quantity(answer):
        return WHOLE_TEXT
    said = extract_answer(FORMS["<answer>...</answer>"].format(answer))
    return None if said is not None and answers_match(said, gold) else UNMATCHED
