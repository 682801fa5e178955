"""The settings that all methods share whose agents learn by PPO."""

import dataclasses
from dataclasses import dataclass, field

from dm2.agent.inputs import Inputs
from dm2.agent.settings import PPO, ObservationScale
from dm2.envs.base import EnvSpec
from dm2.errors import check_choice, checks_itself
from dm2.methods.base import Settings, scaled_inputs, settled_scale

__all__ = ["OnPolicy"]


@checks_itself
@dataclass(frozen=True)
class OnPolicy(Settings):
    """Settings of PPO and of what the actors take in. It is no method by itself."""

    ppo: PPO = field(default_factory=PPO)
    observations: ObservationScale = field(default="auto", kw_only=True)
    """How observations are brought to one scale. `layer`: each to mean 0 and variance 1 over its
    features (layer norm), which sees nothing but their ratios; `running`: each feature by its mean
    and variance so far, of the agent's own observations, or of all agents' where they share a
    network; `both`, the latter first; `none`. By default `layer` on the battles, smax and smac,
    whose features have one scale, else `running`."""
    last_action: bool = field(default=False, kw_only=True)
    """Whether the actors also take the agent's last action; so do the critics, but for RMAPPO's
    central one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "", "observations", ObservationScale)

    def settled(self, env: str) -> "OnPolicy":
        """With the scale of observations that suits the environment, if none was chosen."""
        return dataclasses.replace(self, observations=settled_scale(self.observations, env))

    @property
    def has_schedules(self) -> bool:
        """Whether the learning rate or the entropy weight has an end of its own."""
        return self.ppo.learning_rate_end is not None or self.ppo.entropy_end is not None

    def inputs_of(self, spec: EnvSpec, *, agent_id: bool) -> Inputs:
        """How the actors' input is made in an environment, with the agent's number or without.
        Raises InputError if observations are one number, of which layer norm leaves nothing."""
        known = {"last_action": self.last_action, "agent_id": agent_id}
        return scaled_inputs(self.observations, spec, **known)
