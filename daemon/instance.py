"""An instance's folder in shared memory: one supervisor at a time, its streams, and what is left when it goes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..ringbuf import keys as key_directory
from ..ringbuf.bytering import ByteRingReader, bytes_filename, create_byte_ring
from ..ringbuf.errors import RingError
from ..ringbuf.page import FILE_SIZE as PAGE_FILE_SIZE
from ..ringbuf.page import page_filename
from ..ringbuf.readers import ReaderFile
from ..ringbuf.segment import free_bytes, prepare_folder
from ..ringbuf.stream import StreamReader, create_stream, read_spec
from .errors import FolderUnusable, InstanceBusy, SpaceShort
from .plan import ActorPlan, Plan
from .rights import is_others, may_look_into, owner_of

log = logging.getLogger(__name__)

LOCK_FILE = "lock"
FOLDER_PREFIX = "tickring-"
SUPERVISOR = "supervisor"  # name of the supervisor's own metrics page
RINGS_READ_WAIT_S = 10.0  # a ring that is to go waits so long for the writer to have read it
# Files that belong to a producer or an actor; whatever else stands in the folder is not ours to remove at a start.
OWNED_SUFFIXES = (".ring", ".readers", ".keys", ".bytes", ".positions", ".page")


class InstanceLock:
    """The right to be an instance's supervisor, held until `release` or the end of the process, however it ends."""

    def __init__(self, folder: Path, fd: int) -> None:
        self.folder, self.fd = folder, fd

    @classmethod
    def take(cls, folder: Path, facts: dict[str, Any]) -> InstanceLock:
        """Lock the folder and leave `facts` (JSON) in the lock file for whoever finds it taken.

        Raises:
            InstanceBusy: another supervisor holds it.
        """
        path = folder / LOCK_FILE
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _facts(fd)
                os.close(fd)
                name = folder.name.removeprefix(FOLDER_PREFIX)
                raise InstanceBusy(
                    f"instance {name!r} runs already: process {holder.get('pid', 'unknown')} holds {path}. "
                    f"Stop it first (tickring stop --instance {name}), or give this one another instance.name."
                ) from None
            if _same_file(fd, path):  # else its owner removed it between our open and our lock
                break
            os.close(fd)
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(facts | {"pid": os.getpid(), "since_ns": time.time_ns()}).encode(), 0)
        return cls(folder, fd)

    def release(self) -> None:
        os.close(self.fd)


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _facts(fd: int) -> dict[str, Any]:
    try:
        return json.loads(os.pread(fd, 4096, 0))
    except ValueError:
        return {}


def open_folder(plan: Plan, facts: dict[str, Any] | None = None) -> InstanceLock:
    """Make the instance's folders and lock them. Raises FolderUnusable or InstanceBusy."""
    try:
        prepare_folder(plan.folder, plan.group or None)
        plan.data.mkdir(parents=True, exist_ok=True, mode=0o750)
        return InstanceLock.take(plan.folder, {"data": str(plan.data), **(facts or {})})
    except (OSError, KeyError) as error:
        where = Path(getattr(error, "filename", None) or plan.folder)
        if where in (plan.folder, plan.folder / LOCK_FILE) and is_others(where):
            raise FolderUnusable(
                f"{where} belongs to user {owner_of(where)[1]}: remove it (sudo rm -r {plan.folder}) if no daemon "
                f"of that user runs there, or choose another instance.name"
            ) from None
        raise FolderUnusable(
            f"folder {where} cannot be made or handed to group {plan.group or '(none)'!r}: {error}. "
            f"Set instance.folder and instance.data to places this user may write."
        ) from None


def prepare_streams(plan: Plan) -> int:
    """Bring the folder to what the plan says: remove what nobody produces any more, check the room, make what is new.

    Streams and key directories that match are kept with their records, so a restarted daemon goes on where the last
    one ended. Returns the number of streams made anew.

    Raises:
        SpaceShort: the file system cannot hold the sum of all streams.
    """
    remove_leftovers(plan)
    for actor in plan.actors:
        _drop_mismatched_keys(plan.folder, actor)
    check_space(plan)
    return sum(make_streams(plan, actor) for actor in plan.actors)


def make_streams(plan: Plan, actor: ActorPlan) -> int:
    """Make those of an actor's streams that are not there as it needs them; returns how many.

    The actor must not run: a stream that no longer fits is replaced, with its numbering.

    Raises:
        NoSpace: the file system cannot hold them.
    """
    if not actor.streams:
        return 0
    _drop_mismatched_keys(plan.folder, actor)
    path = plan.folder / key_directory.keys_filename(actor.name)
    if not path.exists():
        key_directory.create_keys(path, actor.streams[0].keys_max, group=plan.group or None)
    epoch_ns = time.time_ns()
    for name, capacity in actor.byte_rings:
        create_byte_ring(plan.folder / bytes_filename(actor.name, name), capacity, epoch_ns, group=plan.group or None)
    return sum(create_stream(plan.folder, spec, epoch_ns, group=plan.group or None) for spec in actor.streams)


def remove_leftovers(plan: Plan, *, half_made: bool = True) -> list[str]:
    """Remove files of streams and actors that are no longer configured; returns their names.

    `half_made` ones go too, unless actors run, which may be making them.
    """
    removed = sorted(
        path.name
        for path in plan.folder.iterdir()
        if (half_made and path.name.startswith(".")) or _is_leftover(plan, path)
    )
    for name in removed:
        (plan.folder / name).unlink(missing_ok=True)
    if removed:
        listing = ", ".join(removed)
        log.info("folder=%s removed=%d files that nothing configured uses: %s", plan.folder, len(removed), listing)
    return removed


def _is_leftover(plan: Plan, path: Path) -> bool:
    """Whether a finished file belongs to a stream or an actor that the plan does not have."""
    if path.suffix not in OWNED_SUFFIXES or path.name.startswith("."):
        return False
    expected = {page_filename(name) for name in (SUPERVISOR, *(actor.name for actor in plan.actors))}
    expected |= {key_directory.keys_filename(actor.name) for actor in plan.actors if actor.streams}
    for spec in plan.streams:
        expected |= {spec.filename, spec.readers_filename}
    # what producers make for themselves is left over where there is no such producer
    producers = tuple(f"{actor.name}." for actor in plan.actors)
    own = path.suffix in (".bytes", ".positions") and path.name.startswith(producers)
    return path.name not in expected and not own


def unread_leftovers(plan: Plan) -> bool:
    """Whether a durable reader still wants records of a ring that is left over."""
    return any(_is_leftover(plan, path) and _is_unread(path) for path in plan.folder.glob("*.ring"))


def unread_misfits(folder: Path, actor: ActorPlan) -> bool:
    """Whether a durable reader still wants records of a ring that the actor's next start replaces."""
    paths = [folder / spec.filename for spec in actor.streams if not _is_kept(folder, spec)]
    return any(_is_unread(path) for path in paths if path.exists())


def _is_unread(path: Path) -> bool:
    producer, _, record = path.stem.rpartition(".")
    try:
        readers = ReaderFile(path.with_suffix(".readers"))
        cursor = readers.durable_cursor()
        readers.close()
        stream = StreamReader(path.parent, producer, record)
        published = stream.published()
        stream.close()
    except (RingError, OSError):
        return False
    return cursor is not None and cursor < published


def kept_producers(plan: Plan) -> list[str]:
    """Names of the producers that find all their streams as they need them, and go on with them."""
    return [
        actor.name
        for actor in plan.actors
        if actor.streams
        and _keys_match(plan.folder, actor)
        and all(_is_kept(plan.folder, spec) for spec in actor.streams)
    ]


def _drop_mismatched_keys(folder: Path, actor: ActorPlan) -> None:
    """Without its key directory and byte rings a producer's streams cannot be read: the numbers would mean others."""
    if actor.streams and not _keys_match(folder, actor):
        (folder / key_directory.keys_filename(actor.name)).unlink(missing_ok=True)
        for spec in actor.streams:
            (folder / spec.filename).unlink(missing_ok=True)


def _keys_match(folder: Path, actor: ActorPlan) -> bool:
    try:
        reader = key_directory.KeyReader(folder / key_directory.keys_filename(actor.name))
    except RingError:
        return False
    matches = reader.keys_max == actor.streams[0].keys_max
    reader.close()
    return matches and all(_has_byte_ring(folder, actor.name, *ring) for ring in actor.byte_rings)


def _has_byte_ring(folder: Path, producer: str, name: str, capacity: int) -> bool:
    try:
        reader = ByteRingReader(folder / bytes_filename(producer, name))
    except RingError:
        return False
    found = reader.capacity
    reader.close()
    return found == capacity


def memory_needed(plan: Plan) -> tuple[int, int]:
    """(bytes of all streams, key directories and pages; of these, bytes in files that are there and are kept)."""
    keys = sum(
        key_directory.ROWS_AT + key_directory.ROW_SIZE * actor.streams[0].keys_max
        for actor in plan.actors
        if actor.streams
    )
    needed = plan.memory_bytes + keys + PAGE_FILE_SIZE * (len(plan.actors) + 1)
    held = sum(_reserved(plan.folder / spec.filename) for spec in plan.streams if _is_kept(plan.folder, spec))
    held += sum(_reserved(path) for suffix in (".keys", ".bytes", ".page") for path in plan.folder.glob(f"*{suffix}"))
    return needed, held


def check_space(plan: Plan) -> None:
    """Refuse to start if the streams cannot all be held, instead of failing at some later record. Raises SpaceShort."""
    needed, held = memory_needed(plan)
    free = free_bytes(plan.folder if plan.folder.exists() else plan.folder.parent)
    if needed - held > free:
        raise SpaceShort(
            f"the rings need {needed:,} bytes in {plan.folder}, which has {free:,} free"
            f"{f' and {held:,} held by rings that are kept' if held else ''}. "
            f"Enlarge it (mount -o remount,size=... /dev/shm; docker run --shm-size=...), set instance.folder to "
            f"another memory file system, or lower the capacities in [feed] and the number of symbols."
        )


def _is_kept(folder: Path, spec: Any) -> bool:
    try:
        return read_spec(folder / spec.filename)[0] == spec
    except RingError:
        return False


def _reserved(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def purge(folder: Path) -> None:
    """Remove the folder with everything in it; the caller holds its lock, whose file goes last."""
    with contextlib.suppress(FileNotFoundError):
        for path in sorted(folder.iterdir(), key=lambda path: path.name == LOCK_FILE):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        folder.rmdir()


def tidy(folder: Path) -> None:
    """What a stopped daemon takes away: pages, sockets and lists of clients speak of processes that are gone."""
    for suffix in (".page", ".sock", ".ws"):
        for path in folder.glob(f"*{suffix}"):
            path.unlink(missing_ok=True)


def instances(base: Path) -> Iterator[Path]:
    """Folders of all instances under a folder that this user may look into, running or not."""
    yield from sorted(path.parent for path in base.glob(f"{FOLDER_PREFIX}*/{LOCK_FILE}"))


def forbidden_instances(base: Path) -> list[Path]:
    """Folders of what may be instances of other users, who keep them to themselves."""
    return sorted(path for path in base.glob(f"{FOLDER_PREFIX}*") if path.is_dir() and not may_look_into(path))


def remove_dead(base: Path, prefix: str) -> None:
    """Remove instances that were to leave nothing behind but whose supervisor was killed: their lock is free."""
    for folder in instances(base):
        if not folder.name.startswith(FOLDER_PREFIX + prefix):
            continue
        try:
            fd = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # another user's, or just removed
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            facts = _facts(fd)
            if facts.get("temporary") and (data := facts.get("data")):
                shutil.rmtree(data, ignore_errors=True)
            if facts.get("temporary"):
                purge(folder)
        except BlockingIOError:
            continue  # alive
        finally:
            os.close(fd)
