"""Makes the questions of a reasoning_gym data set: a program of its own, run by the task.

Some data sets depend on Python's hash seed or on the global random state. In a process where both
are fixed, the questions are a function of the arguments alone.
"""

import pickle
import sys
import time

import reasoning_gym

from tunix_grpo import seeds

REPORT_INTERVAL_S = 30.0


def main(name: str, seed: int, size: int, settings: str, output: str) -> None:
    """Writes the list of entries to a file, and progress to the standard error stream.

    Args:
        settings: a file that the task has pickled: settings of the data set by name.
    """
    seeds.seed_globally(seed)
    with open(settings, "rb") as file:
        given = pickle.load(file)
    dataset = reasoning_gym.create_dataset(name, seed=seed, size=size, **given)
    entries, reported = [], time.monotonic()
    for index in range(size):
        entries.append(dataset[index])
        if time.monotonic() - reported > REPORT_INTERVAL_S:
            reported = time.monotonic()
            print(f"{index + 1} of {size} questions made", file=sys.stderr, flush=True)
    with open(output, "wb") as file:
        pickle.dump(entries, file)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5])
