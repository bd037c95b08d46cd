"""Just enough of ClickHouse's lexer to know a statement's kind, its output format, and where its insert data begins.

The engine's own parser decides everything else. Text is bytes throughout: insert data that follows a statement may be
anything. Strings, quoted names, comments and heredocs are skipped as the engine's lexer does
(https://github.com/ClickHouse/ClickHouse/blob/master/src/Parsers/Lexer.cpp, read 2026-11-21).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ...storage.engine import EngineError

_TOKEN = re.compile(
    rb"""
    (?P<space> [\s\0]+ | --[^\n]*\n? | \#[!\ ][^\n]*\n? | //[^\n]*\n? | /\*.*?(?:\*/|\Z) )
  | (?P<string> '[^'\\]*(?:(?:\\.|'')[^'\\]*)*' )
  | (?P<quoted> `[^`\\]*(?:(?:\\.|``)[^`\\]*)*` | "[^"\\]*(?:(?:\\.|"")[^"\\]*)*" )
  | (?P<heredoc> \$(?P<tag>[A-Za-z0-9_]*)\$.*?\$(?P=tag)\$ )
  | (?P<word> [A-Za-z_][A-Za-z0-9_$]* )
  | (?P<number> [0-9][A-Za-z0-9_.]* (?:\s*,\s*[0-9][A-Za-z0-9_.]*)* )  # a whole list: IN (1, 2, ...) may be long
  | (?P<mark> . )
    """,
    re.VERBOSE | re.DOTALL,
)

# Statements that answer with rows, and so with X-ClickHouse-Format.
_ANSWERING = frozenset(b"SELECT WITH FROM VALUES SHOW DESC DESCRIBE EXPLAIN EXISTS CHECK KILL (".split())
_STREAMABLE = frozenset((b"SELECT", b"WITH", b"("))
# Formats whose blocks may be put one after the other: no header, footer or delimiter over the whole result.
STREAM_FORMATS = frozenset(
    ("Native", "TabSeparated", "TSV", "TabSeparatedRaw", "TSVRaw", "CSV", "RowBinary", "JSONEachRow")
)
# SYSTEM SHUTDOWN and KILL would take the whole process group with them; the files belong to a client, not a server.
_FORBIDDEN = frozenset((b"SYSTEM SHUTDOWN", b"SYSTEM KILL", b"SYSTEM SUSPEND", b"INTO OUTFILE", b"FROM INFILE"))
# Functions that reach around the engine's rights: any file of the machine, objects and addresses of this process.
_FILE = b"file"
_REACHING = frozenset((_FILE, b"python", b"arrowstream"))
_MAY_REACH = re.compile(rb"file|python|arrowstream|\\", re.IGNORECASE)


@dataclass(slots=True)
class Statement:
    """What was found. For an INSERT with data: `head` ends before SETTINGS, FORMAT or VALUES, `settings` is the clause
    of that name, and data begins at `data_at`."""

    kind: bytes = b""  # first keyword, upper case; "" for no statement at all
    format: str = ""  # of the FORMAT clause; of the insert data when there is data
    head: bytes = b""
    settings: bytes = b""
    data_at: int = -1  # -1: no insert data
    words: frozenset[bytes] = frozenset()  # every bare word, upper case (not for an INSERT with data)
    forbidden: bytes = b""  # a pair of words that no client may send

    def _has_data(self, head: bytes, settings_at: int, data_at: int) -> Statement:
        cut = len(head) if settings_at < 0 else settings_at
        self.head, self.settings, self.data_at = head[:cut], head[cut:], data_at
        return self

    @property
    def has_data(self) -> bool:
        return self.data_at >= 0

    @property
    def answers(self) -> bool:
        return self.kind in _ANSWERING

    def streams(self, output_format: str) -> bool:
        """Whether the result may be taken block by block (totals and extremes would be lost that way)."""
        return self.kind in _STREAMABLE and output_format in STREAM_FORMATS and not self.words & {b"TOTALS", b"INSERT"}


def tokens(text: bytes) -> Iterator[tuple[str, int, int]]:
    """Yield (kind, start, end) of every token but space and comments."""
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "mark"
        if kind == "tag":
            kind = "heredoc"
        if kind != "space":
            yield kind, match.start(), match.end()


def scan(text: bytes) -> Statement:
    """Look through a statement. Raises `EngineError` 62 for `FORMAT x;` before insert data, as the engine does."""
    found = Statement()
    words: set[bytes] = set()
    depth = 0
    previous = b""  # the word or mark before this one
    settings_at = -1  # where the keyword SETTINGS stands
    format_at = -1  # where the keyword FORMAT stands, if it is the token before this one
    named = False  # INSERT only: the table's name has been passed
    for kind, start, end in tokens(text):
        if kind not in ("word", "mark"):
            named = named or (kind == "quoted" and found.kind == b"INSERT")
            previous, format_at = b"", -1
            continue
        word = text[start:end].upper()
        if not found.kind and word != b";":
            found.kind = word
        if kind == "mark":
            depth += (word in b"([{") - (word in b")]}")
            named = named and word != b"."
        elif format_at >= 0:
            found.format = text[start:end].decode()
            if found.kind == b"INSERT":
                return found._has_data(text[:format_at], settings_at, _data_start(text, end))
        elif found.kind == b"INSERT" and depth == 0 and not named:
            # INTO, TABLE and FUNCTION stand before the name; the name follows them or a dot, whatever it is spelt like.
            named = word not in (b"INSERT", b"INTO") and not (word in (b"TABLE", b"FUNCTION") and previous == b"INTO")
        else:
            if previous + b" " + word in _FORBIDDEN:
                found.forbidden = previous + b" " + word
            if depth == 0:
                if word == b"FORMAT":
                    previous, format_at = word, start
                    words.add(word)
                    continue
                if found.kind == b"INSERT" and word == b"VALUES":
                    found.format = "Values"
                    return found._has_data(text[:start], settings_at, end)
                if word == b"SETTINGS" and settings_at < 0:
                    settings_at = start
                if found.kind == b"INSERT" and word in (b"SELECT", b"WITH", b"WATCH"):
                    found.kind = b"INSERT SELECT"
            words.add(word)
        previous, format_at = word, -1
    found.words = frozenset(words)
    return found


def _data_start(text: bytes, at: int) -> int:
    """Return where data begins after the name of a format: behind blanks and one line break."""
    while text[at : at + 1] in (b" ", b"\t", b"\f", b"\v"):
        at += 1
    if text[at : at + 1] == b";":
        raise EngineError(62, "SYNTAX_ERROR", "You have excessive ';' symbol before data for INSERT.")
    if text[at : at + 1] == b"\r":
        at += 1
    if text[at : at + 1] == b"\n":
        at += 1
    return at


def reaching_function(text: bytes) -> str:
    """Return the name of a function that no client may use where the text, a statement or Values, may name it.

    `file` counts not only where it is called: a function is handed to others by its bare name. A column of that name
    is qualified.
    """
    if not _MAY_REACH.search(text):
        return ""
    before = name = b""
    for kind, start, end in tokens(text):
        token = text[start:end]
        if name and token == b"(":
            return name.decode()
        name = b""
        if kind in ("word", "quoted") and before != b".":
            plain = token.strip(b'`"').decode("unicode_escape", "replace").encode("utf-8", "replace")
            name = plain if plain.lower() in _REACHING else b""
            if name == _FILE:
                return name.decode()
        before = token
    return ""


def replace_strings(text: bytes, replacement: Callable[[str], str | None]) -> bytes:
    """Return the statement with every string literal for which `replacement` gives another value replaced by it."""
    pieces, last = [], 0
    for kind, start, end in tokens(text):
        if kind == "string":
            new = replacement(text[start + 1 : end - 1].decode("utf-8", "replace"))
            if new is not None:
                pieces += [text[last : start + 1], new.encode()]
                last = end - 1
    return b"".join([*pieces, text[last:]])
