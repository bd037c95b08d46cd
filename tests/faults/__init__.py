"""The fault campaign: a whole daemon under load, damaged in a seeded order, and then counted. `make faults` runs it."""
