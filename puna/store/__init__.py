"""The store: who takes part, what they said and judged, and what leaves as data. No torch.

Functions take a `Session` first (`Store.read`, `Store.write` give one) and raise the errors of
`puna.store.faults`; none knows HTTP.
"""
