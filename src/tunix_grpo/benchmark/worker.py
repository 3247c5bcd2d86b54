"""The process of what is timed: `python -m tunix_grpo.benchmark.worker own|answers|plan|trl|tunix`, see `link`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from tunix_grpo.benchmark.link import Link
from tunix_grpo.errors import NoRoomError, UserError

# Where memory runs out Linux ends the process with the highest number first, up to 1000.
_ENDED_FIRST = Path("/proc/self/oom_score_adj")


def main(program: str) -> None:
    """Makes steps of a program, as asked, until standard input ends."""
    with contextlib.suppress(OSError):  # another system, or one that does not let us
        _ENDED_FIRST.write_text("1000")
    link = Link()
    job = link.receive()
    try:
        if program == "own":
            from tunix_grpo.benchmark.own import serve
        elif program == "answers":
            from tunix_grpo.benchmark.answers import serve
        elif program == "plan":
            from tunix_grpo.benchmark.planning import serve
        elif program == "trl":
            from tunix_grpo.benchmark.peer_trl import serve
        else:
            from tunix_grpo.benchmark.peer_tunix import serve
        serve(job, link)
    except UserError as error:
        link.send(error=str(error), no_room=isinstance(error, NoRoomError))


if __name__ == "__main__":
    main(sys.argv[1])
