"""Pure functions of tensors: here every digit of a loss, a reward or a draw is decided.

In float32, whatever the type of the weights and activations:

- the log-softmax of every loss and of every log-probability (`losses`, `sampling`);
- all losses and their sums and counts (`losses`);
- scores, logits of scores, whitening, KL terms, advantages and returns (`rewards`);
- the optimiser's moments, because `optim.adamw` takes float32 parameters only.

Cumulative probabilities while sampling are float64, so that the tail of a large vocabulary can
still be drawn. Losses return a sum and a count: averaging over micro-batches and devices is done
once, by the caller, over tokens. A shape that does not fit is refused with both shapes in the
message; nothing is broadcast by accident. This room imports torch and `puna.errors`, nothing else.
"""
