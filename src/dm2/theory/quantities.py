"""Exact quantities of a joint policy: visitations, returns, best responses and the objectives.

Each function takes one game or a batch of games, and policies `π_i(a_i | s)` as `[*B, K, S, A]`.
The letters of the axes are explained in `dm2.theory.games`.
"""

import functools

import numpy as np
from jaxtyping import Float

from dm2.theory.games import Array, MarkovGame

__all__ = [
    "agent_view",
    "best_response",
    "individual_objective",
    "joint_objective",
    "joint_policy",
    "joint_visitation",
    "lower_bound",
    "marginals",
    "matches",
    "nash_gaps",
    "optimal_joint_policy",
    "returns",
    "solve",
    "state_visitation",
    "team_equilibrium",
    "values_of",
    "visitation_bounds",
    "visitation_of",
]

Policies = Float[np.ndarray, "*B K S A"]


def joint_policy(policies: Policies) -> Float[np.ndarray, "*B S J"]:
    """The joint policy of agents that act independently, `Π_i π_i(a_i | s)`.

    Args:
        policies: The policy of each agent, `[*B, K, S, A]`.

    Returns:
        The probability of each joint action in each state, `[*B, S, J]`.
    """
    factors = [policies[..., i, :, :] for i in range(policies.shape[-3])]
    return functools.reduce(_outer, factors)


def _outer(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The products of all pairs from the last axes, the right index running faster."""
    both = left[..., :, None] * right[..., None, :]
    return both.reshape(*both.shape[:-2], -1)


def visitation_of(
    chain: Float[np.ndarray, "*B S S"],
    initial: Float[np.ndarray, "*B S"],
    discount: Float[Array, "*B"],
) -> Float[np.ndarray, "*B S"]:
    """The discounted visitation `ρ` of a Markov chain, the solution of `ρ = (1-γ) p0 + γ Pᵀ ρ`.

    Args:
        chain: The transition probabilities `P(s' | s)`, `[*B, S, S]`.
        initial: The distribution `p0` of the first state, `[*B, S]`.
        discount: The discount factor `γ`, `[*B]`.

    Returns:
        The visitation, `[*B, S]`; it sums to 1.
    """
    gamma = discount[..., None, None]
    system = np.eye(chain.shape[-1]) - gamma * np.swapaxes(chain, -1, -2)
    return np.linalg.solve(system, (1 - gamma) * initial[..., None])[..., 0]


def state_visitation(game: MarkovGame, policies: Policies) -> Float[np.ndarray, "*B S"]:
    """The visitation of states, `ρ_π(s) = (1-γ) Σ_t γ^t P(s_t = s | π)` (Section 4).

    Args:
        game: The game or batch of games.
        policies: The policy of each agent, `[*B, K, S, A]`.

    Returns:
        The discounted share of time in each state, `[*B, S]`; it sums to 1.
    """
    chain = np.einsum("...sj,...sjt->...st", joint_policy(policies), game.transitions)
    return visitation_of(chain, game.initial, game.discount)


def joint_visitation(game: MarkovGame, policies: Policies) -> Float[np.ndarray, "*B S J"]:
    """The visitation of states and joint actions, `ρ_π(s, a) = ρ_π(s) Π_i π_i(a_i | s)`.

    Args:
        game: The game or batch of games.
        policies: The policy of each agent, `[*B, K, S, A]`.

    Returns:
        A distribution over states and joint actions, `[*B, S, J]`.
    """
    return state_visitation(game, policies)[..., None] * joint_policy(policies)


def marginals(game: MarkovGame, policies: Policies) -> Policies:
    """The marginal visitation of each agent, `ρ_{π_i, π_-i}(s, a_i) = ρ_π(s) π_i(a_i | s)`.

    The marginals of the expert team are the targets that the agents match (Section 5, Definition
    1): agent `i` knows only its own.

    Args:
        game: The game or batch of games.
        policies: The policy of each agent, `[*B, K, S, A]`.

    Returns:
        For each agent a distribution over states and its own actions, `[*B, K, S, A]`.

    Example:
        >>> from dm2.theory import marginals, scenario
        >>> game, expert, start = scenario("lift")
        >>> targets = marginals(game, expert)
        >>> targets.shape
        (2, 3, 2)
        >>> [round(float(target.sum()), 6) for target in targets]
        [1.0, 1.0]
    """
    return state_visitation(game, policies)[..., None, :, None] * policies


def agent_view(
    game: MarkovGame, policies: Policies, agent: int
) -> tuple[Float[np.ndarray, "*B S A S"], Float[np.ndarray, "*B S A"]]:
    """The Markov decision process of one agent while the policies of the others are fixed.

    Args:
        game: The game or batch of games.
        policies: The policy of each agent, `[*B, K, S, A]`; that of `agent` itself has no effect.
        agent: The index of the agent.

    Returns:
        The transitions `[*B, S, A, S]` and the agent's rewards `[*B, S, A]`, both averaged over the
        actions of the other agents.
    """
    others = np.delete(policies, agent, axis=-3)
    batch, s, a = policies.shape[:-3], game.states, game.actions
    before, after = a**agent, a ** (game.agents - 1 - agent)
    weights = joint_policy(others) if game.agents > 1 else np.ones((*batch, s, 1))
    weights = weights.reshape(*batch, s, before, 1, after)
    rewards = game.rewards[..., agent, :, :].reshape(*batch, s, before, a, after)
    ahead = game.transitions.reshape(*batch, s, before, a, after, s)
    return (weights[..., None] * ahead).sum((-4, -2)), (weights * rewards).sum((-3, -1))


def values_of(
    ahead: Float[np.ndarray, "*B S A S"],
    rewards: Float[np.ndarray, "*B S A"],
    discount: Float[Array, "*B"],
    policy: Float[np.ndarray, "*B S A"],
) -> tuple[Float[np.ndarray, "*B S"], Float[np.ndarray, "*B S A"]]:
    """The values of a policy in the decision process of one agent.

    They are `V(s) = E[Σ_t γ^t r_t | s_0 = s]` and `Q(s, a) = r(s, a) + γ E[V(s') | s, a]`.

    Args:
        ahead: The transitions, `[*B, S, A, S]`.
        rewards: The rewards, `[*B, S, A]`.
        discount: The discount factor `γ`, `[*B]`.
        policy: The policy, `[*B, S, A]`.

    Returns:
        `V`, `[*B, S]`, and `Q`, `[*B, S, A]`.
    """
    gamma = discount[..., None, None]
    chain = np.einsum("...sa,...sat->...st", policy, ahead)
    system = np.eye(chain.shape[-1]) - gamma * chain
    value = np.linalg.solve(system, (policy * rewards).sum(-1)[..., None])
    return value[..., 0], rewards + gamma * (ahead @ value[..., None, :, :])[..., 0]


def solve(
    ahead: Float[np.ndarray, "*B S A S"],
    rewards: Float[np.ndarray, "*B S A"],
    discount: Float[Array, "*B"],
) -> tuple[Float[np.ndarray, "*B S"], Float[np.ndarray, "*B S A"]]:
    """Solves the decision process of one agent exactly, by policy iteration.

    Args:
        ahead: The transitions, `[*B, S, A, S]`.
        rewards: The rewards, `[*B, S, A]`.
        discount: The discount factor `γ`, `[*B]`.

    Returns:
        The optimal values, `[*B, S]`, and a deterministic optimal policy, `[*B, S, A]`.
    """
    count = rewards.shape[-1]
    choice = rewards.argmax(-1)
    while True:
        policy = np.eye(count)[choice]
        value, q = values_of(ahead, rewards, discount, policy)
        # Only real improvements: a tie that rounding decides differently each time never ends.
        better = q.max(-1) > value + 1e-12 * (1 + np.abs(value))
        if not better.any():
            return value, policy
        choice = np.where(better, q.argmax(-1), choice)


def returns(game: MarkovGame, policies: Policies) -> Float[np.ndarray, "*B K"]:
    """The expected return of each agent from `p0`, `E[Σ_t γ^t R_i]`; it is not multiplied by `1-γ`.

    Args:
        game: The game or batch of games.
        policies: The policy of each agent, `[*B, K, S, A]`.

    Returns:
        The return of each agent, `[*B, K]`.
    """
    visits = joint_visitation(game, policies)
    paid = np.einsum("...sj,...ksj->...k", visits, game.rewards)
    return paid / (1 - game.discount[..., None])


def best_response(
    game: MarkovGame, policies: Policies, agent: int
) -> tuple[Float[Array, "*B"], Float[np.ndarray, "*B S A"]]:
    """The best response of one agent while the policies of the others are fixed.

    Args:
        game: The game or batch of games.
        policies: The policy of each agent, `[*B, K, S, A]`.
        agent: The index of the agent.

    Returns:
        The highest return that the agent can earn, `[*B]`, and a deterministic policy that earns
        it, `[*B, S, A]`.
    """
    value, policy = solve(*agent_view(game, policies, agent), game.discount)
    return (game.initial * value).sum(-1), policy


def nash_gaps(game: MarkovGame, policies: Policies) -> Float[np.ndarray, "*B K"]:
    """The return that each agent can gain if it alone changes its policy.

    Args:
        game: The game or batch of games.
        policies: The policy of each agent, `[*B, K, S, A]`.

    Returns:
        The gain of each agent, `[*B, K]`. All gains are 0 if and only if the policies are a Nash
        equilibrium.
    """
    best = [best_response(game, policies, i)[0] for i in range(game.agents)]
    return np.stack(best, -1) - returns(game, policies)


def optimal_joint_policy(game: MarkovGame) -> Policies:
    """The deterministic team policy that is best for the reward of agent 0.

    In a team game, in which all rewards are equal, no agent can gain from another policy, either
    alone or together with others. The policy is therefore a Nash equilibrium.

    Args:
        game: The game or batch of games.

    Returns:
        The policy of each agent, `[*B, K, S, A]`.
    """
    _, joint = solve(game.transitions, game.rewards[..., 0, :, :], game.discount)
    choices = np.unravel_index(joint.argmax(-1), (game.actions,) * game.agents)
    return np.eye(game.actions)[np.stack(choices, -2)]


def team_equilibrium(game: MarkovGame, start: Policies) -> Policies:
    """Finds a deterministic Nash equilibrium of a team game, by best responses in turn.

    Each best response raises the common return, so the search ends. The equilibrium can be far from
    the best one.

    Args:
        game: The team game or batch of team games.
        start: The policies of the first best response, `[*B, K, S, A]`.

    Returns:
        The policy of each agent, `[*B, K, S, A]`, from which no agent gains by a change of its own.
    """
    policies = start.copy()
    while True:
        for i in range(game.agents):
            policies[..., i, :, :] = best_response(game, policies, i)[1]
        if (nash_gaps(game, policies) <= 1e-10).all():
            return policies


def visitation_bounds(
    game: MarkovGame,
) -> tuple[Float[np.ndarray, "*B S"], Float[np.ndarray, "*B S"]]:
    """The least and the greatest visitation of each state, `min_π ρ_π(s)` and `max_π ρ_π(s)`.

    The bounds are exact, over all joint policies. Deterministic joint policies attain both of them.
    These are products of single policies, so the bounds are the same for agents that act
    independently. The `ε` of Condition 1 is the smallest of the lower bounds.

    Args:
        game: The game or batch of games.

    Returns:
        The lower bounds and the upper bounds, `[*B, S]` each.
    """
    low, high = [], []
    for state in range(game.states):
        here = np.zeros_like(game.rewards[..., 0, :, :])
        here[..., state, :] = 1.0
        for sign, found in ((-1.0, low), (1.0, high)):
            value, _ = solve(game.transitions, sign * here, game.discount)
            found.append(sign * (1 - game.discount) * (game.initial * value).sum(-1))
    return np.stack(low, -1), np.stack(high, -1)


def matches(policies: Policies, expert: Policies) -> Float[np.ndarray, "*B K S"]:
    """The overlap of two policies, `Σ_a min(π_i(a | s), π_i^E(a | s))`.

    For a deterministic expert it is the probability of a match, `P(a_i = a_i^E(s))`. For a
    stochastic expert it is one minus the total variation distance of the two policies.

    Args:
        policies: The policy of each agent, `[*B, K, S, A]`.
        expert: The policy of each expert, `[*B, K, S, A]`.

    Returns:
        The overlap of each agent in each state, `[*B, K, S]`.
    """
    return np.minimum(policies, expert).sum(-1)


def joint_objective(game: MarkovGame, policies: Policies, expert: Policies) -> Float[Array, "*B"]:
    """The joint action-matching objective (Equation 2).

    It is `J(π) = Σ_s ρ_π(s) [(K-1) + P(all agents match at s)]`.

    Args:
        game: The game or batch of games.
        policies: The policy of each agent, `[*B, K, S, A]`.
        expert: The policy of each expert, `[*B, K, S, A]`.

    Returns:
        `J`, `[*B]`, from `K-1` to `K` (Lemma 4).
    """
    everyone = np.minimum(joint_policy(policies), joint_policy(expert)).sum(-1)
    return game.agents - 1 + (state_visitation(game, policies) * everyone).sum(-1)


def individual_objective(
    game: MarkovGame, policies: Policies, expert: Policies
) -> Float[Array, "*B"]:
    """The sum of the single agents' matches (Equation 3).

    It is `L(π) = Σ_s ρ_π(s) Σ_i P(a_i = a_i^E(s))`.

    Args:
        game: The game or batch of games.
        policies: The policy of each agent, `[*B, K, S, A]`.
        expert: The policy of each expert, `[*B, K, S, A]`.

    Returns:
        `L`, `[*B]`; it is at most `J` (Theorem 1).
    """
    visits = state_visitation(game, policies)
    return (visits * matches(policies, expert).sum(-2)).sum(-1)


def lower_bound(
    policies: Policies, expert: Policies, epsilon: Float[Array, "*B"]
) -> Float[Array, "*B"]:
    """The lower bound that does not depend on the visitation (Equation 4).

    It is `L_ε(π) = ε Σ_s Σ_i P(a_i = a_i^E(s))`.

    Args:
        policies: The policy of each agent, `[*B, K, S, A]`.
        expert: The policy of each expert, `[*B, K, S, A]`.
        epsilon: The least visitation `ε` of any state under any policy, `[*B]` (Condition 1).

    Returns:
        `L_ε`, `[*B]`, from 0 to `ε S K`; it is at most `L` (Corollary 1).
    """
    return epsilon * matches(policies, expert).sum((-2, -1))
