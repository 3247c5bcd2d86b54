"""The model families, a file each: their config.json, Tunix's module, and where every weight lives."""

from tunix_grpo.model.families.gemma3 import GEMMA3
from tunix_grpo.model.families.llama import LLAMA
from tunix_grpo.model.families.qwen2 import QWEN2
from tunix_grpo.model.families.qwen3 import QWEN3

FAMILIES = {"gemma3": GEMMA3, "qwen2": QWEN2, "qwen3": QWEN3, "llama": LLAMA}
