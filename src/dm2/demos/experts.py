"""Demonstrations as agents learn from them: arrays on the device, agent `k`'s part at place `k`."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from dm2.agent.demonstrations import Expert, ExpertEpisodes
from dm2.demos.dataset import AgentDemonstrations, Demonstrations
from dm2.demos.fields import check

__all__ = ["load_experts", "load_joint_expert"]

_NO_ACTIONS = (
    "record some with `dm2 record --actions`, which keeps actions and legal actions, or import "
    "both: `action` and `legal_0` … of a table, `actions` and `legal` of arrays"
)


def load_experts(demos: Demonstrations, *, actions: bool = False, episodes: bool = False) -> Expert:
    """Every agent's observations while alive, padded to one length, stacked `[K, ...]`. Death and
    an early end count as absorbing up to the episode limit of the recording.

    Args:
        demos: The team's demonstrations.
        actions: Whether the actions that were chosen there are wanted too.
        episodes: Whether whole episodes are wanted too.

    Returns:
        Observations `[K, M, O]`, of which agent `k`'s first `size[k]` are real; `size` and the
        absorbing shares `[K]`; where they are wanted, actions one-hot, `[K, M, A]`, and episodes
        `[K, T, E, ...]`, else None.

    Raises:
        InputError: If actions are wanted, or episodes, and the demonstrations hold no actions.
    """
    agents, num_actions = demos.agents, demos.provenance["num_actions"]
    shares = [demos.absorbing_fraction(k) for k in range(len(agents))]
    rows = [demos.alive_observations(k) for k in range(len(agents))]
    chosen = None
    if actions:
        own = [_actions(agent, k)[agent.alive] for k, agent in enumerate(agents)]
        chosen = jnp.asarray(_padded([_one_hot(a, num_actions) for a in own]))
    return Expert(
        jnp.asarray(_padded(rows)),
        jnp.asarray([len(one) for one in rows], jnp.int32),
        jnp.asarray(shares, jnp.float32),
        chosen,
        _episodes(demos) if episodes else None,
    )


def load_joint_expert(demos: Demonstrations, *, actions: bool = False) -> Expert:
    """The team as one expert: at each step at which somebody is alive the observations of all
    agents, those of the dead as zeros, one behind another, `[M, K O]`.

    Args:
        demos: The team's demonstrations.
        actions: Whether all agents' actions are wanted too.

    Returns:
        Observations `[M, K O]`; their number M, and the share of the time up to the episode limit
        at which nobody is alive, as scalars; where they are wanted, actions one-hot, `[M, K A]`,
        those of the dead as zeros, else None. There are no episodes.

    Raises:
        InputError: If the agents were not recorded in the same joint episodes, or actions are
            wanted and there are none.
    """
    labels = demos.provenance["concurrency"]
    problem = f"provenance.concurrency = {labels}: agents come from different episodes"
    check(len(set(labels)) == 1, problem, "a joint discriminator takes one recording of the team")
    alive = np.stack([agent.alive for agent in demos.agents])
    somebody = alive.any(axis=0)
    observations = [
        np.where(agent.alive[:, None], agent.observations, 0)[somebody] for agent in demos.agents
    ]
    chosen = None
    if actions:
        num_actions = demos.provenance["num_actions"]
        of_all = [
            _one_hot(_actions(agent, k), num_actions) & agent.alive[:, None]
            for k, agent in enumerate(demos.agents)
        ]
        chosen = jnp.asarray(np.concatenate(of_all, axis=1)[somebody])
    steps = demos.agents[0].num_episodes * demos.provenance["episode_limit"]
    return Expert(
        jnp.asarray(np.concatenate(observations, axis=1)),
        jnp.int32(somebody.sum()),
        jnp.float32(1.0 - somebody.sum() / steps),
        chosen,
    )


def _episodes(demos: Demonstrations) -> ExpertEpisodes:
    """Whole episodes, `[K, T, E, ...]`, padded to the longest and, where agents come from different
    numbers of episodes, with empty ones."""
    longest = max(int(agent.lengths.max()) for agent in demos.agents)
    most = max(agent.num_episodes for agent in demos.agents)
    each = []
    for k, agent in enumerate(demos.agents):
        check(agent.legal is not None, f"demos: agent {k} has no legal actions", _NO_ACTIONS)
        fields = {
            "observations": agent.observations,
            "alive": agent.alive,
            "actions": _actions(agent, k),
            "legal": agent.legal,
        }
        where = np.repeat(np.arange(agent.num_episodes), agent.lengths)
        when = np.arange(len(agent.alive)) - np.repeat(agent.offsets[:-1], agent.lengths)
        arrays = {}
        for name, rows in fields.items():
            rows = np.asarray(rows)
            whole = np.zeros((longest, most, *rows.shape[1:]), rows.dtype)
            whole[when, where] = rows
            arrays[name] = whole
        arrays["legal"][~arrays["alive"], 0] = True  # where nothing happens, something is legal
        each.append(arrays)
    return ExpertEpisodes(
        **{name: jnp.asarray(np.stack([arrays[name] for arrays in each])) for name in each[0]}
    )


def _actions(agent: AgentDemonstrations, k: int) -> np.ndarray:
    check(agent.actions is not None, f"demos: agent {k} has no actions", _NO_ACTIONS)
    return np.asarray(agent.actions, np.int32)


def _one_hot(actions: np.ndarray, count: int) -> np.ndarray:
    return actions[:, None] == np.arange(count)


def _padded(parts: Sequence[np.ndarray]) -> np.ndarray:
    longest = max(map(len, parts))
    return np.stack([np.pad(rows, ((0, longest - len(rows)), (0, 0))) for rows in parts])
