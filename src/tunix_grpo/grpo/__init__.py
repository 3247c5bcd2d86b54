"""GRPO: a step from prompts to an update, and the greedy evaluation."""
