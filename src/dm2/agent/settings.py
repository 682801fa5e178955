"""The settings of one agent's learning: frozen, documented, validated when they are made."""

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from dm2.errors import (
    check_choice,
    check_finite,
    check_positive,
    check_setting,
    checks_itself,
    convert_fields,
)

__all__ = [
    "PPO",
    "AfterCloning",
    "Cloning",
    "CoefficientUnit",
    "DiscriminatorInputs",
    "Imitation",
    "Matching",
    "ObservationScale",
    "RewardForm",
    "SelfImitation",
    "Survival",
    "scheduled",
]

ObservationScale = Literal["auto", "layer", "running", "both", "none"]
RewardForm = Literal["logit", "softplus", "log", "paper"]
CoefficientUnit = Literal["reward", "advantage"]
Survival = Literal["none", "centred", "absorbing"]
DiscriminatorInputs = Literal["states", "state-actions"]
AfterCloning = Literal["mixed", "task", "nothing"]
_AT_ONCE = 1e-9
"""The share of a run that a change at once takes: less than any iteration."""


def scheduled(settings: Any, name: str, progress: Float[Array, ""]) -> float | Float[Array, ""]:
    r"""The value of a setting that has a schedule: `s + (e - s) min(max(p - b, 0) / h, 1)`.

    Here `s` is the setting called `name`, `e` that called `name_end`, `b` is `name_begin`, `h` is
    `name_share`, and `p` the share of the run that is over; where `h` is 0, it is `s` up to `b` and
    `e` from then on. Without an end it is `s` itself, a number and no array.
    """
    start, end = getattr(settings, name), getattr(settings, f"{name}_end")
    if end is None:
        return start
    over = jnp.maximum(progress - getattr(settings, f"{name}_begin"), 0.0)
    share = max(getattr(settings, f"{name}_share"), _AT_ONCE)
    return start + (end - start) * jnp.minimum(over / share, 1.0)


def check_schedule(settings: Any, prefix: str, *names: str) -> None:
    """Raises InputError unless the schedules of the settings called `names` come to numbers from 0
    up before the run is over."""
    for name in names:
        begin, share, end = (f"{name}_{part}" for part in ("begin", "share", "end"))
        check_finite(settings, prefix, begin, share, high=1.0)
        if getattr(settings, end) is None:
            continue
        check_finite(settings, prefix, end)
        first, then = getattr(settings, begin), getattr(settings, share)
        whole = first + then <= 1.0 + _AT_ONCE
        remedy = (
            f"must be {1.0 - then:g} at most, with {prefix}{share} = {then:g} of the run after it"
        )
        check_setting(whole, prefix + begin, first, remedy)


@checks_itself
@dataclass(frozen=True)
class PPO:
    """Proximal policy optimisation of one agent (Schulman et al. 2017, arXiv 1707.06347).

    Raises:
        InputError: If a value is out of its range.
    """

    hidden: int = 64
    """Units of each dense layer and of the GRU, in the actor and in the critic."""
    learning_rate: float = 1e-3
    """The learning rate: Adam's step size for the actor and for the critic."""
    learning_rate_end: float | None = None
    """The learning rate at the end of its schedule; None keeps it as it is."""
    learning_rate_begin: float = 0.0
    """Share of the run, from 0 to 1, after which the learning rate begins to change."""
    learning_rate_share: float = 1.0
    """Share of the run over which the learning rate changes linearly; 0 changes it at once."""
    epochs: int = 4
    """Passes of PPO over each rollout."""
    minibatches: int = 4
    """Parts of a rollout, split over environments; must divide `num_envs`, or where agents share
    their networks `num_envs` times the number of agents."""
    clip: float = 0.2
    """Probability ratios are clipped to [1 - clip, 1 + clip]."""
    discount: float = 0.99
    """The discount gamma, per environment step."""
    gae_lambda: float = 0.95
    """The lambda of generalised advantage estimation."""
    entropy: float = 0.01
    """Weight of the entropy bonus. More of it where battles leave little to chance:
    `smac/5m_vs_6m` is won with 0.05 and not with 0.01."""
    entropy_end: float | None = None
    """The entropy bonus's weight at the end of its schedule; None keeps it as it is."""
    entropy_begin: float = 0.0
    """Share of the run, from 0 to 1, after which the entropy bonus's weight begins to change."""
    entropy_share: float = 1.0
    """Share of the run over which the entropy bonus's weight changes linearly; 0 changes it at
    once."""
    max_grad_norm: float = 10.0
    """Global-norm clip, of the actor's and the critic's gradient each on its own. 10 hardly ever
    clips an actor's; with 0.5 one large gradient does not undo a team by SMAC's rules."""
    head_gain: float = 0.01
    """Gain of the orthogonal initialisation of the actor's last layer."""

    def __post_init__(self) -> None:
        prefix = "ppo."
        convert_fields(self, prefix)
        check_positive(self, prefix, "hidden", "epochs", "minibatches")
        positive = ("learning_rate", "clip", "max_grad_norm", "head_gain")
        check_finite(self, prefix, *positive, low=1e-12)
        check_finite(self, prefix, "discount", "gae_lambda", high=1.0)
        check_finite(self, prefix, "entropy")
        check_schedule(self, prefix, "learning_rate", "entropy")

    def check_num_envs(self, num_envs: int, agents: int = 1) -> None:
        """Raises InputError unless `minibatches` divides the number of environments, or where
        agents share their networks that of environments times `agents`."""
        team = f" x {agents} agents" if agents > 1 else ""
        remedy = f"must divide num_envs = {num_envs}{team}"
        whole = num_envs * agents % self.minibatches == 0
        check_setting(whole, "ppo.minibatches", self.minibatches, remedy)


@checks_itself
@dataclass(frozen=True)
class Matching:
    """Distribution matching of one agent by an adversarial discriminator (GAIL, arXiv 1606.03476).

    Raises:
        InputError: If a value is out of its range.
    """

    inputs: DiscriminatorInputs = "states"
    """What the discriminator sees: the agent's `states`, that is its own observations, as in the
    paper's experiments, or `state-actions`, with the actions that it chose there, as in the
    paper's theory. The latter needs demonstrations with actions."""
    reward: RewardForm = "softplus"
    """The imitation reward, with l = logit D and D = P(expert | o): `logit` = l,
    `softplus` = -log(1 - D), `log` = log D; `paper` is the paper's -log D in its own convention,
    D = P(policy | o), hence the same number as `softplus`."""
    survival: Survival = "centred"
    """How an early death or end is kept from paying (or costing) imitation reward: `none`;
    `centred`: the batch mean of the imitation reward is taken off; `absorbing`: death and the
    end are states of their own, matched and paid at every step up to the episode limit, and no
    further. A time limit is no such end: what lies beyond it is bootstrapped, for a living agent
    from its final observation, for a dead one from its last value while alive."""
    hidden: int = 64
    """Units of each of the two tanh layers of the discriminator."""
    learning_rate: float = 1e-3
    """Adam step size of the discriminator."""
    updates: int = 8
    """Discriminator updates per rollout."""
    batch: int = 512
    """Expert states, and as many policy states, per discriminator update. The latter are drawn from
    all steps of the rollout, and those at which the agent is dead do not count: of an agent that
    lives for a share s of the steps, about s times as many do."""
    gradient_penalty: float = 10.0
    """Weight of (|grad_x l(x)| - 1)^2 on random mixtures of expert and policy inputs."""

    def __post_init__(self) -> None:
        prefix = "imitation."
        convert_fields(self, prefix)
        check_choice(self, prefix, "inputs", DiscriminatorInputs)
        check_choice(self, prefix, "reward", RewardForm)
        check_choice(self, prefix, "survival", Survival)
        check_positive(self, prefix, "hidden", "updates", "batch")
        check_finite(self, prefix, "learning_rate", low=1e-12)
        check_finite(self, prefix, "gradient_penalty")


@checks_itself
@dataclass(frozen=True)
class Imitation(Matching):
    """Distribution matching beside the task's reward: how the two are mixed.

    Raises:
        InputError: If a value is out of its range.
    """

    coefficient: float = 0.5
    """The coefficient c of the mixed reward `r = task_weight * r_env + c * r_imitation`, in the
    unit that `unit` says."""
    coefficient_end: float | None = None
    """The coefficient c at the end of its schedule; None keeps it as it is."""
    coefficient_begin: float = 0.0
    """Share of the run, from 0 to 1, after which the coefficient c begins to change."""
    coefficient_share: float = 1.0
    """Share of the run over which the coefficient c changes linearly; 0 changes it at once."""
    unit: CoefficientUnit = "advantage"
    """What the coefficient c is measured in. `advantage`: c times the ratio of the standard
    deviations of what the task's and the imitation's rewards contribute to the agent's advantages
    (`dm2.agent.mixed_reward`), so that 1 lets both weigh the same in any task; `reward`: units of
    the environment's reward, as in the paper, so that it has to fit the task."""
    task_weight: float = 1.0
    """Weight of the environment's reward; 0 is pure imitation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        prefix = "imitation."
        check_finite(self, prefix, "coefficient", "task_weight")
        check_schedule(self, prefix, "coefficient")
        check_choice(self, prefix, "unit", CoefficientUnit)


@checks_itself
@dataclass(frozen=True)
class SelfImitation:
    """One agent's own best episodes, which stand in for an expert's.

    Raises:
        InputError: If a value is out of its range.
    """

    episodes: int = 128
    """The most episodes that an agent keeps: those of the highest discounted return, the team's, or
    the agent's own where each is paid its own."""
    least: int = 16
    """How many episodes an agent must have kept before it imitates them; until then it learns from
    the task alone."""

    def __post_init__(self) -> None:
        prefix = "best."
        convert_fields(self, prefix)
        check_positive(self, prefix, "episodes", "least")
        remedy = f"must be at most best.episodes = {self.episodes}"
        check_setting(self.least <= self.episodes, "best.least", self.least, remedy)


@checks_itself
@dataclass(frozen=True)
class Cloning:
    """Behavioural cloning of one agent's own demonstrations before its first step.

    Raises:
        InputError: If a value is out of its range.
    """

    epochs: int = 10
    """Passes over the demonstrations, in cloning."""
    batch: int = 32
    """Episodes of each gradient step of cloning; all of them where there are fewer."""
    learning_rate: float = 1e-3
    """Adam step size of the policy while it clones."""
    then: AfterCloning = "mixed"
    """What follows cloning: PPO on the `mixed` reward, as in the paper's Figure 5, PPO on the
    `task` reward, or `nothing`: the policy stays as it is, and is evaluated."""

    def __post_init__(self) -> None:
        prefix = "cloning."
        convert_fields(self, prefix)
        check_positive(self, prefix, "epochs", "batch")
        check_finite(self, prefix, "learning_rate", low=1e-12)
        check_choice(self, prefix, "then", AfterCloning)
