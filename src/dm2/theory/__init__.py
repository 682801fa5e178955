"""The theory of distribution matching, exactly: small Markov games in float64.

Everything of Section 4 and Appendix A of the paper (arXiv 2206.00233) that can be computed is,
every claim is checked, Algorithm 2 is run and watched. Nothing here learns from samples, and
nothing here is imported by what does.
"""

from dm2.theory.algorithm import Algorithm, History, run, step
from dm2.theory.beyond import aliased_observations, observed_expert, state_margin
from dm2.theory.claims import CLAIMS, Sample, Verdict, draw, judge
from dm2.theory.compatibility import Compatibility, compatible, sample_targets, sampling_tolerance
from dm2.theory.convergence import bound_top, converge, summary
from dm2.theory.gail import (
    converged_reward,
    cross_entropy,
    loss,
    optimal_logits,
    reward_of,
    saddle_value,
)
from dm2.theory.games import MarkovGame, random_games, random_policies
from dm2.theory.measurements import MEASUREMENTS
from dm2.theory.quantities import (
    best_response,
    individual_objective,
    joint_objective,
    joint_policy,
    joint_visitation,
    lower_bound,
    marginals,
    matches,
    nash_gaps,
    optimal_joint_policy,
    returns,
    state_visitation,
    visitation_bounds,
)
from dm2.theory.scenarios import (
    SCENARIOS,
    Scenario,
    four_tile,
    handshake,
    lift,
    scenario,
    stag_hunt,
)
from dm2.theory.verification import verify

__all__ = [
    "CLAIMS",
    "MEASUREMENTS",
    "SCENARIOS",
    "Algorithm",
    "Compatibility",
    "History",
    "MarkovGame",
    "Sample",
    "Scenario",
    "Verdict",
    "aliased_observations",
    "best_response",
    "bound_top",
    "compatible",
    "converge",
    "converged_reward",
    "cross_entropy",
    "draw",
    "four_tile",
    "handshake",
    "individual_objective",
    "joint_objective",
    "joint_policy",
    "joint_visitation",
    "judge",
    "lift",
    "loss",
    "lower_bound",
    "marginals",
    "matches",
    "nash_gaps",
    "observed_expert",
    "optimal_joint_policy",
    "optimal_logits",
    "random_games",
    "random_policies",
    "returns",
    "reward_of",
    "run",
    "saddle_value",
    "sample_targets",
    "sampling_tolerance",
    "scenario",
    "stag_hunt",
    "state_margin",
    "state_visitation",
    "step",
    "summary",
    "verify",
    "visitation_bounds",
]
