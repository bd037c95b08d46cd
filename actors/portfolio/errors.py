"""Errors of the portfolio.

TickringError
└── PortfolioError
    ├── StateUnusable   its file on disk cannot be read or written (retriable)
    └── StateDamaged    what is read of it is nothing that was written; becomes StateUnusable
"""

from __future__ import annotations

from ...ringbuf.errors import TickringError


class PortfolioError(TickringError):
    """Positions cannot be kept."""


class StateUnusable(PortfolioError):
    """The file with the fills cannot be read or written: a full or failing disk."""

    retriable = True


class StateDamaged(PortfolioError):
    """A row of the file is not what was written: SQLite has no checksums of its own."""
