"""The team: one agent's functions mapped over agents. The only such map in the package.

Nothing is passed with `in_axes=None` and nothing is closed over but static settings, so what is
inside the map cannot see a teammate.

Policies and value functions learn from the same rollout without needing each other. Where JAX has
two CPU devices (`dm2.runtime` asks for them) they learn side by side, one on each.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from dm2.agent.imitation import Expert
from dm2.agent.learner import Learner
from dm2.agent.state import (
    AgentState,
    Carry,
    Trajectory,
    actor_part,
    critic_part,
    improved,
)
from dm2.runtime import Ahead, Now, compiler_options

__all__ = ["Team"]


class Team:
    """`num_agents` independent learners. Every array argument leads with the agent axis `K`."""

    def __init__(self, learner: Learner, num_agents: int, mapping: str | None = None) -> None:
        """`mapping`: how `update` is mapped over agents: `vmap`, or `loop`, one agent at a time,
        whose working set stays in a processor's cache; by default what suits the backend."""
        self.learner = learner
        self.num_agents = num_agents
        on_cpu = jax.default_backend() == "cpu"
        self.mapping = mapping or ("loop" if on_cpu else "vmap")
        # Policies learn where the rollout lies, value functions on the last of these.
        self.devices = jax.local_devices()[: 2 if on_cpu else 1]
        self._prepare = self._compiled(learner.prepare)
        self._improve_actor = self._compiled(learner.improve_actor)
        self._improve_critic = self._compiled(learner.improve_critic)

    def _one_by_one(self, function: Callable) -> Callable:
        if self.mapping == "vmap":
            return jax.vmap(function)
        return lambda *args: jax.lax.map(lambda one: function(*one), args)

    def _compiled(self, function: Callable) -> Callable:
        return jax.jit(self._one_by_one(function), compiler_options=compiler_options("learn"))

    def init(self, key: UInt32[Array, "2"]) -> AgentState:
        """Fresh agents; agent `k` is made from `fold_in(key, k)` alone."""
        agents = jnp.arange(self.num_agents)
        keys = jax.vmap(lambda agent: jax.random.fold_in(key, agent))(agents)
        return jax.vmap(self.learner.init)(keys)

    def initial_carry(self, num_envs: int) -> Carry:
        """Every agent's memory before anything was seen."""
        one = self.learner.initial_carry(num_envs)
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (self.num_agents, *x.shape)), one)

    def action_keys(self, agents: AgentState, steps: int) -> UInt32[Array, "K T 2"]:
        """Each agent's own keys for the coming rollout."""
        return jax.vmap(lambda agent: self.learner.action_keys(agent, steps))(agents)

    def act(
        self,
        agents: AgentState,
        keys: UInt32[Array, "K 2"],
        carry: Carry,
        observations: Float[Array, "K N O"],
        legal: Bool[Array, "K N A"],
        alive: Bool[Array, "K N"],
        starts: Bool[Array, "K N"],
    ) -> tuple[Carry, Int[Array, "K N"], Float[Array, "K N"]]:
        """See `Learner.act`."""
        return jax.vmap(self.learner.act)(agents, keys, carry, observations, legal, alive, starts)

    def policy(
        self,
        agents: AgentState,
        carry: Float[Array, "K N H"],
        observations: Float[Array, "K N O"],
        starts: Bool[Array, "K N"],
    ) -> tuple[Float[Array, "K N H"], Float[Array, "K N A"]]:
        """See `Learner.policy`."""
        return jax.vmap(self.learner.policy)(agents, carry, observations, starts)

    def value(
        self,
        agents: AgentState,
        carry: Float[Array, "K N H"],
        observations: Float[Array, "K N O"],
        starts: Bool[Array, "K N"],
    ) -> tuple[Float[Array, "K N H"], Float[Array, "K N"]]:
        """See `Learner.value`."""
        return jax.vmap(self.learner.value)(agents, carry, observations, starts)

    def update(
        self,
        agents: AgentState,
        trajectory: Trajectory,
        carry: Carry,
        experts: Expert | None,
        way: type[Now] | Ahead = Now,
    ) -> tuple[AgentState, dict[str, Any]]:
        """See `Learner.update`. Several compiled programs, started from Python, not waited for; or,
        `Ahead`, compiled."""
        home, away = self.devices[0], self.devices[-1]
        agents, lesson, metrics = way.run(self._prepare, agents, trajectory, experts)
        theirs = way.put(critic_part(agents, trajectory, carry, lesson), away)
        critic = way.run(self._improve_critic, *theirs)
        actor = way.run(self._improve_actor, *actor_part(agents, trajectory, carry, lesson))
        return improved(agents, metrics, actor, way.put(critic, home))
