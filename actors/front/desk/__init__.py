"""The desk's side of the front: fills, positions, PnL, risk, alerts, health and performance."""
