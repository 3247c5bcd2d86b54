"""What huggingface_hub has stored, compared with what it should be: it compares nothing but sizes.

It stores a large file below the sha256 that the hub says it has, and links to it.
"""

import hashlib
import re
from pathlib import Path

_SHA256 = re.compile(r"[0-9a-f]{64}")
_CLOCKS_S = 2.0  # by which the clock of a network disk may be behind


def remove_damaged(folder: Path, since: float) -> Path | None:
    """Returns the first file below a folder that has arrived damaged, which is removed; None where there is none.

    Args:
        folder: of the links.
        since: `time.time()` of when the download began; what is older has been looked at.
    """
    for link in folder.rglob("*"):
        blob = link.resolve()
        if not (link.is_symlink() and _SHA256.fullmatch(blob.name) and blob.stat().st_mtime >= since - _CLOCKS_S):
            continue
        with blob.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() == blob.name:
                continue
        blob.unlink()
        link.unlink()
        return link
    return None
