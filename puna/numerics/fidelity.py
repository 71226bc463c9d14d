"""How far a model's predictions are from those of another, token by token."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from puna.numerics.losses import token_logprobs
from puna.numerics.shapes import same_shape


@dataclass
class Fidelity:
    """Losses, divergences and agreements of the tokens seen so far, float32 [tokens] each piece."""

    losses: list[Tensor] = field(default_factory=list)  # nats, by the model itself
    divergences: list[Tensor] = field(default_factory=list)  # KL(reference || model), nats
    agreements: list[Tensor] = field(default_factory=list)  # 1: the same most likely token

    def add(self, logits: Tensor, reference: Tensor, targets: Tensor) -> None:
        """Count the predictions of the tokens `targets` [T]; both logits are [T, V].

        ValueError where shapes differ.
        """
        same_shape(logits=logits, reference=reference)
        self.losses.append(-token_logprobs(logits, targets))
        ours, theirs = logits.float().log_softmax(-1), reference.float().log_softmax(-1)
        self.divergences.append((theirs.exp() * (theirs - ours)).sum(-1).clamp_min(0))
        self.agreements.append((logits.argmax(-1) == reference.argmax(-1)).float())

    def figures(self) -> dict[str, float]:
        """tokens, perplexity, kl (mean), kl_99 (its 99th percentile), top1 (share of agreement)."""
        losses, kl = torch.cat(self.losses).double(), torch.cat(self.divergences).double()
        return {
            "tokens": len(losses),
            "perplexity": losses.mean().exp().item(),
            "kl": kl.mean().item(),
            "kl_99": kl.quantile(0.99).item(),
            "top1": torch.cat(self.agreements).double().mean().item(),
        }
