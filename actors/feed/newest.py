"""The newest trades of a feed by their ids, for a start whose rings are not those of the last life.

While the rings are there they say where counting goes on. After an orderly end they may be gone: a machine that is
rebooted begins with an empty /dev/shm, a changed layout with new rings. What the exchange sent meanwhile would then be
missing in no ledger. So the ids are written down at the end.

After a kill there is nothing to be written down, and the ids of the last orderly end are old ones. They count no more
for other rings than those of the life that began with them, then: what those held and nobody stored is in the writer's
ledger.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

log = logging.getLogger(__name__)


class _Kept(msgspec.Struct):
    epoch: int  # of the ring that is, or was, followed with them
    ended: bool  # that life ended in order, with these ids
    ids: dict[str, list[int]]  # by instrument and kind, ascending


class NewestIds:
    """The file ``newest/<feed>.json`` of the data folder. Replaced whole.

    Args:
        epoch: of the present ring.
    """

    def __init__(self, data: Path, feed: str, epoch: int) -> None:
        self._path, self._epoch = data / "newest" / f"{feed}.json", epoch
        kept = self._load()
        self._ids = kept.ids if kept is not None and (kept.ended or kept.epoch == epoch) else {}
        self._store(ended=False)

    def behind(self, instrument: str, kind: str, ids: Sequence[int]) -> list[int]:
        """Ids of the newest trades before the rings began, then `ids`: all that the rings have had since, ascending.

        A life that had one trade and was killed left what it missed between the two undecided.
        """
        before = self._ids.get(f"{instrument} {kind}", [])
        return [*(number for number in before if not ids or number < ids[0]), *ids]

    def put(self, instrument: str, kind: str, ids: Sequence[int]) -> None:
        self._ids[f"{instrument} {kind}"] = list(ids)

    def end(self) -> None:
        """This life ends, and these were its newest."""
        self._store(ended=True)

    def _load(self) -> _Kept | None:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Kept)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("newest=%s unreadable: %s", self._path, error)
            return None

    def _store(self, *, ended: bool) -> None:
        fresh = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(msgspec.json.encode(_Kept(self._epoch, ended, self._ids)))
            os.replace(fresh, self._path)
        except OSError as error:
            log.warning("newest=%s not kept: %s", self._path, error)
            for path in (fresh, self._path):  # old ids are worse than none
                with contextlib.suppress(OSError):
                    path.unlink()
