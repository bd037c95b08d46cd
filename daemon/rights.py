"""Whose a folder or file is, for a user who may not use it."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from .errors import NotPermitted


def owner_of(path: Path) -> tuple[Path, str]:
    """The nearest of a path and its parents that this user can look at, and the name of its owner."""
    for place in (path, *path.absolute().parents):
        try:
            return place, user_name(place.stat().st_uid)
        except OSError:
            continue
    return path, "(unknown)"


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a user of the host's, seen from a container
        return str(uid)


def is_others(path: Path) -> bool:
    """Whether a file or folder is there and belongs to another user."""
    try:
        return path.stat().st_uid != os.geteuid()
    except OSError:
        return False


def may_look_into(folder: Path) -> bool:
    """Whether this user may open what is in a folder; what is not there is nobody's."""
    return not os.path.exists(folder) or os.access(folder, os.R_OK | os.X_OK)


def see_allowed(folder: Path) -> None:
    """Raises NotPermitted for an instance's folder that this user may not look into."""
    if not may_look_into(folder):
        raise not_permitted(folder)


def not_permitted(path: Path) -> NotPermitted:
    """For an instance's folder, or a file of it, that this user may not open."""
    place, owner = owner_of(path)
    return NotPermitted(
        f"{place} belongs to user {owner}, and user {user_name(os.geteuid())} may not open "
        f"{'it' if place == path else path.name}: run as that user (sudo -u {owner} ...), "
        f"or set instance.group to a group that both are in"
    )


def explained(error: PermissionError) -> NotPermitted:
    """For any other file."""
    if not isinstance(error.filename, str):
        return NotPermitted(error.strerror or str(error))
    place, owner = owner_of(Path(error.filename))
    whose = f"{'it' if place == Path(error.filename) else place} belongs to user {owner}"
    return NotPermitted(f"{error.filename}: {error.strerror}: {whose}, this is user {user_name(os.geteuid())}")
