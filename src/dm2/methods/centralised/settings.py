"""The groups of settings of Q-learning teams: frozen, documented, validated when they are made."""

from dataclasses import dataclass
from typing import Literal

import optax

from dm2.errors import (
    check_choice,
    check_finite,
    check_positive,
    check_setting,
    checks_itself,
    convert_fields,
)

__all__ = ["Mixer", "Q"]

_Optimiser = Literal["adam", "rmsprop"]


@checks_itself
@dataclass(frozen=True)
class Q:
    """Deep recurrent Q-learning from a replay of episodes (Hausknecht, Stone 2015, arXiv
    1507.06527) with double targets (van Hasselt et al. 2016, arXiv 1509.06461). Where nothing else
    is said, the defaults are those of QMIX (arXiv 1803.11485) and of PyMARL, its authors' code.
    The loss is the mean squared error.

    Raises:
        InputError: If a value is out of its range.
    """

    hidden: int = 64
    """Units of each dense layer and of the GRU."""
    dense_layers: int = 1
    """ReLU layers before the GRU. A second one hurts (the paper's figure 8)."""
    optimiser: _Optimiser = "adam"
    """`adam`, JaxMARL's, or the authors' `rmsprop` (decay 0.99), a step of which is torch's,
    `g / (sqrt(v) + epsilon)` with `v` the running mean of `g^2`; epsilon is 1e-5 in both."""
    learning_rate: float = 1e-3
    """The learning rate: the optimiser's step size; the authors' is 5e-4."""
    max_grad_norm: float = 10.0
    """Global-norm clip of the gradient."""
    discount: float = 0.99
    """The discount gamma, per environment step."""
    td_lambda: float = 0.8
    """The lambda of the targets: 0 is the papers' one step, 1 the episode's own return. The default
    was chosen on one seed of `smax/3s_vs_4z`, together with the other defaults that are not the
    authors'."""
    updates: int = 16
    """Gradient updates per rollout, chosen on `smax/3s_vs_4z`; the authors make one an episode,
    JaxMARL 8 in 2048 steps."""
    batch: int = 32
    """Episodes per update, drawn with replacement."""
    capacity: int = 500
    """Episodes that the replay keeps; the newest takes the oldest's place. They lie in memory and
    in every checkpoint: at 500, 75 MB on `smax/3s_vs_4z`. The authors keep 5000."""
    learning_starts: int = 32
    """Episodes that the replay must hold before anything is learnt."""
    target_every: int = 40
    """Updates after which the target network is replaced by a copy, at the end of a rollout's
    updates. The authors wait for 200 episodes, with an update each."""
    epsilon_start: float = 1.0
    """Share of random actions at the beginning of a run."""
    epsilon_end: float = 0.05
    """Share of random actions to which `epsilon_start` falls, linearly, and at which it stays."""
    epsilon_steps: int = 50_000
    """Environment steps over which the share of random actions falls from `epsilon_start` to
    `epsilon_end`. It changes from rollout to rollout, not within one."""

    def __post_init__(self) -> None:
        prefix = "q."
        convert_fields(self, prefix)
        check_positive(self, prefix, "hidden", "dense_layers", "updates", "batch", "capacity")
        check_positive(self, prefix, "learning_starts", "target_every", "epsilon_steps")
        check_choice(self, prefix, "optimiser", _Optimiser)
        check_finite(self, prefix, "learning_rate", "max_grad_norm", low=1e-12)
        check_finite(
            self, prefix, "discount", "td_lambda", "epsilon_start", "epsilon_end", high=1.0
        )
        fits = self.learning_starts <= self.capacity
        remedy = f"there is room for q.capacity = {self.capacity} episodes only"
        check_setting(fits, "q.learning_starts", self.learning_starts, remedy)

    def transformation(self) -> optax.GradientTransformation:
        """The optimiser, behind the clip."""
        if self.optimiser == "adam":
            step = optax.adam(self.learning_rate, eps=1e-5)
        else:
            # Optax's own default puts epsilon under the root: far larger where gradients are small.
            step = optax.rmsprop(self.learning_rate, decay=0.99, eps=1e-5, eps_in_sqrt=False)
        return optax.chain(optax.clip_by_global_norm(self.max_grad_norm), step)


@checks_itself
@dataclass(frozen=True)
class Mixer:
    """The monotonic mixing network; the defaults are PyMARL's.

    Raises:
        InputError: If a value is out of its range.
    """

    embed: int = 32
    """Units of the mixing layer."""
    hidden: int = 64
    """Units of the ReLU layer in the networks that make the mixing weights of the global state."""

    def __post_init__(self) -> None:
        convert_fields(self, "mixer.")
        check_positive(self, "mixer.", "embed", "hidden")
