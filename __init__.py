"""tickring: a trading desk's recent state in shared memory, its history in ClickHouse."""
