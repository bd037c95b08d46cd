"""How often a client may call: a fixed window for each, counted in this worker."""

from __future__ import annotations


class RateLimiter:
    """Counts calls by client.

    Args:
        calls: allowed in one window.
        period_s: length of the window.
        clients_max: remembered at the same time; when there are more, all windows begin anew.
    """

    def __init__(self, calls: int, period_s: float, clients_max: int) -> None:
        self.calls = calls
        self._period_s = period_s
        self._clients_max = clients_max
        self._counts: dict[str, int] = {}
        self._ends = 0.0  # monotonic: where the wall clock is set back, a window lasts no longer

    def take(self, client: str, now_s: float, wall_s: float) -> tuple[int, int]:
        """Count one call: `(calls remaining, end of the window as UNIX s)`; -1 remaining = refuse it.

        Args:
            now_s: monotonic, as for `retry_after_s`.
            wall_s: UNIX s.
        """
        if now_s >= self._ends or len(self._counts) > self._clients_max:
            self._counts.clear()
            self._ends = now_s + self._period_s
        used = self._counts.get(client, 0) + 1
        self._counts[client] = used
        remaining = self.calls - used
        return (remaining if remaining >= 0 else -1), int(wall_s + self._ends - now_s) + 1

    def retry_after_s(self, now_s: float) -> int:
        return max(1, int(self._ends - now_s) + 1)
