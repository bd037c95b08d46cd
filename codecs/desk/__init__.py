"""The desk's own events: what its Kafka topics say, in one canonical form whichever producer said it.

| module | what |
|---|---|
| `money` | exact amounts: integers in units of 1e-8, and their texts |
| `canonical` | the canonical events and what they are made of, declared once: tables, JSON and schemas follow |
| `records` | what lies in shared memory: raw events, fills, positions, PnL |
| `times` | the times that producers write, to UNIX ns |
| `reading` | one function for each kind of member, and why an event is undecidable |
| `executions`, `execution_message` | execution reports: orders and fills; the hot path |
| `families` | what all other topics share |
| `risk`, `alerts`, `health`, `performance`, `others` | the rules of each of these |
| `decoder` | which topic is decoded by what |
| `kinds` | the kinds of a canonical struct's members |
"""
