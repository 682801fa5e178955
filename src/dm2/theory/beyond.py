"""Two questions beyond the paper's theorems: targets without actions, and partial observation.

**Targets without actions.** The paper's experiments match states; its theory matches states and
actions. Let the expert be deterministic, let its visitation `ρ_E` be positive in every state, and
let there be one decision maker. Then matching states recovers the expert if and only if the
expert's action alone is best for some reward of the state:

    ρ_π = ρ_E  ⇒  π = π_E    ⇔    there is f with E[f(s') | s, a^E(s)] > E[f(s') | s, a]
                                  for every s and every other a.

The proof is as follows. Both visitations obey the flow equation, so `ρ_π = ρ_E` if and only if
`Σ_{s, a ≠ a^E} ρ_E(s) π(a | s) [T(· | s, a) - T(· | s, a^E)] = 0`. Either some non-zero
`π(a | s) ≥ 0` solves this equation, or (Gordan's theorem) some `f` has a positive inner product
with every `T(· | s, a^E) - T(· | s, a)`. Such an `f` is the value function of the expert for the
reward `f(s) - γ E[f(s') | s, a^E]`, which depends on the state alone.

For a team whose actions may be correlated, the same holds with joint actions. There are fewer
product policies than joint policies, so the condition is sufficient for agents that act
independently.
"""

import numpy as np
from jaxtyping import Float, Int

from dm2.errors import InputError
from dm2.theory import quantities
from dm2.theory.games import MarkovGame, check_policies

__all__ = ["aliased_observations", "observed_expert", "state_margin"]


def state_margin(game: MarkovGame, expert: Float[np.ndarray, "K S A"]) -> float:
    """The margin by which states alone determine a deterministic expert, found by a linear program.

    It is `max_f min_{s, a ≠ a^E} E[f | s, a^E] - E[f | s, a]` over `0 ≤ f ≤ 1`. The text of the
    module has the proof.

    Args:
        game: The game, not a batch.
        expert: The policy of each expert, `[K, S, A]`, deterministic.

    Returns:
        The margin. It is above 0 if and only if matching states alone recovers the expert, among
        all joint policies, with correlation. It is 0 if some other joint policy visits the states
        equally often.

    Raises:
        InputError: If the expert does not fit the game or is not deterministic.
        RuntimeError: If the linear program has no solution.
    """
    from scipy.optimize import linprog

    check_policies(game, expert, "expert")
    if not np.isin(expert, (0.0, 1.0)).all():
        raise InputError("expert: must be deterministic; a stochastic one mixes joint actions")
    best = quantities.joint_policy(expert).argmax(-1)
    rows = np.arange(game.states)
    lead = game.transitions[rows, best][:, None] - game.transitions
    others = np.ones(lead.shape[:2], bool)
    others[rows, best] = False
    lead = lead[others]
    if not len(lead):
        return 1.0
    # Maximise m subject to m - lead · f ≤ 0.
    constraints = np.column_stack([-lead, np.ones(len(lead))])
    objective = np.append(np.zeros(game.states), -1.0)
    bounds = [(0, 1)] * game.states + [(0, None)]
    found = linprog(objective, constraints, np.zeros(len(lead)), bounds=bounds, method="highs")
    if not found.success:
        raise RuntimeError(f"state_margin: {found.message}")
    return float(-found.fun)


def aliased_observations(
    agents: int, states: int, seen: int, rng: np.random.Generator
) -> Int[np.ndarray, "K S"]:
    """Draws observations that do not distinguish all states, at random for each agent.

    Args:
        agents: The number `K` of agents.
        states: The number `S` of states.
        seen: The number of different observations of an agent; all of them occur.
        rng: The source of random numbers.

    Returns:
        The observation of agent `i` in state `s`, `[K, S]`.

    Raises:
        InputError: Unless `1 ≤ seen ≤ states`.
    """
    if not 1 <= seen <= states:
        raise InputError(f"seen = {seen!r}: must be from 1 to the {states} states")
    rows = np.arange(states) % seen
    return np.stack([rng.permutation(rows) for _ in range(agents)])


def observed_expert(
    observations: Int[np.ndarray, "K S"], policies: Float[np.ndarray, "*B K S A"]
) -> Float[np.ndarray, "*B K S A"]:
    """Turns policies of the state into policies of the observation.

    Args:
        observations: The observation of agent `i` in state `s` as `observations[i, s]`, `[K, S]`.
        policies: The policy of each agent, `[*B, K, S, A]`.

    Returns:
        Policies `[*B, K, S, A]` in which an agent acts in each state as `policies` does in the
        first state with the same observation.
    """
    first = [[int(np.flatnonzero(row == o)[0]) for o in row] for row in observations]
    return np.stack([policies[..., i, first[i], :] for i in range(len(first))], axis=-3)
