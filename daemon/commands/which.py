"""Find the instance that a command is about."""

from __future__ import annotations

from pathlib import Path

from ...actors.control import CONTROL_SOCKET
from ..control import ask
from ..errors import InputMissing, NotPermitted, NotRunning
from ..instance import FOLDER_PREFIX, forbidden_instances, instances
from ..rights import not_permitted, see_allowed

ANSWER_TIMEOUT_S = 1.0


def find_folder(config_file: Path | None, instance: str | None, folder: str) -> Path:
    """The shared-memory folder of an instance, which may or may not be running: rings outlive their daemon.

    Without a name it is the only one that runs, else the only one that is there.

    Raises:
        InputMissing: several and none named, or none of that name.
        NotRunning: there is none.
        NotPermitted: this user may not look into it.
    """
    if config_file is not None:
        from ..loading import load

        found = load(config_file).folder
        see_allowed(found)
        return found
    if instance is not None:
        found = Path(folder) / f"{FOLDER_PREFIX}{instance}"
        if not found.is_dir():
            raise InputMissing(f"there is no instance {instance!r} in {folder}: {_listing(folder)}")
        see_allowed(found)
        return found
    there = list(instances(Path(folder)))
    if len(there) == 1:
        return there[0]  # nobody has to be asked, so one whose daemon hangs is found too
    running = [path for path in there if _answers(path)]
    for candidates in (running, there):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise InputMissing(f"there are several instances in {folder}, choose with --instance: {_listing(folder)}")
    if others := forbidden_instances(Path(folder)):
        raise not_permitted(others[0])
    raise NotRunning(f"there is no instance in {folder}: start one with `tickring run` or `tickring demo`")


def find_instance(config_file: Path | None, instance: str | None, folder: str) -> Path:
    """The control socket of a running instance."""
    return find_folder(config_file, instance, folder) / CONTROL_SOCKET


def _answers(folder: Path) -> bool:
    try:
        ask(folder / CONTROL_SOCKET, "status", timeout_s=ANSWER_TIMEOUT_S)
    except (NotRunning, NotPermitted):
        return False
    return True


def _listing(folder: str) -> str:
    names = [path.name.removeprefix(FOLDER_PREFIX) for path in instances(Path(folder))]
    return ", ".join(names) or "it has none"
