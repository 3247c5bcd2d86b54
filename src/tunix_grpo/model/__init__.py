"""Models: a Hugging Face directory in, Tunix modules that hold and adapt its weights out, and back."""
