"""PPO: prompts + two reward models → a better policy (Llama 2, section 3.2.3, Eq. 3 and 4).

    puna ppo --run runs/ppo --model runs/v2/rejection/checkpoint \\
        --helpfulness runs/v2/helpfulness/checkpoint --safety runs/v2/safety/checkpoint

R_c is the safety reward on safety prompts and wherever it falls below 0.15, the helpfulness reward
elsewhere; its logit is whitened over the batch, and every token pays beta times its divergence from
the starting policy. The critic starts from the helpfulness reward model. Stops early when the
reward on held-out prompts no longer rises; the best policy is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor

from puna.data.batches import by_length, pad
from puna.engine.engine import Engine
from puna.errors import InputError
from puna.model import adapters, checkpoint, lora
from puna.model.heads import ValueModel
from puna.model.lora import LoraConfig
from puna.model.transformer import Transformer
from puna.numerics import losses, rewards
from puna.numerics.optim import OptimConfig
from puna.recipes import steps
from puna.recipes.judges import RewardJudge
from puna.run import Run
from puna.text.completion import Completion, SamplingParams
from puna.text.dialog import Dialog
from puna.text.files import read_dialogs
from puna.text.template import encode_prompt
from puna.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Config:
    run: Path = Path("runs/ppo")  # folder of this stage
    model: Path = Path("runs/rejection/checkpoint")  # starting policy, also the reference pi_0
    helpfulness: Path = Path("runs/helpfulness/checkpoint")  # helpfulness reward model
    safety: Path = Path("runs/safety/checkpoint")  # safety reward model
    prompts: Path = Path("runs/prepare/prompts.jsonl")  # dialogues that end with a user's message
    held_out: Path = Path("runs/prepare/prompts_held_out.jsonl")  # prompts for early stopping
    steps: Annotated[int, Meta(ge=0)] = (
        20  # iterations; 0: none in `puna align` (paper: 200 to 400)
    )
    batch_size: Annotated[int, Meta(ge=1)] = 128  # answers in one iteration (paper: 512)
    mini_batch_size: Annotated[int, Meta(ge=1)] = (
        32  # answers in one gradient step, each used once (paper: 64)
    )
    micro_tokens: int = 4096  # tokens of padded answers in one forward pass
    beta: float = 0.01  # price of divergence from pi_0 (paper: 0.01 for 7B and 13B, 0.005 above)
    clip: float = 0.2  # of the probability ratio (paper: 0.2)
    gamma: float = 1.0  # discount (paper: not stated)
    lam: float = 0.95  # decay of the advantage estimate (paper: not stated)
    safety_threshold: float = 0.15  # below it the safety reward overrules (paper: 0.15)
    temperature: float = 1.0  # of the rollouts (paper: not stated)
    max_tokens: int = 80  # longest answer
    rows: int = 128  # answers generated at once
    eval_every: int = 5  # iterations between rewards on held-out prompts
    eval_prompts: int = 128  # held-out prompts
    patience: Annotated[int, Meta(ge=1)] = 3  # evaluations without a better reward before stopping
    save_every: int = 5  # iterations between resumable states; 0: none
    seed: int = 0  # prompts and answers
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=5e-5, warmup=0)
    )  # policy: AdamW, constant rate (paper: lr 1e-6, decay 0.1, clip 1.0)
    critic_lr: float = 3e-4  # constant rate of the critic (paper: not stated)
    lora: LoraConfig = field(default_factory=LoraConfig)  # adapters; rank=0: train every weight


@dataclass(frozen=True)
class Rollout:
    """Answers and what was thought of them.

    [B, T] runs over the padded prompt + answer, shifted to the predicted token.
    """

    tokens: Tensor  # [B, T + 1]
    mask: Tensor  # [B, T] True where the predicted token belongs to the answer
    logprobs: Tensor  # [B, T] under the policy that sampled
    values: Tensor  # [B, T] the critic's, before the token
    advantages: Tensor  # [B, T]
    returns: Tensor  # [B, T]

    def rows(self, index: list[int]) -> "Rollout":
        """Some rows, cut to the longest of them."""
        longest = int(self.mask[index].nonzero()[:, 1].max()) + 1
        cut = {
            name: value[index][:, :longest]
            for name, value in vars(self).items()
            if name != "tokens"
        }
        return Rollout(self.tokens[index][:, : longest + 1], **cut)

    def lengths(self) -> list[int]:
        """Tokens of each row up to its answer's last."""
        places = torch.arange(self.mask.shape[1])
        return [int(n) + 1 for n in (self.mask * places).max(1).values]


def main(config: Config) -> dict:
    run = Run.start(config.run, config)
    if run.done:
        return run.figures
    if config.steps == 0:
        raise InputError("steps=0: expected 1 or more iterations")
    drawn = steps.generator(config.seed, "lora")
    policy, tokenizer = checkpoint.load_tuned(config.model, config.lora, drawn)
    reference = lora.share(policy).requires_grad_(False)
    judge = RewardJudge.load(config.helpfulness, config.safety, config.safety_threshold)
    critic = critic_of(judge, config)
    actor = steps.Learner(policy, config.optim)
    evaluator = steps.Learner(critic, replace(config.optim, lr=config.critic_lr))
    prompts = read_dialogs(config.prompts)
    held_out = read_dialogs(config.held_out)[: config.eval_prompts]
    room = steps.cache_of(
        [*prompts, *held_out], tokenizer, config.max_tokens, config.rows, policy.args.max_seq_len
    )
    beside = (reference, critic, judge.helpfulness, judge.safety)
    steps.announce_memory(policy, beside, trained=2, trained_heads=1, cache=room)
    engine = Engine(policy, tokenizer, rows=config.rows)
    modules = {"policy": policy, "critic": critic}
    optimizers = {"policy": actor.optimizer, "critic": evaluator.optimizer}
    start, watch = checkpoint.load_state(run.folder, modules, optimizers) or (0, {})
    run.rewind(start)
    if not watch:
        first = held_out_reward(engine, judge, held_out, config)
        watch = {"first": first, "best": first, "best_step": 0, "waited": 0}
        checkpoint.save(run.folder / "checkpoint", policy, tokenizer, {"stage": "ppo", "step": 0})

    with run.track(config.steps, "ppo", start) as advance:
        for step in range(start, config.steps):
            # 1. act: the weights that sample are the weights that learn
            chosen = draw(prompts, config.batch_size, config.seed, step)
            params = sampling(config, step)
            answers = [row[0] for row in engine.generate(chosen, params)]
            rollout = gather(chosen, answers, tokenizer, policy, config.micro_tokens)
            # 2. judge: R_c, its logit, whitened; every token pays for leaving pi_0
            finished = [p.with_answer(a.text) for p, a in zip(chosen, answers, strict=True)]
            scores = judge.combined(tokenizer, finished)
            kl = rewards.kl_per_token(
                rollout.logprobs, logprobs_of(reference, rollout, config.micro_tokens)
            )
            whitened = rewards.whiten(rewards.logit(scores["combined"]))
            shaped = rewards.shaped_rewards(whitened, kl, rollout.mask, config.beta)
            # 3. credit
            values = values_of(critic, rollout, config.micro_tokens)
            found = rewards.gae(shaped, values, rollout.mask, config.gamma, config.lam)
            advantages, returns = found
            advantages = rewards.whiten(advantages, rollout.mask)
            learned = replace(rollout, values=values, advantages=advantages, returns=returns)
            # 4. learn: one gradient step on each mini-batch
            numbers = learn(actor, evaluator, learned, config, step)
            # 5. look
            numbers |= {name: float(value.mean()) for name, value in scores.items()}
            numbers["kl"] = float((kl * rollout.mask).sum(1).mean())
            numbers["answer_tokens"] = float(rollout.mask.sum(1).float().mean())
            if steps.every(step, config.eval_every, config.steps):
                numbers["held_out_reward"] = held_out_reward(engine, judge, held_out, config)
                watch = watched(watch, numbers["held_out_reward"], step + 1)
                if watch["best_step"] == step + 1:
                    checkpoint.save(
                        run.folder / "checkpoint",
                        policy,
                        tokenizer,
                        {"stage": "ppo", "step": step + 1},
                    )
            run.log(step, **numbers)
            advance(1)
            if watch["waited"] >= config.patience:
                break
            if steps.every(step, config.save_every, 0) and step + 1 < config.steps:
                checkpoint.save_state(run.folder, step + 1, modules, optimizers, watch)
    return run.finish(
        reward_before=watch["first"],
        reward_after=watch["best"],
        reward_last=numbers["held_out_reward"],
        best_step=watch["best_step"],
        last_step=step + 1,
        kl=numbers["kl"],
    )


def critic_of(judge: RewardJudge, config: Config) -> ValueModel:
    """A critic that starts from the helpfulness reward model; with adapters, on its trunk."""
    start = judge.helpfulness.transformer
    if config.lora.rank and lora.config_of(start) is None:  # a reward model that is whole
        drawn = steps.generator(config.seed, "critic lora")
        trunk = adapters.adopt(config.helpfulness, start)
        start = lora.attach(lora.share(trunk.model), config.lora, drawn, trunk)
    else:
        start = lora.share(start)
    return ValueModel(start, steps.generator(config.seed, "critic"))


def draw(prompts: Sequence[Dialog], count: int, seed: int, step: int) -> list[Dialog]:
    """The prompts of an iteration: a function of (seed, step) only."""
    picks = torch.randint(len(prompts), (count,), generator=steps.generator(seed, "prompts", step))
    return [prompts[i] for i in picks.tolist()]


def sampling(config: Config, step: int) -> SamplingParams:
    """How an iteration's answers are drawn: nothing is cut off, so logprobs are the policy's."""
    seed = steps.derive(config.seed, "rollout", step)
    return SamplingParams(config.temperature, 1.0, max_tokens=config.max_tokens, seed=seed)


def gather(
    prompts: Sequence[Dialog],
    answers: Sequence[Completion],
    tokenizer: Tokenizer,
    policy: Transformer,
    budget: int,
) -> Rollout:
    """Prompts and answers as padded rows, with the sampling policy's log-probabilities."""
    heads = [encode_prompt(prompt, tokenizer) for prompt in prompts]
    rows = [head + list(answer.ids) for head, answer in zip(heads, answers, strict=True)]
    batch = pad(rows)
    places = torch.arange(batch.tokens.shape[1] - 1)
    first = torch.tensor([len(head) - 1 for head in heads])[:, None]
    mask = (places >= first) & (places < batch.last[:, None])
    rollout = Rollout(batch.tokens, mask, *torch.zeros(4, *mask.shape))
    return replace(rollout, logprobs=logprobs_of(policy, rollout, budget))


def logprobs(model: Transformer, rollout: Rollout) -> Tensor:
    """Log-probability of every answer token, [B, T], 0 elsewhere."""
    hidden = model.hidden(rollout.tokens[:, :-1])[rollout.mask]
    found = losses.token_logprobs(model.output(hidden), rollout.tokens[:, 1:][rollout.mask])
    return torch.zeros(rollout.mask.shape).masked_scatter(rollout.mask, found)


@torch.no_grad()
def logprobs_of(model: Transformer, rollout: Rollout, budget: int) -> Tensor:
    """`logprobs` of all rows without gradients, in groups of similar length."""
    result = torch.zeros(rollout.mask.shape)
    for group in by_length(rollout.lengths(), budget):
        part = rollout.rows(group)
        result[group, : part.mask.shape[1]] = logprobs(model, part)
    return result


@torch.no_grad()
def values_of(critic: ValueModel, rollout: Rollout, budget: int) -> Tensor:
    """The critic's value before every answer token, [B, T], 0 elsewhere."""
    result = torch.zeros(rollout.mask.shape)
    for group in by_length(rollout.lengths(), budget):
        part = rollout.rows(group)
        values = critic(part.tokens[:, :-1]) * part.mask
        result[group, : part.mask.shape[1]] = values
    return result


def learn(
    actor: steps.Learner[Transformer],
    evaluator: steps.Learner[ValueModel],
    rollout: Rollout,
    config: Config,
    step: int,
) -> dict[str, float]:
    """One gradient step of policy and critic on each mini-batch; means over the mini-batches."""
    lengths, count = rollout.lengths(), len(rollout.tokens)
    order = torch.randperm(count, generator=steps.generator(config.seed, "mini", step))
    found = []
    for mini in order.split(config.mini_batch_size):
        index = mini.tolist()
        groups = by_length([lengths[i] for i in index], config.micro_tokens)
        parts = [rollout.rows([index[i] for i in group]) for group in groups]
        found.append(update(actor, evaluator, parts, config))
    return {name: sum(each[name] for each in found) / len(found) for name in found[0]}


def update(
    actor: steps.Learner[Transformer],
    evaluator: steps.Learner[ValueModel],
    parts: Sequence[Rollout],
    config: Config,
) -> dict[str, float]:
    """One step of the policy on the clipped objective and one of the critic on the returns."""
    clipped: list[Tensor] = []

    def policy_loss(part: Rollout) -> steps.Summed:
        found = logprobs(actor.module, part)
        loss, count, fraction = losses.ppo_policy_loss(
            found, part.logprobs, part.advantages, part.mask, config.clip
        )
        clipped.append(fraction)
        return loss, count

    def critic_loss(part: Rollout) -> steps.Summed:
        values = evaluator.module(part.tokens[:, :-1]) * part.mask
        return losses.value_loss(values, part.values, part.returns, part.mask, config.clip)

    policy = actor.learn(parts, policy_loss, config.optim.lr)
    critic = evaluator.learn(parts, critic_loss, config.critic_lr)
    return {
        "policy_loss": policy["loss"],
        "value_loss": critic["loss"],
        "clipped": float(torch.stack(clipped).mean()),
        "grad_norm": policy["grad_norm"],
    }


def held_out_reward(
    engine: Engine, judge: RewardJudge, prompts: Sequence[Dialog], config: Config
) -> float:
    """Mean R_c of one answer to each held-out prompt, the same random numbers every time."""
    params = replace(sampling(config, -1), seed=steps.derive(config.seed, "held out"))
    answers = [row[0].text for row in engine.generate(prompts, params)]
    finished = [p.with_answer(text) for p, text in zip(prompts, answers, strict=True)]
    return float(judge.combined(engine.tokenizer, finished)["combined"].mean())


def watched(watch: dict, reward: float, step: int) -> dict:
    """The early-stopping record after one more evaluation."""
    if reward > watch["best"]:
        return {**watch, "best": reward, "best_step": step, "waited": 0}
    return {**watch, "waited": watch["waited"] + 1}
