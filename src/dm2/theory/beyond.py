r"""Past the paper's theorems: what state-only targets pin down, and what agents see of the state.

**State-only targets.** The paper's experiments match states, its theory states and actions. For a
deterministic expert, a visitation `ρ_E` with full support and one decision maker, matching states
recovers the expert if and only if its action alone is best for some reward of the state:

    ρ_π = ρ_E  ⇒  π = π_E    ⇔    there is f with E[f(s') | s, a^E(s)] > E[f(s') | s, a]
                                  for every s and every other a.

Both visitations obey the flow equation, so `ρ_π = ρ_E` if and only if
`Σ_{s, a ≠ a^E} ρ_E(s) π(a | s) [T(· | s, a) - T(· | s, a^E)] = 0`. Some non-zero `π(a | s) ≥ 0`
solves that, or else (Gordan's theorem) some `f` has a positive inner product with every
`T(· | s, a^E) - T(· | s, a)`. Such an `f` is the value function of the expert for the reward
`f(s) - γ E[f(s') | s, a^E]`, which depends on the state alone.

For a team the same holds with joint actions, if it may correlate its actions; product policies
are fewer, so the condition is sufficient for them.
"""

import numpy as np
from jaxtyping import Float, Int

from dm2.errors import InputError
from dm2.theory import quantities
from dm2.theory.games import MarkovGame, check_policies

__all__ = ["aliased_observations", "observed_expert", "state_margin"]


def state_margin(game: MarkovGame, expert: Float[np.ndarray, "K S A"]) -> float:
    r"""`max_f min_{s, a ≠ a^E} E[f | s, a^E] - E[f | s, a]` for `0 ≤ f ≤ 1`; a linear program.

    Above 0 if and only if matching states alone recovers the expert (among joint policies, with
    correlation); 0 if some other joint policy visits the states as often. Raises InputError
    unless the expert is deterministic.
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
    """For each agent a random map of the states onto `seen` observations, all of them used.

    Raises InputError unless `1 ≤ seen ≤ states`.
    """
    if not 1 <= seen <= states:
        raise InputError(f"seen = {seen!r}: must be from 1 to the {states} states")
    rows = np.arange(states) % seen
    return np.stack([rng.permutation(rows) for _ in range(agents)])


def observed_expert(
    observations: Int[np.ndarray, "K S"], policies: Float[np.ndarray, "*B K S A"]
) -> Float[np.ndarray, "*B K S A"]:
    """The policies made functions of the observation: those of the first state that looks so."""
    first = [[int(np.flatnonzero(row == o)[0]) for o in row] for row in observations]
    return np.stack([policies[..., i, first[i], :] for i in range(len(first))], axis=-3)
