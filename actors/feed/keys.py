"""From the symbols of the plan to rows of the key directory and memory for their records."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from ...codecs.symbols import Instrument
from ...ringbuf import KeyWriter, StreamWriter

log = logging.getLogger(__name__)


def cache_path(data: Path, exchange: str, product: str) -> Path:
    return data / "instruments" / f"{exchange}.{product}.json"


def save_instruments(path: Path, instruments: Iterable[Instrument]) -> None:
    """Keep the exchange's list for a start without REST. Replaced whole: a kill leaves the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(msgspec.json.encode(list(instruments)))
        os.replace(temporary, path)
    except OSError as error:
        log.warning("instruments=%s not kept: %s", path, error)
        with contextlib.suppress(OSError):
            temporary.unlink()


def load_instruments(path: Path) -> list[Instrument]:
    """The list of an earlier start; empty where there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Instrument])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("instruments=%s unreadable: %s", path, error)
        return []


def choose(
    instruments: Iterable[Instrument], exchange: str, product: str, symbols: Iterable[str]
) -> tuple[list[Instrument], list[str]]:
    """The instruments of canonical symbols, in their order, and the symbols that the exchange does not list."""
    by_name = {one.instrument: one for one in instruments if one.exchange == exchange and one.product == product}
    chosen, unknown = [], []
    for symbol in dict.fromkeys(symbols):
        found = by_name.get(symbol)
        if found is None:
            unknown.append(symbol)
        else:
            chosen.append(found)
    return chosen, unknown


def add_keys(
    keys: KeyWriter, writers: Mapping[str, StreamWriter], instruments: Iterable[Instrument]
) -> dict[int, Instrument]:
    """Give each instrument its row and the memory of its tails; returns instruments by key id.

    Raises:
        DirectoryFull, KeyTooLong, NoSpace
    """
    rows = {}
    for instrument in instruments:
        key_id = keys.add(instrument.key, instrument.attributes())
        for writer in writers.values():
            writer.add_key(key_id)
        rows[key_id] = instrument
    return rows
