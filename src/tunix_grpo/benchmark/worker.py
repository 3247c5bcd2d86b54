"""The process of what is timed: `python -m tunix_grpo.benchmark.worker own|answers|trl|tunix`, see `link`."""

from __future__ import annotations

import sys

from tunix_grpo.benchmark.link import Link
from tunix_grpo.errors import UserError


def main(program: str) -> None:
    """Makes steps of a program, as asked, until standard input ends."""
    link = Link()
    job = link.receive()
    try:
        if program == "own":
            from tunix_grpo.benchmark.own import serve
        elif program == "answers":
            from tunix_grpo.benchmark.answers import serve
        elif program == "trl":
            from tunix_grpo.benchmark.peer_trl import serve
        else:
            from tunix_grpo.benchmark.peer_tunix import serve
        serve(job, link)
    except UserError as error:
        link.send(error=str(error))


if __name__ == "__main__":
    main(sys.argv[1])
