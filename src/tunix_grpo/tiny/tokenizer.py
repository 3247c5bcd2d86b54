"""The tiny model's tokenizer and chat template, in the form of Gemma 3's."""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

from tunix_grpo.text.tags import ANSWER_END, ANSWER_START, REASONING_END, REASONING_START

PAD, EOS, BOS, UNK, START_OF_TURN, END_OF_TURN = SPECIAL_TOKENS = (
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<start_of_turn>",
    "<end_of_turn>",
)
TAGS = (REASONING_START, REASONING_END, ANSWER_START, ANSWER_END)
VOCAB_SIZE = 320
# Digits stand alone; a word takes the space before it, and the space after it if a number follows.
_WORDS = r"\d|\n| ?[^\s\d]+(?: (?=\d))?|\s+"
_FREQUENT_TEXT = "user\nmodel\neasy\nWhat is 1 + 1?\nWhat is 1 - 1?"
_OTHER_TEXT = (
    "Solve the problem. First think it through, step by step. Then give the final answer, and "
    "nothing else. How many are there in all? Find the sum of the numbers and the difference."
)
# The form of Gemma 3: a system message goes in front of the first question.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{%- if messages[0]['role'] == 'system' -%}"
    "{%- set preface = messages[0]['content'] + '\n\n' -%}{%- set turns = messages[1:] -%}"
    "{%- else -%}"
    "{%- set preface = '' -%}{%- set turns = messages -%}"
    "{%- endif -%}"
    "{%- for turn in turns -%}"
    "{%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('Roles have to alternate: user, assistant, user, ...') }}"
    "{%- endif -%}"
    "{{ '<start_of_turn>' + ('model' if turn['role'] == 'assistant' else turn['role']) + '\n'"
    " + (preface if loop.first else '') + turn['content'] | trim + '<end_of_turn>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)


def build_tokenizer() -> Tokenizer:
    """Returns a byte-level BPE tokenizer with Gemma 3's special tokens; it can encode any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCAB_SIZE - len(TAGS),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_FREQUENT_TEXT] * 100 + [_OTHER_TEXT] * 2, trainer)
    # Not special: they are text, which a decoder keeps.
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in TAGS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, SPECIAL_TOKENS.index(BOS))]
    )
    return tokenizer


def prompt_text(question: str) -> str:
    """Returns what the chat template makes of one question."""
    return f"{BOS}{START_OF_TURN}user\n{question}{END_OF_TURN}\n{START_OF_TURN}model\n"
