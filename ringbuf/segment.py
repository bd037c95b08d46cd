"""Files in shared memory: create them whole, map them, name what is wrong with them.

A segment gets its name only when it is complete (written under a temporary name, then renamed), and its memory is
reserved with `posix_fallocate`, so that a full tmpfs is an error at creation and not a SIGBUS at the first store.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import LayoutMismatch, NoSpace, SegmentBusy, SegmentMissing

FILE_MODE = 0o640
SHARED_MODE = 0o660  # of a file that others of the group write too
FOLDER_MODE = 0o750
_MADV_POPULATE_WRITE = 23  # of linux/mman.h; `mmap` does not know its name


def prepare_folder(folder: Path, group: str | None = None) -> None:
    """Create the instance's folder, readable by its owner and, where given, one group."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chmod(folder, FOLDER_MODE)
    if group:
        os.chown(folder, -1, grp.getgrnam(group).gr_gid)


def free_bytes(folder: Path) -> int:
    """Bytes an unprivileged process can still reserve in the folder's file system."""
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


def reserve(fd: int, offset: int, size: int, path: Path) -> None:
    """Reserve memory for a range of a segment.

    Raises:
        NoSpace: the file system is full; nothing was lost, the range is simply not there.
    """
    if size <= 0:
        return
    try:
        os.posix_fallocate(fd, offset, size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        free = free_bytes(path.parent)
        raise NoSpace(
            f"segment {path.name}: {size:,} bytes are needed at offset {offset:,} but {path.parent} has {free:,} free: "
            "make the file system larger (mount -o remount,size=... /dev/shm), lower the sizes in [feed] or the number "
            "of symbols, or remove another instance's folder"
        ) from error


def create_segment(
    path: Path,
    size: int,
    fill: Callable[[mmap.mmap], None],
    *,
    reserved: int | None = None,
    mode: int = FILE_MODE,
    group: str | None = None,
) -> None:
    """Make a segment of `size` bytes with the first `reserved` of them backed by memory, and give it its name.

    `fill` writes the header. A file of the same name is replaced: those who have it mapped keep the old one.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size)
        reserve(fd, 0, size if reserved is None else reserved, path)
        with mmap.mmap(fd, size) as memory:
            fill(memory)
        os.fchmod(fd, mode)
        if group:
            os.fchown(fd, -1, grp.getgrnam(group).gr_gid)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    finally:
        os.close(fd)


def populate(memory: mmap.mmap, offset: int, size: int) -> None:
    """Put reserved memory into this process's page table, writable.

    Else the first store to each page costs a fault of 2 µs, and a ring is new for as long as it takes to go round once.
    """
    if not size:
        return
    with contextlib.suppress(OSError):  # Linux before 5.14 cannot: then the stores do it
        memory.madvise(_MADV_POPULATE_WRITE, offset, size)


def open_segment(path: Path, *, writable: bool = False) -> tuple[int, mmap.mmap]:
    """Map an existing segment; the caller closes both.

    Raises:
        SegmentMissing: no such file.
        LayoutMismatch: the file is shorter than a header.
    """
    try:
        fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    except FileNotFoundError:
        raise SegmentMissing(
            f"segment {path.name} is not in {path.parent}: its daemon is not running or does not produce it"
        ) from None
    try:
        size = os.fstat(fd).st_size
        if size < mmap.PAGESIZE:
            raise LayoutMismatch(
                f"segment {path}: {size} bytes, too short for a header: remove it and start the daemon again"
            )
        access = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
        return fd, mmap.mmap(fd, size, mmap.MAP_SHARED, access)
    except BaseException:
        os.close(fd)
        raise


def lock_exclusive(fd: int, what: str, holder: int = 0) -> None:
    """Take the lock that makes this process the only writer; held until `fd` is closed.

    Raises:
        SegmentBusy: another live process holds it.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        who = f"process {holder}" if holder else "another process"
        raise SegmentBusy(
            f"{what}: {who} writes it already: stop that one first (one producer for each stream)"
        ) from None


def is_locked(fd: int) -> bool:
    """Whether somebody holds it exclusively."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def unlock(fd: int) -> None:
    """Give up the lock before its descriptor is closed."""
    fcntl.flock(fd, fcntl.LOCK_UN)


@contextlib.contextmanager
def locked(fd: int) -> Iterator[None]:
    """Hold a short lock on the few structures with more than one writer."""
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)
