"""Behavioural cloning of one agent's own expert, by the recurrent policy on whole episodes."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, UInt32

from dm2.agent.demonstrations import Expert, ExpertEpisodes, required
from dm2.agent.learner import Learner
from dm2.agent.packing import Network, Sequences, pack, packed_fit
from dm2.agent.ppo import log_prob_of
from dm2.agent.returns import masked_mean
from dm2.agent.settings import Cloning
from dm2.agent.state import AgentState
from dm2.agent.types import Params
from dm2.errors import InputError

__all__ = ["clone", "cloning_loss", "last_actions"]


def cloning_loss(
    logits: Float[Array, "*B A"],
    legal: Bool[Array, "*B A"],
    actions: Int[Array, "*B"],
    alive: Bool[Array, "*B"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    r"""Cross-entropy of the expert's actions, `L = -E[log pi(a_E | o_E)]`, over the steps at which
    it was alive; `pi` is confined to the legal actions (Pomerleau 1991, Neural Computation 3(1)).

    Args:
        logits: The policy's outputs.
        legal: The legal actions.
        actions: The expert's.
        alive: The steps that count.

    Returns:
        The loss, and the share of steps at which the expert's action is the policy's likeliest.
    """
    loss = -masked_mean(log_prob_of(logits, legal, actions), alive)
    likeliest = jnp.argmax(jnp.where(legal, logits, -jnp.inf), axis=-1)
    return loss, masked_mean((likeliest == actions).astype(jnp.float32), alive)


def last_actions(actions: Int[Array, "T E"]) -> Int[Array, "T E"]:
    """The action before each step; -1 at the first."""
    return jnp.concatenate([jnp.full_like(actions[:1], -1), actions[:-1]])


def clone(
    learner: Learner, settings: Cloning, state: AgentState, expert: Expert | None
) -> tuple[AgentState, dict[str, Float[Array, ""]]]:
    """Makes an agent's policy an imitation of its expert before its first step. The observations'
    moments begin with the expert's.

    Args:
        learner: The rules by which the agent acts.
        settings: How often and how fast.
        state: The agent.
        expert: Its own part of the demonstrations, as episodes.

    Returns:
        The agent with the policy that came of it, and means over the last pass: `cloning_loss`, in
        nats, and `cloning_accuracy`.

    Raises:
        InputError: If there is no expert, or none of episodes.
    """
    episodes = required(expert).episodes
    if episodes is None:
        problem = "experts.episodes = None: cloning goes through whole episodes"
        raise InputError(f"{problem}; load_experts(demos, episodes=True) keeps them")
    if state.moments is not None:
        moments = state.moments.including(episodes.observations.astype(jnp.float32), episodes.alive)
        state = state._replace(moments=moments)

    def inputs_of(observations: Array, last: Array) -> Array:
        observations = learner.inputs.observations(state.moments, observations)
        nowhere = jnp.zeros(observations.shape[:1], bool)
        action = last if learner.inputs.last_action else None
        known = (action, nowhere, state.identity, learner.num_actions)
        return learner.inputs.append(observations, *known)

    inputs = jax.vmap(inputs_of)(episodes.observations, last_actions(episodes.actions))
    memory = learner.actor.initial_memory(inputs.shape[1])
    # Stream 2 of the agent's key, beside learning and acting.
    key = jax.random.fold_in(state.key, 2)
    arguments = (learner.actor.apply, state.actor, memory, inputs, episodes, key)
    actor, metrics = _fit(settings, *arguments)
    return state._replace(actor=actor), metrics


def _fit(
    settings: Cloning,
    network: Network,
    params: Params,
    memory: Float[Array, "E H"],
    inputs: Float[Array, "T E I"],
    episodes: ExpertEpisodes,
    key: UInt32[Array, "2"],
) -> tuple[Params, dict[str, Float[Array, ""]]]:
    """Fits a policy to episodes, `settings.batch` of them a gradient step, with an Adam of its own.

    Args:
        settings: How often and how fast.
        network: The policy's network.
        params: Its parameters.
        memory: Its recurrent state at an episode's start.
        inputs: What the network takes at each step of the episodes.
        episodes: What the expert did there.
        key: Decides which episodes go together.

    Returns:
        The parameters, and means over the last pass: `cloning_loss`, in nats, and
        `cloning_accuracy`.
    """
    count = inputs.shape[1]
    batch = min(settings.batch, count)
    keys = jax.random.split(key, settings.epochs)
    orders = jax.vmap(lambda key: jax.random.permutation(key, count))(keys)
    a_pass = count // batch  # the episodes left over are others in every pass
    minibatches = orders[:, : a_pass * batch].reshape(-1, batch)
    starts = jnp.zeros_like(episodes.alive).at[0].set(True)
    optimiser = optax.adam(settings.learning_rate)

    def loss(logits: Array, targets: Any, alive: Array) -> tuple[Array, dict[str, Array]]:
        legal, actions = targets
        loss, accuracy = cloning_loss(logits, legal, actions, alive)
        return loss, {"cloning_loss": loss, "cloning_accuracy": accuracy}

    params, _, metrics = packed_fit(
        network,
        loss,
        optimiser,
        params,
        optimiser.init(params),
        Sequences(memory, inputs, starts, episodes.alive),
        (episodes.legal, episodes.actions),
        pack(episodes.alive, starts, minibatches),
    )
    metrics.pop("gradient_norm")
    return params, jax.tree.map(lambda x: jnp.mean(x[-a_pass:]), metrics)
