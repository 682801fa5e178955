"""Agents that learn alone: one agent's functions mapped over the team, the only such map.

Nothing is passed with `in_axes=None` and nothing is closed over but static settings, so what is
inside the map cannot reach a teammate.

Policies and value functions learn from the same rollout without needing each other. Where JAX has
two CPU devices (`dm2.set_up_process` asks for them) they learn side by side, one on each.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from dm2.agent.actor import Actor
from dm2.agent.demonstrations import Expert
from dm2.agent.learner import Learner, actor_arguments, critic_arguments, improved
from dm2.agent.state import AgentState, Extras, Memory
from dm2.agent.types import Trajectory, View
from dm2.compilation import Program, SideBySide, compiler_options

__all__ = ["Independent"]


class Independent:
    """`num_agents` learners that share nothing. Every array argument leads with the agents' axis
    `K`; see `dm2.methods.base.Method` for what the functions are."""

    centralised = False
    shares_reward = False

    def __init__(self, learner: Learner, num_agents: int, mapping: str | None = None) -> None:
        """Maps one agent's rules over a team.

        Args:
            learner: The rules of one agent.
            num_agents: How many agents the team has.
            mapping: How learning is mapped over agents: `vmap`, or `loop`, one agent at a time,
                whose working set stays in a processor's cache; by default what suits the backend.
        """
        self.learner = learner
        self.num_agents = num_agents
        on_cpu = jax.default_backend() == "cpu"
        self.mapping = mapping or ("loop" if on_cpu else "vmap")
        self.prepare = self.compiled(learner.prepare)
        self.improve_actor = self.compiled(learner.improve_actor)
        self.improve_critic = self.compiled(learner.improve_critic)
        self._improve = SideBySide(self.improve_actor, self.improve_critic)

    def _one_by_one(self, function: Callable) -> Callable:
        if self.mapping == "vmap":
            return jax.vmap(function)
        return lambda *args: jax.lax.map(lambda one: function(*one), args)

    def compiled(self, function: Callable) -> Callable:
        """A function of one agent's learning, mapped over the team and compiled."""
        return jax.jit(self._one_by_one(function), compiler_options=compiler_options("learn"))

    def init(self, key: UInt32[Array, "2"]) -> AgentState:
        """Fresh agents; agent `k` is made from `fold_in(key, k)` alone."""
        agents = jnp.arange(self.num_agents)
        keys = jax.vmap(lambda agent: jax.random.fold_in(key, agent))(agents)
        return jax.vmap(self.learner.init)(keys, agents)

    def memory(self, num_envs: int) -> Memory:
        """Every agent's memory before it has perceived anything."""
        one = self.learner.memory(num_envs)
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (self.num_agents, *x.shape)), one)

    def action_keys(self, state: AgentState, steps: int) -> UInt32[Array, "T K 2"]:
        """Each agent's own keys for the coming rollout."""
        keys = jax.vmap(lambda agent: self.learner.action_keys(agent, steps))(state)
        return jnp.moveaxis(keys, 1, 0)

    def act(
        self,
        state: AgentState,
        memory: Memory,
        keys: UInt32[Array, "K 2"],
        view: View,
        greedy: bool,
    ) -> tuple[Memory, Int[Array, "K N"], Extras]:
        """Every agent acts; see `Learner.act`."""
        act = functools.partial(self.learner.act, greedy=greedy)
        return jax.vmap(act)(state, memory, keys, view)

    def actor_of(self, state: AgentState, agent: int) -> Actor:
        """What one agent needs to act by itself."""
        return self.learner.actor_of(jax.tree.map(lambda x: x[agent], state))

    def bootstrap(self, state: AgentState, memory: Memory, view: View) -> Float[Array, "K N"]:
        """Every agent's values; see `Learner.bootstrap`."""
        return jax.vmap(self.learner.bootstrap)(state, memory, view)

    def learn(
        self, state: AgentState, trajectory: Trajectory, experts: Expert | None
    ) -> tuple[AgentState, dict[str, Any]]:
        """Every agent learns; see `Learner.learn`. Several compiled programs are started from
        Python and not waited for."""
        state, prepared, metrics = self.prepare(state, trajectory, experts)
        parts = (state, trajectory, prepared)
        actor, critic = self._improve(actor_arguments(*parts), critic_arguments(*parts))
        return improved(state, metrics, actor, critic)

    def programs(
        self, state: AgentState, trajectory: Trajectory, experts: Expert | None
    ) -> list[Program]:
        """The three programs of `learn`."""
        prepare = Program(self.prepare, (state, trajectory, experts))
        state, prepared, _ = prepare.results(self._improve.home)
        parts = (state, trajectory, prepared)
        return [
            prepare,
            *self._improve.programs(actor_arguments(*parts), critic_arguments(*parts)),
        ]
