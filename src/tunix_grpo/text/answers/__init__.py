"""From a completion to its answer, and whether two answers are the same.

Completions are untrusted: nothing here evaluates text, every scan is linear in the length, and values are read only
from answers of at most `MAX_PARSED_CHARS` characters. One grammar (`values.py`) serves for finding and for comparing.

What counts as equal (`answers_match`):

* text: case, surrounding quotes and punctuation, spaces, markup and LaTeX decoration do not matter;
* numbers: by value, exactly for integers: `1,234.50` = `1234.5` = `1 234.5`, `1/2` = `0.5` = `\\frac{1}{2}` = `½`,
  `2 1/2` = `2.5`, `10^3` = `1000`, `\\sqrt{16}` = `4`, `-5` = `−5` = `minus 5`, `3 x 10^4` = `30000`, `1.5 million` =
  `1500000`, digits of all scripts. A comma separates thousands and a point decimals, so `1,234` is not `1.234`;
  the other way round only where nothing else can be meant: `1.234,56`, `0,5`, `3,14`; a gold `1,2` may be two numbers
  and is not `1.2`. `0.\\overline{3}` = `0.(3)` = `1/3`; `two thirds` = `2/3`, `2 and a half` = `2.5`. Sums, products
  and factorials are not worked out: to repeat the question is no answer;
* percent is a unit or a hundredth: `50%` = `50` and `50%` = `0.5`, but `50` is not `0.5`;
* words around the only number are its unit: `72 apples` = `72`. Where both answers have a unit or a currency, it
  must be the same, by any of its names: `72 km` = `72 kilometers`; `72 m` is not `72 km`;
* words that change a number make it none: `not 5`, `5 or 6`, `5-10`, `1990s`, `x5`, `5!`, `step 5`;
* times and ratios term by term: `3:30 pm` = `15:30`, `3 : 4` = `3:4` = `3 to 4`;
* a remark behind the answer does not matter: `7 (see step 3)`, `72, because ...`, `B) 12` = `B`;
* of a worked solution what it marks as its answer, as in a completion.
"""

from tunix_grpo.text.answers.finding import FINAL_MARK, conclusion, extract_answer, marked_answer
from tunix_grpo.text.answers.golds import FORMS, gold_problem, is_quantity
from tunix_grpo.text.answers.matching import MAX_PARSED_CHARS, answers_match

__all__ = [
    "FINAL_MARK",
    "FORMS",
    "MAX_PARSED_CHARS",
    "answers_match",
    "conclusion",
    "extract_answer",
    "gold_problem",
    "is_quantity",
    "marked_answer",
]
