"""Sessions of the HTTP interface: `session_id` names a connection that keeps temporary tables, database and `SET`s.

A session is used by one request at a time. Settings of a request's URL are that request's alone: they are put on the
connection before it and taken off before the next request that does not bring them, so that a client that sends the
same settings each time costs nothing extra.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from ...storage.engine import Engine, EngineConnection, EngineError

SESSIONS_MAX = 256  # about 100 KB each
TIMEOUT_DEFAULT_S = 60
TIMEOUT_MAX_S = 3600


class Session:
    """A kept connection. `prepare` and the connection belong to a lane's thread, the rest to the event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: EngineConnection | None = None
        self.busy = True
        self.timeout_s = float(TIMEOUT_DEFAULT_S)
        self.expires = 0.0
        self._base: dict[str, str | None] = {}  # what a name had before a URL set it; None: the engine's default
        self._applied: dict[str, str] = {}  # what URLs have set and is still on
        self._own_database = b""  # while a URL's database is on
        self._url_database = ""

    def prepare(self, base: Mapping[str, str], settings: Mapping[str, str], *, is_set: bool) -> EngineConnection:
        """Return the connection with `settings` on and those of earlier requests off.

        `base` is for a new connection. With `is_set` the statement changes the session's own settings: others are off.
        """
        if self._connection is None:
            self._connection = self._engine.connect()
            self._connection.apply(base)
        wanted = {} if is_set else dict(settings)
        change: dict[str, str | None] = {name: self._base[name] for name in self._applied if name not in wanted}
        unknown = [name for name in wanted if name not in self._base]
        if unknown:
            self._base.update(self._own(unknown))
        change.update({name: value for name, value in wanted.items() if self._applied.get(name) != value})
        self._applied.update(wanted)  # a SET that fails halfway is undone by the next request
        self._connection.apply(change)
        self._applied = wanted
        if is_set:
            self._base.clear()
        return self._connection

    def use(self, database: str) -> None:
        """Switch to a URL's database for one request; "" is the session's own."""
        if database == self._url_database:
            return
        assert self._connection is not None
        if not self._url_database:
            self._own_database = self._connection.query(b"SELECT currentDatabase()", "TabSeparatedRaw").body()[:-1]
        name = database.encode("utf-8", "surrogateescape") or self._own_database
        self._connection.query(b"USE `" + name.replace(b"\\", b"\\\\").replace(b"`", b"\\`") + b"`")
        self._url_database = database

    def _own(self, names: list[str]) -> dict[str, str | None]:
        """Return what the session itself has set these to, None for what it has not."""
        assert self._connection is not None
        listed = "[" + ",".join("'" + name.replace("\\", "").replace("'", "") + "'" for name in names) + "]"
        answer = self._connection.query(
            b"SELECT name, value FROM system.settings WHERE changed AND has({names:Array(String)}, name)",
            "JSONCompactEachRow",
            {"names": listed},
        )
        own: dict[str, str | None] = dict(json.loads(line) for line in answer.body().splitlines())
        return {name: own.get(name) for name in names}

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Sessions:
    """All sessions by id. Called on the event loop only."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sessions: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def take(self, session_id: str, timeout_s: float, *, must_exist: bool) -> Session:
        """Return the session of that id, a new one if need be, in use from now on.

        Raises `EngineError`: 373 when it is in use, 372 when it must exist and does not, 202 when there are too many.
        """
        self.expire()
        session = self._sessions.get(session_id)
        if session is None:
            if must_exist:
                raise EngineError(372, "SESSION_NOT_FOUND", f"Session {session_id[:80]} not found.")
            if len(self._sessions) >= SESSIONS_MAX:
                raise EngineError(202, "TOO_MANY_SIMULTANEOUS_QUERIES", f"Too many sessions: {SESSIONS_MAX} are open.")
            session = self._sessions[session_id] = Session(self._engine)
        elif session.busy:
            raise EngineError(373, "SESSION_IS_LOCKED", f"Session {session_id[:80]} is locked by a concurrent client.")
        session.busy = True
        session.timeout_s = timeout_s
        return session

    def give_back(self, session_id: str, *, close: bool) -> None:
        """End the use of a session."""
        session = self._sessions[session_id]
        session.busy = False
        session.expires = time.monotonic() + session.timeout_s
        if close:
            self._sessions.pop(session_id).close()

    def expire(self) -> None:
        """Close the sessions that nobody has used for their timeout."""
        now = time.monotonic()
        for session_id, session in list(self._sessions.items()):
            if not session.busy and session.expires < now:
                self._sessions.pop(session_id).close()

    def close(self) -> None:
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
