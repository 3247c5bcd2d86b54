"""Names in a checkpoint folder, apart from what reads and writes them: those who only log need not load Orbax."""

ACTOR = "actor"  # below it there is nothing but whole steps, so that a person may delete any of them by hand
HISTORY = "history.jsonl"  # what a run has logged over all its starts
LOCK = ".lock"
UNFINISHED = ".unfinished"  # where a step is written
