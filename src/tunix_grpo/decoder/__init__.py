"""The arithmetic, once: from token ids to logits, for whole rows and token by token."""
