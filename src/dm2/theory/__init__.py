"""The theory of distribution matching on small Markov games, computed exactly in float64.

This package covers Section 4 and Appendix A of the paper (arXiv 2206.00233). It offers four
things to a user:

- `verify` checks every claim of the paper on random games and returns one `Verdict` per claim.
- `run` and `converge` run Algorithm 2 of the paper on a game. `Algorithm` holds the settings,
  `History` the course of a run, `summary` and `bound_top` the figures to report.
- `MarkovGame` describes a game of your own, `Scenario` adds an expert and a start to it, and
  `scenario` returns one of the built-in examples.
- `compatible` decides whether one team can match the targets of all agents (Definition 1).
  `marginals` computes the targets that an expert team sets.

Each module documents further functions, for example the objectives in `dm2.theory.quantities` and
the discriminator in `dm2.theory.gail`; import them from there. Nothing in this package learns from
samples, and no learning code imports it.
"""

from dm2.theory.algorithm import Algorithm, History, run
from dm2.theory.compatibility import Compatibility, compatible
from dm2.theory.convergence import bound_top, converge, summary
from dm2.theory.games import MarkovGame
from dm2.theory.quantities import marginals
from dm2.theory.scenarios import Scenario, scenario
from dm2.theory.verdict import Verdict
from dm2.theory.verification import verify

__all__ = [
    "Algorithm",
    "Compatibility",
    "History",
    "MarkovGame",
    "Scenario",
    "Verdict",
    "bound_top",
    "compatible",
    "converge",
    "marginals",
    "run",
    "scenario",
    "summary",
    "verify",
]
