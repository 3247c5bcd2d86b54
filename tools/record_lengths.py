"""Records how long real answers are, for `scripts/benchmark.py timed=evaluation`.

python tools/record_lengths.py DIR

DIR is a Hugging Face directory, such as SmolLM2's. Its model answers questions of eight of reasoning_gym's data sets,
at temperature 1 and with at most 200 tokens. Writes src/tunix_grpo/assets/benchmark/answer_lengths.json: tokens of
each answer that ended by itself, the end-of-turn token included.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import reasoning_gym

from tunix_grpo.decoder.drawing import Sampling
from tunix_grpo.grpo.answering import Request
from tunix_grpo.grpo.rollout import Sampler
from tunix_grpo.text.prompts import chat_messages
from tunix_grpo.text.tokenizer import load_tokenizer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from helpers.models import load, one_device_mesh  # noqa: E402

FILE = ROOT / "src" / "tunix_grpo" / "assets" / "benchmark" / "answer_lengths.json"
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


def main(directory: Path) -> None:
    model = load(directory)
    tokenizer = load_tokenizer(directory, model.spec.vocab_size)
    entries = [reasoning_gym.create_dataset(name, size=QUESTIONS_OF_EACH, seed=SEED) for name in SETS]
    questions = [entry["question"] for data in entries for entry in data]
    prompts = [tokenizer.encode_prompt(chat_messages(question, None)) for question in questions]
    requests = [Request(number, 0, prompt) for number, prompt in enumerate(prompts)]
    sampler = Sampler(model, tokenizer, one_device_mesh(), prompt_width=WIDTH, seed=SEED)
    sampling = Sampling(num_generations=1, max_tokens=MAX_TOKENS, temperature=1.0)
    answers = sampler.answerer((model.trained, model.frozen), ROWS).answers(requests, sampling)
    lengths = {answer.request.question: len(answer.token_ids) for answer in answers if not answer.truncated}
    FILE.write_text(json.dumps([lengths[number] for number in sorted(lengths)]) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
