"""The questions: one file per task; the table of all is in `builders.py`."""
