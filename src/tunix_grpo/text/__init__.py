"""Words: prompts, answers, the tokenizer and the sets of prompts that steps read; nothing here knows jax."""
