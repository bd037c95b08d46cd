"""The desk's own events: what its Kafka topics say, in one canonical form whichever producer said it.

| module | what |
|---|---|
| `money` | exact amounts: integers in units of 1e-8, and their texts |
| `canonical` | the canonical events and what they are made of, declared once: tables, JSON and schemas follow |
| `records` | what lies in shared memory: raw events, fills, positions, PnL |
"""
