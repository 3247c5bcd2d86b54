"""A trained model as Hugging Face files."""
