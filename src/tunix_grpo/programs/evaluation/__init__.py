"""The parts of `scripts/evaluate.py`: whom it asks, what, the answers, what they come to, and how it is shown."""
