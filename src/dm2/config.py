"""Every setting of a training run: frozen, documented, validated when it is made."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from dm2.errors import (
    MOST,
    InputError,
    as_seed,
    check_positive,
    check_setting,
    checks_itself,
    convert_fields,
)
from dm2.methods import METHODS, Settings, settings_class

__all__ = ["Config", "ProgramSettings"]

_MOST_STEPS = 2**53
"""Up to here, a float counts steps exactly."""


@dataclass(frozen=True)
class ProgramSettings:
    """The settings that decide which programs are compiled. Runs that agree in them share those."""

    method: Settings
    env: str
    num_envs: int
    rollout_steps: int

    @property
    def iteration_steps(self) -> int:
        """Environment steps of one iteration (one rollout and the updates on it)."""
        return self.num_envs * self.rollout_steps


@checks_itself
@dataclass(frozen=True)
class Config:
    """One training run. All counts of steps are environment steps summed over environments.

    Example: `Config(IPPO(PPO(learning_rate=5e-4)), "smax/3s_vs_4z", steps=800_000, seed=3)`.

    Raises:
        InputError: If a value is unusable, or demonstrations are missing or not used.
    """

    method: Settings
    """The method's own settings, for example `dm2.IPPO()`."""
    env: str
    """Environment name, for example `smax/3s_vs_4z` (`dm2 doctor` lists them)."""
    steps: int = 1_000_000
    """Environment steps to train for; rounded up to whole iterations."""
    seed: int = 0
    """Determines the whole run, from 0 to 2^32 - 1."""
    demos: str | None = None
    """Demonstration file, for the methods that imitate; the others take none."""
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
    horizon: int | None = None
    """Environment steps of which schedules take shares; by default `steps`. A run that is resumed
    to more steps keeps its schedules."""

    def __post_init__(self) -> None:
        ok = isinstance(self.method, Settings)
        remedy = "must be a method's settings, for example dm2.IPPO()"
        check_setting(ok, "method", self.method, remedy)
        convert_fields(self)
        check_setting(bool(self.env), "env", self.env, "must be a name")
        check_positive(self, "", "num_envs", "rollout_steps", "eval_episodes", "keep")
        counts = ("steps", "eval_every", "checkpoint_every")
        counts += () if self.horizon is None else ("horizon",)
        check_positive(self, "", *counts, high=_MOST_STEPS)
        remedy = f"x rollout_steps = {self.rollout_steps} must be at most {MOST}"
        check_setting(self.iteration_steps <= MOST, "num_envs", self.num_envs, remedy)
        as_seed(self.seed)
        for step in self.checkpoint_steps:
            check_setting(step > 0, "checkpoint_steps", step, "must be whole numbers above 0")
        self.method.check(self.num_envs)
        name = self.method.name
        if self.method.imitates:
            remedy = f"method {name} needs a demonstration file; make one with `dm2 record`"
            check_setting(bool(self.demos), "demos", self.demos, remedy)
        else:
            remedy = f"method {name} uses no demonstrations; leave demos out or use dm2"
            check_setting(self.demos is None, "demos", self.demos, remedy)

    @property
    def settled(self) -> "Config":
        """The settings with what the environment's name decides filled in, as a run keeps them."""
        return dataclasses.replace(self, method=self.method.settled(self.env))

    @property
    def program(self) -> ProgramSettings:
        """The part that decides which programs are compiled, with what the environment's name
        decides filled in."""
        method = self.method.settled(self.env)
        return ProgramSettings(method, self.env, self.num_envs, self.rollout_steps)

    @property
    def iteration_steps(self) -> int:
        """Environment steps of one iteration (one rollout and the updates on it)."""
        return self.program.iteration_steps

    @property
    def iterations(self) -> int:
        """Iterations needed for `steps`, rounded up."""
        return -(-self.steps // self.iteration_steps)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; `from_dict` is the inverse. The method's own settings
        stand beside those of the run."""
        values = dataclasses.asdict(self)
        own = values.pop("method")
        return {"method": self.method.name, **values, **own}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """Inverse of `to_dict`. Raises InputError for unknown, missing or unusable settings.

        Settings that only another method has are left out: earlier versions wrote every method's.
        A coefficient of imitation without a unit is one of reward, the only one that they had.
        """
        values = dict(values)
        imitation = values.get("imitation")
        if isinstance(imitation, dict) and "coefficient" in imitation:
            values["imitation"] = {"unit": "reward", **imitation}
        chosen = settings_class(values.pop("method", None))
        ours = {field.name for field in dataclasses.fields(cls)}
        elsewhere = {name for settings in METHODS.values() for name in _fields(settings)}
        own = {name: values.pop(name) for name in [*values] if name not in ours}
        own = {k: v for k, v in own.items() if k in _fields(chosen) or k not in elsewhere}
        try:
            if isinstance(values.get("checkpoint_steps"), list):  # as JSON holds a tuple
                values["checkpoint_steps"] = tuple(values["checkpoint_steps"])
            return cls(chosen.from_dict(own), **values)
        except TypeError as error:
            remedy = "was it written by another version of dm2?"
            raise InputError(f"config: {error}; {remedy}") from None


def _fields(settings: type[Settings]) -> set[str]:
    return {field.name for field in dataclasses.fields(settings)}
