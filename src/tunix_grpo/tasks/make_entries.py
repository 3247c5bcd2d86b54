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
    """Writes lists of entries to a file, and progress to the standard error stream.

    Args:
        size: entries in each list.
        settings: a file that the task has pickled: of each list, settings of the data set by name.
    """
    with open(settings, "rb") as file:
        given = pickle.load(file)
    lists, reported = [], time.monotonic()
    for each in given:
        seeds.seed_globally(seed)
        dataset = reasoning_gym.create_dataset(name, seed=seed, size=size, **each)
        entries = []
        for index in range(size):
            entries.append(dataset[index])
            if time.monotonic() - reported > REPORT_INTERVAL_S:
                reported = time.monotonic()
                made = len(lists) * size + index + 1
                print(f"{made} of {len(given) * size} questions made", file=sys.stderr, flush=True)
        lists.append(entries)
    with open(output, "wb") as file:
        pickle.dump(lists, file)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5])
