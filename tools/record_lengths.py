"""Records how long real answers are, for `scripts/benchmark.py`.

python tools/record_lengths.py answers DIR
python tools/record_lengths.py completions DIR

DIR is a Hugging Face directory, such as SmolLM2's. Its model answers at temperature 1. Writes to
src/tunix_grpo/assets/benchmark, in tokens with the end-of-turn token included:

* answer_lengths.json, for timed=evaluation: of each answer, with at most 200 tokens, to questions of eight of
  reasoning_gym's data sets that ended by itself;
* completion_lengths.json, for lengths=real: of all completions, with at most 256 tokens, of a benchmark's own prompts,
  those that were cut among them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import reasoning_gym

from tunix_grpo.benchmark.questions import apple_prompts
from tunix_grpo.decoder.drawing import Sampling
from tunix_grpo.grpo.answering import Answered, Request
from tunix_grpo.grpo.rollout import Sampler
from tunix_grpo.model.model import Model
from tunix_grpo.text.prompts import chat_messages
from tunix_grpo.text.tokenizer import Tokenizer, load_tokenizer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from helpers.models import load, one_device_mesh  # noqa: E402

FOLDER = ROOT / "src" / "tunix_grpo" / "assets" / "benchmark"
SETS = (
    "basic_arithmetic",
    "calendar_arithmetic",
    "chain_sum",
    "fraction_simplification",
    "gsm_symbolic",
    "leg_counting",
    "simple_equations",
    "spell_backward",
)
QUESTIONS_OF_EACH, MAX_TOKENS, WIDTH, ROWS, SEED = 16, 200, 256, 64, 42
# As a step on a CPU: tokens of a prompt, completions of each.
STEP_WIDTH, STEP_GROUP, STEP_PROMPTS, STEP_TOKENS, STEP_ROWS = 64, 4, 24, 256, 48


def main(what: str, directory: Path) -> None:
    model = load(directory)
    tokenizer = load_tokenizer(directory, model.spec.vocab_size)
    {"answers": answers, "completions": completions}[what](model, tokenizer)


def answers(model: Model, tokenizer: Tokenizer) -> None:
    entries = [reasoning_gym.create_dataset(name, size=QUESTIONS_OF_EACH, seed=SEED) for name in SETS]
    questions = [entry["question"] for data in entries for entry in data]
    prompts = [tokenizer.encode_prompt(chat_messages(question, None)) for question in questions]
    requests = [Request(number, 0, prompt) for number, prompt in enumerate(prompts)]
    drawn = answered(model, tokenizer, requests, WIDTH, ROWS, MAX_TOKENS)
    lengths = {answer.request.question: len(answer.token_ids) for answer in drawn if not answer.truncated}
    write("answer_lengths.json", [lengths[number] for number in sorted(lengths)])


def completions(model: Model, tokenizer: Tokenizer) -> None:
    prompts = apple_prompts(tokenizer, STEP_PROMPTS, STEP_WIDTH, SEED).ids
    requests = [
        Request(number, sample, prompt) for number, prompt in enumerate(prompts) for sample in range(STEP_GROUP)
    ]
    drawn = answered(model, tokenizer, requests, STEP_WIDTH, STEP_ROWS, STEP_TOKENS)
    write("completion_lengths.json", sorted(len(answer.token_ids) for answer in drawn))


def answered(
    model: Model, tokenizer: Tokenizer, requests: Sequence[Request], width: int, rows: int, max_tokens: int
) -> Iterable[Answered]:
    sampler = Sampler(model, tokenizer, one_device_mesh(), prompt_width=width, seed=SEED)
    sampling = Sampling(num_generations=1, max_tokens=max_tokens, temperature=1.0)
    return sampler.answerer((model.trained, model.frozen), rows).answers(requests, sampling)


def write(name: str, lengths: list[int]) -> None:
    (FOLDER / name).write_text(json.dumps(lengths) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
