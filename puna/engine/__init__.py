"""Inference: many answers at once from one model.

`sequence` is one answer while it grows, `blocks` the accounts of the cache, and `scheduler` decides
what is computed next (none of them knows torch). A `runner` computes: `torch_runner` with a module
as it is, the native decoder with a packed one. `step` draws from what it computed (`drawing`,
`grammar`, `stops`), `proposals` guesses ahead, `loop` goes round, and `engine` is what the other
rooms call.
"""
