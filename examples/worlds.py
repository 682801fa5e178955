"""Does DM² help in other people's worlds, as each of them comes?

`cd examples && dm2 study run worlds.py`; it needs `pip install mpe2 lbforaging` and, in the root of
the repository, `pip install -e '.[pettingzoo,gymnasium,jaxmarl]'`.
"""

from dataclasses import replace
from typing import NamedTuple

import dm2
from dm2 import Imitation
from dm2.studies.products import Recording, training
from dm2.studies.scales import Scale
from dm2.studies.study import Claim, Curve, Study


class World(NamedTuple):
    """A world and how long its teams learn, in environment steps."""

    env: str
    steps: int
    expert_steps: int
    goal_ends: bool
    """Whether reaching the goal ends the episode."""


WORLDS = (
    World(
        "mpe2/simple_spread-v3?N=3&max_cycles=25", 300_000, 900_000, False
    ),  # PettingZoo's interface
    World("gymnasium/lbforaging:Foraging-5x5-2p-1f-coop-v3", 150_000, 300_000, True),
    World("jaxmarl/MPE_simple_spread_v3", 300_000, 900_000, False),
    World("hunt:Hunt", 300_000, 600_000, True),  # a class in JAX, in this folder
    World("dm2.envs:SmacEnv?env=smac/3m", 120_000, 200_000, True),  # an object with SMAC's methods
)


DEFAULT = Imitation()
VARIANTS = {
    "DM², absorbing": replace(DEFAULT, survival="absorbing"),
    "DM², falling": replace(DEFAULT, coefficient_end=0.0),
}
"""Two remedies where imitation may pay for not ending the episode."""


def study(scale: Scale) -> Study:
    """IPPO and DM² in each world, with the default settings; the remedies where they apply."""
    curves = []
    for world in WORLDS:
        expert = training(dm2.IPPO(), world.env, steps=world.expert_steps, seed=100)
        demos = Recording((expert,), episodes=300)
        methods = {"IPPO": dm2.IPPO(), "DM²": dm2.DM2()}
        if world.goal_ends:
            methods |= {name: dm2.DM2(imitation=chosen) for name, chosen in VARIANTS.items()}
        for name, method in methods.items():
            runs = tuple(
                training(
                    method,
                    world.env,
                    demos=demos if isinstance(method, dm2.DM2) else None,
                    seed=seed,
                    steps=world.steps,
                    eval_every=world.steps // 15,
                )
                for seed in range(scale.seeds)
            )
            curves.append(Curve(name, runs))
    return Study(
        "worlds",
        "Other people's worlds",
        "Do IPPO and DM² learn in worlds of other interfaces, with the settings that they have, and"
        " does DM² learn faster?",
        tuple(curves),
        (
            Claim("DM² learns faster than IPPO.", "DM²", "IPPO", source="ours"),
            *(Claim(f"So does {name}.", name, "IPPO", source="ours") for name in VARIANTS),
        ),
    )
