"""What completions are worth: one file per reward; the table of all is in `builders.py`."""
