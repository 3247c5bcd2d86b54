"""GRPO training of language models on JAX and Google Tunix, configured with Hydra."""

__version__ = "0.1.0"
