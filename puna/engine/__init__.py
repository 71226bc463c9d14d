"""Inference: many answers at once from one model.

`sequence` is one answer while it grows, `scheduler` decides which prompts start next (neither knows
torch), `slots` holds the keys and values of the running answers, and `engine` is the loop that the
other rooms call.
"""
