"""The writer: every ring to ClickHouse in columnar batches, by rows or age, each row once.

What is safe and when:

- A batch is a closed range of a ring. The range is in the journal before the batch is sent, and its deduplication token
  is made of it. A writer that was killed finds the open range and repeats it: the same rows, the same token.
- While ClickHouse is away the same batches go to the spool, and follow in order when it is back; a batch whose
  acknowledgement was lost is looked for in the table before it is sent again.
- What is lost all the same (the ring went over rows that were not read yet, the spool was full) is in the gap ledger
  with its extent, and counted.
- Of the desk nothing is lost. A range of a topic's events becomes blocks of several tables, sent in one order: what
  follows from the events first, the events themselves last. Their spool is their own and takes no more when it is
  full; then the cursor stays, and the topic waits. A topic whose ring is gone begins where the table of its events
  ends, and what the other tables have beyond that is left out.

In the instance's data folder, ``writer/`` holds ``<stream>.journal``, ``<stream>.sample``, ``<stream>.overlap``,
``gaps.jsonl``, ``spool/`` and ``spool-desk/``.
"""

from __future__ import annotations

from .config import Config
from .writer import main

__all__ = ["Config", "main"]
