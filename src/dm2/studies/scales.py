"""On which tasks, for how long and with how many seeds a study is run."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

from dm2.errors import InputError, as_whole
from dm2.methods import Settings
from dm2.methods.presets import preset
from dm2.studies.products import Recording, Training, training

__all__ = ["EXPERT_SEED", "Scale", "ScaleName", "Task", "scale_named"]

ScaleName = Literal["quick", "paper"]

EXPERT_SEED = 100
"""The seed of a task's first team of experts, far from those of the methods that are compared."""
_LEVELS = 10
"""Checkpoints of an expert that are kept, evenly spread over its training, for recordings of
several qualities."""


@dataclass(frozen=True)
class Task:
    """A task that methods are compared on, and how long they learn it."""

    env: str
    steps: int
    """Environment steps that every method learns for."""
    expert_steps: int
    """Environment steps that experts learn for; those of QMIX for 1.5 × `steps` at most."""
    eval_every: int
    """Environment steps between evaluations."""
    coefficient: float
    """Of imitation, in units of this task's reward: what somebody chose who could try some."""
    seeds: int
    num_envs: int | None = None
    """Parallel environments; by default as the preset says."""

    def settings(self, method: str, **groups: dict[str, Any]) -> Settings:
        """The settings of a method that are used on this task.

        Args:
            method: Its name.
            groups: Values that are to be other ones, by group of settings:
                `imitation={"coefficient": 1.0}`.
        """
        own: Any = preset("tuned", method, self.env)["method"]
        changed = {name: replace(getattr(own, name), **new) for name, new in groups.items()}
        return replace(own, **changed)

    def runs(
        self, method: str | Settings, demos: Recording | None = None, seeds: int | None = None
    ) -> tuple[Training, ...]:
        """Runs of a method, seeds 0, 1, …

        Args:
            method: Its settings, or its name for those that are used on this task.
            demos: What it imitates, if it does.
            seeds: How many; by default those of the task.
        """
        own = self.settings(method) if isinstance(method, str) else method
        count = self.seeds if seeds is None else seeds
        return tuple(self._run(own, seed, self.steps, demos=demos) for seed in range(count))

    def expert(self, method: str = "ippo", number: int = 0, env: str | None = None) -> Training:
        """A team of experts, of which `_LEVELS` checkpoints are kept.

        Args:
            method: The name of their method.
            number: Which of several teams that differ in their seed.
            env: The environment in which they learn, in place of the task's own.
        """
        own = self.settings(method)
        steps = self.expert_steps
        if not hasattr(own, "ppo"):  # a step of QMIX takes as long as several of PPO
            steps = min(steps, self.steps * 3 // 2)
        ladder = tuple(steps * (n + 1) // _LEVELS for n in range(_LEVELS))
        seed, more = EXPERT_SEED + number, {"checkpoint_steps": ladder}
        return self._run(own, seed, steps, env=env, **more)

    def levels(self) -> tuple[int, ...]:
        """The steps of an expert's checkpoints that are kept."""
        return self.expert().config.checkpoint_steps

    def _run(
        self, method: Settings, seed: int, steps: int, *, env: str | None = None, **more: Any
    ) -> Training:
        known = preset("tuned", method.name, self.env)
        envs = self.num_envs if self.num_envs and hasattr(method, "ppo") else known["num_envs"]
        shape = {"num_envs": envs, "rollout_steps": known["rollout_steps"]}
        shape |= {"eval_every": self.eval_every, "checkpoint_every": 4 * self.eval_every, "keep": 1}
        return training(method, env or self.env, steps=steps, seed=seed, **shape, **more)


@dataclass(frozen=True)
class Scale:
    """The tasks of all studies."""

    name: ScaleName
    seeds: int

    @cached_property
    def main(self) -> tuple[Task, ...]:
        """The tasks of the paper's Figure 2."""
        if self.name == "quick":
            return (self._quick_4z, self._quick_3z)
        return (self._marines, self._stalkers, self.easy)

    @cached_property
    def more(self) -> tuple[Task, ...]:
        """The tasks of the paper's Figure 4."""
        if self.name == "quick":
            return self.main
        many = self._task("smac/8m_vs_9m", 3_000_000, 4_000_000, 100_000, 0.4, num_envs=128)
        return (self._task("smac/3s_vs_5z?reward=signed", 3_000_000, 4_000_000, 100_000, 0.1), many)

    @cached_property
    def hard(self) -> tuple[Task, ...]:
        """The tasks of the paper's Figure 6, on which experts are needed."""
        return (self._quick_4z,) if self.name == "quick" else (self._stalkers, self._marines)

    @cached_property
    def one(self) -> Task:
        """The task of studies with many curves: of the paper's Figures 3 and 8."""
        return self._quick_4z if self.name == "quick" else self._marines

    @cached_property
    def varied(self) -> Task:
        """A task by SMAC's rules each of whose battles starts from other places."""
        if self.name == "quick":
            return self._task("smac/3m?starts=varied", 300_000, 600_000, 10_000, 0.3)
        name = "smac/3s_vs_4z?reward=signed&starts=varied"
        return self._task(name, 2_000_000, 3_000_000, 50_000, 0.05)

    @cached_property
    def unlike(self) -> tuple[Task, ...]:
        """Tasks whose rewards are of unlike size; at scale `paper` some of JaxMARL's."""
        few = self._task("smac/3m", 200_000, 600_000, 10_000, 0.3)
        if self.name == "quick":
            return (self._quick_4z, self._quick_3z, few)
        spread, reference = (
            self._task(f"jaxmarl/MPE_simple_{name}_v3", 300_000, 1_000_000, 20_000, 0.05)
            for name in ("spread", "reference")
        )
        return (self._quick_4z, self._quick_3z, few, self.easy, spread, reference)

    @cached_property
    def _quick_4z(self) -> Task:
        return self._task("smax/3s_vs_4z", 250_000, 700_000, 10_000, 0.05)

    @cached_property
    def _quick_3z(self) -> Task:
        return self._task("smax/3s_vs_3z", 150_000, 400_000, 10_000, 0.05)

    @cached_property
    def _marines(self) -> Task:
        return self._task("smac/5m_vs_6m", 2_500_000, 3_000_000, 50_000, 0.3, num_envs=128)

    @cached_property
    def _stalkers(self) -> Task:
        return self._task("smac/3s_vs_4z?reward=signed", 2_000_000, 3_000_000, 50_000, 0.05)

    @cached_property
    def easy(self) -> Task:
        """A task that every method can learn."""
        if self.name == "quick":
            return self._quick_4z
        return self._task("smac/3s_vs_3z?reward=signed", 1_000_000, 1_500_000, 25_000, 0.3)

    def _task(self, *values: Any, **more: Any) -> Task:
        return Task(*values, seeds=self.seeds, **more)


_SEEDS: dict[ScaleName, int] = {"quick": 3, "paper": 5}


def scale_named(name: str, seeds: int | None = None) -> Scale:
    """A scale: `quick`, for minutes on two cores, or `paper`, for days.

    Args:
        name: Its name.
        seeds: The seeds of every curve; by default 3, or the paper's 5.

    Raises:
        InputError: If there is no such scale, or the seeds are no number above 0.
    """
    if name not in get_args(ScaleName):
        raise InputError(f"scale = {name!r}: must be one of {', '.join(get_args(ScaleName))}")
    chosen: Any = name
    return Scale(chosen, _SEEDS[chosen] if seeds is None else as_whole("seeds", seeds))
