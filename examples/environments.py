"""Does DM² help in other people's environments, as each of them comes?

`cd examples && dm2 study run environments.py`; it needs `pip install mpe2 lbforaging` and, in the
root of the repository, `pip install -e '.[pettingzoo,gymnasium,jaxmarl]'`.
"""

from dataclasses import replace
from typing import NamedTuple

import dm2
from dm2 import Imitation
from dm2.studies.products import Recording, training
from dm2.studies.scales import Scale
from dm2.studies.study import Claim, Curve, Study


class Task(NamedTuple):
    """An environment, and how long its teams learn, in environment steps."""

    env: str
    steps: int
    expert_steps: int
    goal_ends: bool
    """Whether reaching the goal ends the episode."""


TASKS = (
    # PettingZoo's interface, and that of a Gymnasium environment with tuples.
    Task("mpe2/simple_spread-v3?N=3&max_cycles=25", 300_000, 900_000, False),
    Task("gymnasium/lbforaging:Foraging-5x5-2p-1f-coop-v3", 150_000, 300_000, True),
    Task("jaxmarl/MPE_simple_spread_v3", 300_000, 900_000, False),
    # A class in JAX, in this folder, and an object with SMAC's methods.
    Task("hunt:Hunt", 300_000, 600_000, True),
    Task("dm2.envs:SmacEnv?env=smac/3m", 120_000, 200_000, True),
)


DEFAULT = Imitation()
VARIANTS = {
    "DM², absorbing": replace(DEFAULT, survival="absorbing"),
    "DM², falling": replace(DEFAULT, coefficient_end=0.0),
}
"""Two remedies where imitation may pay for not ending the episode."""


def study(scale: Scale) -> Study:
    """IPPO and DM² in each, with the default settings; the remedies where they apply."""
    curves = []
    for task in TASKS:
        expert = training(dm2.IPPO(), task.env, steps=task.expert_steps, seed=100)
        demos = Recording((expert,), episodes=300)
        methods = {"IPPO": dm2.IPPO(), "DM²": dm2.DM2()}
        if task.goal_ends:
            methods |= {name: dm2.DM2(imitation=chosen) for name, chosen in VARIANTS.items()}
        for name, method in methods.items():
            runs = tuple(
                training(
                    method,
                    task.env,
                    demos=demos if isinstance(method, dm2.DM2) else None,
                    seed=seed,
                    steps=task.steps,
                    eval_every=task.steps // 15,
                )
                for seed in range(scale.seeds)
            )
            curves.append(Curve(name, runs))
    return Study(
        "environments",
        "Other people's environments",
        "Do IPPO and DM² learn in environments of other interfaces, with the settings that they"
        " have, and does DM² learn faster?",
        tuple(curves),
        (
            Claim("DM² learns faster than IPPO.", "DM²", "IPPO", source="ours"),
            *(Claim(f"So does {name}.", name, "IPPO", source="ours") for name in VARIANTS),
        ),
    )
