"""The tags around the parts of a completion: asked for in prompts, looked for in answers."""

REASONING_START = "<reasoning>"
REASONING_END = "</reasoning>"
ANSWER_START = "<answer>"
ANSWER_END = "</answer>"
TAGS = (REASONING_START, REASONING_END, ANSWER_START, ANSWER_END)
