"""Says which folders an export may replace."""

import re
from pathlib import Path

from tunix_grpo.errors import UserError


def require_replaceable(to: Path, *, overwrite: bool, own_files: re.Pattern[str], mark: str) -> None:
    """Checks that nothing is lost when a folder is replaced.

    Args:
        overwrite: an earlier export may be replaced.
        own_files: names of the files that an export writes.
        mark: text in an export's README.md.

    Raises:
        UserError: something is there that may not be replaced.
    """
    if not to.exists():
        return
    if not overwrite:
        raise UserError(f"to={to} exists already; give another folder, or overwrite=true to replace an earlier export")
    if not to.is_dir():
        raise UserError(f"to={to} is a file; give a folder")
    files = sorted(path.name for path in to.iterdir())
    foreign = [name for name in files if not own_files.fullmatch(name) or not (to / name).is_file()]
    if foreign:
        raise UserError(f"to={to} holds {foreign[0]}, which no export wrote; overwrite=true replaces exports only")
    card = to / "README.md"
    if files and not (card.is_file() and mark in card.read_text()):
        raise UserError(f"to={to} is not an export of this program; overwrite=true replaces exports only")
