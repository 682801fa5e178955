"""Every setting of a training run: frozen, documented, validated at construction."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from tyro.conf import Positional

from dm2.errors import InputError

__all__ = ["PPO", "Config", "Imitation", "Method", "RewardForm", "Survival"]

Method = Literal["ippo", "dm2"]
RewardForm = Literal["logit", "softplus", "log", "paper"]
Survival = Literal["none", "centred", "absorbing"]


def _check(condition: bool, field_name: str, value: object, remedy: str) -> None:
    if not condition:
        raise InputError(f"{field_name} = {value!r}: {remedy}")


def _positive(obj: object, prefix: str, *names: str) -> None:
    for name in names:
        value = getattr(obj, name)
        ok = isinstance(value, int) and not isinstance(value, bool) and value > 0
        _check(ok, prefix + name, value, "must be a whole number above 0")


def _finite(obj: object, prefix: str, *names: str, low: float = 0.0, high: float = math.inf):
    for name in names:
        value = getattr(obj, name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        ok = number and math.isfinite(value) and low <= value <= high
        bounds = f"from {low:g}" + (f" to {high:g}" if math.isfinite(high) else " up")
        _check(ok, prefix + name, value, f"must be a finite number {bounds}")


def _choice(obj: object, prefix: str, name: str, options: Any) -> None:
    value, allowed = getattr(obj, name), get_args(options)
    _check(value in allowed, prefix + name, value, f"must be one of {', '.join(allowed)}")


@dataclass(frozen=True)
class PPO:
    """Proximal policy optimisation, one agent (Schulman et al. 2017, arXiv 1707.06347)."""

    hidden: int = 64
    """Units of each dense layer and of the GRU, in the actor and in the critic."""
    learning_rate: float = 1e-3
    """Adam step size of the actor and of the critic."""
    epochs: int = 4
    """Passes over each rollout."""
    minibatches: int = 4
    """Parts of a rollout, split over environments; must divide `num_envs`."""
    clip: float = 0.2
    """Probability ratios are clipped to [1 - clip, 1 + clip]."""
    discount: float = 0.99
    """gamma, per environment step."""
    gae_lambda: float = 0.95
    """lambda of generalised advantage estimation."""
    entropy: float = 0.01
    """Weight of the entropy bonus. More of it where battles leave little to chance:
    `smac/5m_vs_6m` is won with 0.05 and not with 0.01."""
    max_grad_norm: float = 10.0
    """Global-norm clip, of the actor's and the critic's gradient each on its own."""
    head_gain: float = 0.01
    """Gain of the orthogonal initialisation of the actor's last layer."""

    def __post_init__(self) -> None:
        p = "ppo."
        _positive(self, p, "hidden", "epochs", "minibatches")
        _finite(self, p, "learning_rate", "clip", "max_grad_norm", "head_gain", low=1e-12)
        _finite(self, p, "discount", "gae_lambda", high=1.0)
        _finite(self, p, "entropy")


@dataclass(frozen=True)
class Imitation:
    """Distribution matching by an adversarial discriminator (GAIL, arXiv 1606.03476), one agent."""

    coefficient: float = 0.05
    """c of the mixed reward `r = task_weight * r_env + c * r_imitation`."""
    task_weight: float = 1.0
    """Weight of the environment's reward; 0 is pure imitation."""
    reward: RewardForm = "softplus"
    """With l = logit D and D = P(expert | o): `logit` = l, `softplus` = -log(1 - D),
    `log` = log D; `paper` is the paper's -log D in its own convention, D = P(policy | o),
    hence the same number as `softplus`."""
    survival: Survival = "centred"
    """How an early death or end is kept from paying (or costing) imitation reward: `none`;
    `centred`: the batch mean of the imitation reward is taken off; `absorbing`: death and the
    end are states of their own, matched and paid up to the episode limit."""
    hidden: int = 64
    """Units of each of the two tanh layers of the discriminator."""
    learning_rate: float = 1e-3
    """Adam step size of the discriminator."""
    updates: int = 8
    """Discriminator updates per rollout."""
    batch: int = 512
    """Expert states, and as many policy states, per update."""
    gradient_penalty: float = 10.0
    """Weight of (|grad_x l(x)| - 1)^2 on random mixtures of expert and policy inputs."""

    def __post_init__(self) -> None:
        p = "imitation."
        _finite(self, p, "coefficient", "task_weight", "gradient_penalty")
        _finite(self, p, "learning_rate", low=1e-12)
        _positive(self, p, "hidden", "updates", "batch")
        _choice(self, p, "reward", RewardForm)
        _choice(self, p, "survival", Survival)


@dataclass(frozen=True)
class Config:
    """One training run. All counts of steps are environment steps summed over environments."""

    method: Positional[Method]
    """`ippo`: task reward alone. `dm2`: task reward plus distribution matching."""
    env: str
    """Environment name, for example `smax/3s_vs_4z` (`dm2 doctor` lists them)."""
    steps: int = 1_000_000
    """Environment steps to train for; rounded up to whole iterations."""
    seed: int = 0
    """Determines the whole run, from 0 to 2^32 - 1."""
    demos: str | None = None
    """Demonstration file; `dm2` needs one."""
    num_envs: int = 32
    """Parallel environments. More of them step faster and learn more slowly per step."""
    rollout_steps: int = 128
    """Environment steps per environment between updates."""
    eval_every: int = 50_000
    """Environment steps between evaluations."""
    eval_episodes: int = 32
    """Greedy test episodes per evaluation."""
    checkpoint_every: int = 50_000
    """Environment steps between checkpoints to resume from; the newest few are kept."""
    keep: int = 3
    """How many of the newest checkpoints are kept."""
    checkpoint_steps: tuple[int, ...] = ()
    """Checkpoints kept for good: at the end of the iteration that reaches each step."""
    ppo: PPO = field(default_factory=PPO)
    imitation: Imitation = field(default_factory=Imitation)

    def __post_init__(self) -> None:
        _choice(self, "", "method", Method)
        _check(isinstance(self.env, str) and bool(self.env), "env", self.env, "must be a name")
        _positive(self, "", "steps", "num_envs", "rollout_steps", "eval_every", "eval_episodes")
        _positive(self, "", "checkpoint_every", "keep")
        ok = isinstance(self.seed, int) and 0 <= self.seed < 2**32
        _check(ok, "seed", self.seed, "must be a whole number from 0 to 2^32 - 1")
        for step in self.checkpoint_steps:
            ok = isinstance(step, int) and step > 0
            _check(ok, "checkpoint_steps", step, "must be whole numbers above 0")
        remedy = f"must divide num_envs = {self.num_envs}"
        divides = self.num_envs % self.ppo.minibatches == 0
        _check(divides, "ppo.minibatches", self.ppo.minibatches, remedy)
        if self.method == "dm2":
            remedy = "method dm2 needs a demonstration file; make one with `dm2 record`"
            _check(bool(self.demos), "demos", self.demos, remedy)
        else:
            remedy = f"method {self.method} uses no demonstrations; leave demos out or use dm2"
            _check(self.demos is None, "demos", self.demos, remedy)

    @property
    def iteration_steps(self) -> int:
        """Environment steps of one iteration (one rollout and the updates on it)."""
        return self.num_envs * self.rollout_steps

    @property
    def iterations(self) -> int:
        """Iterations needed for `steps`, rounded up."""
        return -(-self.steps // self.iteration_steps)

    @property
    def imitates(self) -> bool:
        """Whether agents learn from demonstrations."""
        return self.method == "dm2"

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; `from_dict` is the inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """Inverse of `to_dict`. Raises InputError for unknown or missing settings."""
        try:
            values = dict(values)
            values["ppo"] = PPO(**values.get("ppo", {}))
            values["imitation"] = Imitation(**values.get("imitation", {}))
            values["checkpoint_steps"] = tuple(values.get("checkpoint_steps", ()))
            return cls(**values)
        except TypeError as error:
            remedy = "was it written by another version of dm2?"
            raise InputError(f"config: {error}; {remedy}") from None
