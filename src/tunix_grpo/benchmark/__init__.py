"""GRPO steps against the clock, the machine's limits and other programs."""
