r"""Exact quantities of a joint policy: visitations, values, best responses, Nash gaps; J, L, L_ε.

All take a game, or a batch of them, and the policies `π_i(a_i | s)` as `[*B, K, S, A]`.
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
    "values_of",
    "visitation_bounds",
    "visitation_of",
]

Policies = Float[np.ndarray, "*B K S A"]


def joint_policy(policies: Policies) -> Float[np.ndarray, "*B S J"]:
    r"""`Π_i π_i(a_i | s)` over joint actions."""
    factors = [policies[..., i, :, :] for i in range(policies.shape[-3])]

    def outer(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        both = left[..., :, None] * right[..., None, :]
        return both.reshape(*both.shape[:-2], -1)

    return functools.reduce(outer, factors)


def visitation_of(
    chain: Float[np.ndarray, "*B S S"],
    initial: Float[np.ndarray, "*B S"],
    discount: Float[Array, "*B"],
) -> Float[np.ndarray, "*B S"]:
    r"""`ρ` of a Markov chain `P(s' | s)`: the solution of `ρ = (1-γ) p0 + γ Pᵀ ρ`."""
    gamma = discount[..., None, None]
    system = np.eye(chain.shape[-1]) - gamma * np.swapaxes(chain, -1, -2)
    return np.linalg.solve(system, (1 - gamma) * initial[..., None])[..., 0]


def state_visitation(game: MarkovGame, policies: Policies) -> Float[np.ndarray, "*B S"]:
    r"""`ρ_π(s) = (1-γ) Σ_t γ^t P(s_t = s | π)`."""
    chain = np.einsum("...sj,...sjt->...st", joint_policy(policies), game.transitions)
    return visitation_of(chain, game.initial, game.discount)


def joint_visitation(game: MarkovGame, policies: Policies) -> Float[np.ndarray, "*B S J"]:
    r"""`ρ_π(s, a) = ρ_π(s) Π_i π_i(a_i | s)`."""
    return state_visitation(game, policies)[..., None] * joint_policy(policies)


def marginals(game: MarkovGame, policies: Policies) -> Policies:
    r"""Each agent's own part, `ρ_{π_i, π_-i}(s, a_i) = ρ_π(s) π_i(a_i | s)`."""
    return state_visitation(game, policies)[..., None, :, None] * policies


def agent_view(
    game: MarkovGame, policies: Policies, agent: int
) -> tuple[Float[np.ndarray, "*B S A S"], Float[np.ndarray, "*B S A"]]:
    """The decision process of one agent while the others hold still: transitions and rewards."""
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
    r"""`V(s) = E[Σ_t γ^t r_t | s_0 = s]` and `Q(s, a)` of one agent's decision process."""
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
    """Optimal values and a deterministic optimal policy, by policy iteration (exact)."""
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
    r"""`E[Σ_t γ^t R_i]` of each agent, from `p0`; not normalised."""
    visits = joint_visitation(game, policies)
    paid = np.einsum("...sj,...ksj->...k", visits, game.rewards)
    return paid / (1 - game.discount[..., None])


def best_response(
    game: MarkovGame, policies: Policies, agent: int
) -> tuple[Float[Array, "*B"], Float[np.ndarray, "*B S A"]]:
    """The highest return of one agent while the others hold still, and a policy that earns it."""
    value, policy = solve(*agent_view(game, policies, agent), game.discount)
    return (game.initial * value).sum(-1), policy


def nash_gaps(game: MarkovGame, policies: Policies) -> Float[np.ndarray, "*B K"]:
    """What each agent would gain by deviating alone; all zero in a Nash equilibrium."""
    best = [best_response(game, policies, i)[0] for i in range(game.agents)]
    return np.stack(best, -1) - returns(game, policies)


def optimal_joint_policy(game: MarkovGame) -> Policies:
    """The deterministic team policy that is best for agent 0's reward, a Nash equilibrium of it.

    For a team (equal rewards), no agent can gain by deviating, alone or with others.
    """
    _, joint = solve(game.transitions, game.rewards[..., 0, :, :], game.discount)
    choices = np.unravel_index(joint.argmax(-1), (game.actions,) * game.agents)
    return np.eye(game.actions)[np.stack(choices, -2)]


def visitation_bounds(
    game: MarkovGame,
) -> tuple[Float[np.ndarray, "*B S"], Float[np.ndarray, "*B S"]]:
    r"""`min_π ρ_π(s)` and `max_π ρ_π(s)` over all joint policies, for each state; exact.

    Both are attained by deterministic joint policies, which are products, so that knowing the
    agents to act independently does not narrow them. `ε` of Condition 1 is the lower ones' minimum.
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
    r"""`Σ_a min(π_i(a | s), π_i^E(a | s))`: for a deterministic expert `P(a_i = a_i^E(s))`.

    For a stochastic one it is one minus the total variation distance of the two.
    """
    return np.minimum(policies, expert).sum(-1)


def joint_objective(game: MarkovGame, policies: Policies, expert: Policies) -> Float[Array, "*B"]:
    r"""`J(π) = Σ_s ρ_π(s) [(K-1) + P(all agents match at s)]` (Equation 2)."""
    everyone = np.minimum(joint_policy(policies), joint_policy(expert)).sum(-1)
    return game.agents - 1 + (state_visitation(game, policies) * everyone).sum(-1)


def individual_objective(
    game: MarkovGame, policies: Policies, expert: Policies
) -> Float[Array, "*B"]:
    r"""`L(π) = Σ_s ρ_π(s) Σ_i P(a_i = a_i^E(s))` (Equation 3)."""
    visits = state_visitation(game, policies)
    return (visits * matches(policies, expert).sum(-2)).sum(-1)


def lower_bound(
    policies: Policies, expert: Policies, epsilon: Float[Array, "*B"]
) -> Float[Array, "*B"]:
    r"""`L_ε(π) = ε Σ_s Σ_i P(a_i = a_i^E(s))` (Equation 4)."""
    return epsilon * matches(policies, expert).sum((-2, -1))
