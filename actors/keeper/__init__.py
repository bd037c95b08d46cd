"""The keeper: what is missing from history is fetched from the exchange's REST and stored in ClickHouse.

- **Bars on demand.** A front that is asked for a range which neither memory nor ClickHouse holds asks the keeper, over
  a unix socket in the instance's folder (`protocol`), and reads again when the bars are stored.
- **Temporary ranges.** Bars that are fetched for a while and then taken away again (`temporary`).
- **Settled funding rates.** The exchange's history of payments, kept up (`settlements`).

Everything that it asks the exchange for is reserved in the address's ledger first, in a smaller share than that of the
feeds. Its rows are told from those of the streams by their epoch (`storage.backfill`). Beside the beat of its loop it
sleeps until it is asked, a temporary range ends or a rate is due.
"""

from __future__ import annotations

from .config import Config
from .keeper import main

__all__ = ["Config", "main"]
