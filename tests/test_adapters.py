"""Other people's worlds that are unusual and sound."""

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Tuple

from dm2.envs import HostEnvironment, make
from dm2.envs.adapters.gymnasium import GymnasiumWorld
from dm2.envs.adapters.pettingzoo import PettingZooWorld, is_parallel
from dm2.envs.adapters.smac import SmacWorld
from dm2.envs.factories import options_of
from dm2.envs.workers import InThisProcess, words_of
from dm2.errors import InputError
from stand_ins import Battle, Meet, Tuples
from stand_ins_jax import Line


def actions(*chosen: int) -> np.ndarray:
    return np.array(chosen, np.int32)


class OwnBox(Box):
    """A space of a class of its own."""


class Goal(Meet):
    """Shows more beside the mask than one part, under names of its own."""

    def observation_space(self, agent: str) -> Any:
        mask = super().observation_space(agent).spaces["action_mask"]
        return Dict({"goal": Discrete(2), "obs": OwnBox(0, 9, (2,)), "action_mask": mask})

    def _seen(self) -> dict[str, Any]:
        masks = {one: seen["action_mask"] for one, seen in super()._seen().items()}
        return {
            one: {"goal": 1, "obs": self.at.astype(np.float32), "action_mask": mask}
            for one, mask in masks.items()
        }


def test_all_that_is_shown_beside_a_mask_is_observed():
    world = PettingZooWorld(Goal(), "goal")
    assert world.sizes.observation_size == 4
    shown = world.reset(3)
    at = np.random.default_rng(3).integers(5, size=2)
    assert shown.observations.tolist() == [[0, 1, *at]] * 2  # one number a choice, in its order
    assert shown.legal.tolist() == [[True, True, True, False]] * 2


def test_a_mask_within_an_observation_is_refused():
    class Hidden(Meet):
        def observation_space(self, agent: str) -> Any:
            return Dict({"own": super().observation_space(agent), "time": Discrete(2)})

    with pytest.raises(InputError, match="show action_mask beside the agent's observation"):
        PettingZooWorld(Hidden(), "hidden")


def test_gymnasium_worlds_say_what_is_legal():
    class ByInfo(Tuples):
        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            shown, _ = super().reset(seed=seed)
            return shown, {"action_mask": [[0, 1], [1, 0, 1]]}

    class ByObservation(Tuples):
        def __init__(self) -> None:
            super().__init__()
            masked = Dict({"seen": Box(0, 1, (1,)), "action_mask": MultiBinary(2)})
            self.observation_space = Tuple((masked, Box(0, 1, (2,))))

        def _seen(self) -> Any:
            return {"seen": np.ones(1), "action_mask": [0, 1]}, np.zeros(2)

    shown = GymnasiumWorld(ByInfo(), "by info").reset(0)
    assert shown.legal.tolist() == [[False, True, False], [True, False, True]]
    shown = GymnasiumWorld(ByObservation(), "by observation").reset(0)
    assert shown.legal.tolist() == [[False, True, False], [True, True, True]]
    assert shown.observations.tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize(
    ("terminated", "truncated", "ended"),
    [
        ([True, False], [False, False], (False, False)),
        ([True, False], [False, True], (False, True)),
        ([True, True], [False, True], (True, False)),
        ([False, False], [True, True], (False, True)),
    ],
)
def test_a_flag_for_each_agent_of_a_gymnasium_world(terminated, truncated, ended):
    class Apart(Tuples):
        def step(self, action: Any) -> Any:
            seen, paid, *_ = super().step(action)
            return seen, paid, np.array(terminated), np.array(truncated), {}

    world = GymnasiumWorld(Apart(), "apart")
    world.reset(0)
    _, outcome = world.step(actions(0, 0))
    assert (outcome.terminated, outcome.truncated) == ended


def test_wins_count_where_the_name_says_that_they_are_told():
    assert not make("stand_ins:Meet").spec.wins
    assert make("stand_ins:Meet?wins=true").spec.wins


def test_a_win_that_is_said_as_an_agent_leaves_is_the_teams_in_this_episode():
    class Early(Meet):
        wins = True

        def step(self, actions: Any) -> Any:
            seen, paid, dead, cut, infos = super().step(actions)
            if self.time == 1:
                dead["a"], infos["a"] = True, {"won": self.wins}
                self.agents = ["b"]
            elif self.time == 2:
                dead["b"], self.agents = True, []
            return seen, paid, dead, cut, infos

    env = Early()
    world = PettingZooWorld(env, "early")
    for env.wins in (True, False):
        world.reset(0)
        ends = [world.step(actions(1, 1))[1] for _ in range(2)]
        assert [(end.terminated, end.won) for end in ends] == [(False, False), (True, env.wins)]


def test_the_end_of_a_battle_without_words_is_no_crash_if_it_is_paid():
    class Silent(Battle):
        def step(self, actions: Any) -> Any:
            paid, over, _ = super().step(actions)
            return paid, [over, over], {}

    world = SmacWorld(Silent(), "silent")
    world.reset(0)
    ends = [world.step(actions(2, 2))[1] for _ in range(3)]
    assert [(end.terminated, end.truncated) for end in ends] == [(False, False)] * 2 + [
        (True, False)
    ]


@pytest.mark.parametrize(("left", "terminated"), [(1, False), (0, True)])
def test_a_battle_that_is_lost_with_the_last_step_of_its_limit_is_not_cut(left, terminated):
    class Lost(Battle):
        def get_avail_actions(self) -> list[list[int]]:
            return [[0, 1, 1]] * left + [[1, 0, 0]] * (2 - left)

    world = SmacWorld(Lost(), "lost")
    world.reset(0)
    ends = [world.step(actions(1, 1))[1] for _ in range(5)]
    assert (ends[-1].terminated, ends[-1].truncated) == (terminated, not terminated)


def test_shorter_observations_of_a_battle_are_padded():
    class Unlike(Battle):
        def get_obs(self) -> list[np.ndarray]:
            return [np.ones(1, np.float32), np.ones(2, np.float32)]

    assert SmacWorld(Unlike(), "unlike").reset(0).observations.tolist() == [[1, 0], [1, 1]]


def test_a_mistake_in_a_seeded_reset_is_not_hidden():
    class Mistaken(Battle):
        def reset(self, seed: Any = None) -> Any:
            super().reset()
            if seed is not None:
                len(seed)

    with pytest.raises(TypeError, match="has no len"):
        SmacWorld(Mistaken(), "mistaken").reset(3)


class Observing(Meet):
    """Has what an environment in JAX has, too."""

    num_agents, num_actions, episode_limit = 2, 4, 6  # pyright: ignore
    spec = None

    def observe(self, agent: str) -> Any:
        return self._seen()[agent]


class ByTurns(Meet):
    """Has the interface whose agents act by turns."""

    def agent_iter(self) -> Any:
        return iter(self.agents)


class Loud(Meet):
    """Prints, and cannot be closed."""

    def reset(self, seed: Any = None, options: Any = None) -> Any:
        print("It begins.")
        return super().reset(seed)

    def close(self) -> None:
        print("It ends.")
        raise RuntimeError("closed already")


def test_an_interface_is_known_whatever_else_an_object_has():
    assert isinstance(make("test_adapters:Observing"), HostEnvironment)
    assert is_parallel(Meet()) and not is_parallel(ByTurns())
    with pytest.raises(InputError, match="its agents act by turns; convert it with"):
        make("test_adapters:ByTurns")


def test_what_a_world_prints_in_this_process_is_lost_and_how_it_closes_is_nobodys_business(capfd):
    env = make("test_adapters:Loud")
    assert isinstance(env, HostEnvironment)
    group = InThisProcess(env._recipe, env._sizes, 1)
    group.arrays["which"][:] = True
    group.tell("reset")
    group.close()
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("3", 3),
        ("-2.5e-3", -0.0025),
        (".5", 0.5),
        ("true", True),
        ("None", None),
        ("[1,2]", [1, 2]),
        ("007", "007"),
        ("1_0", "1_0"),
        ("nan", "nan"),
        ("'3'", "3"),
        ('"none"', "none"),
        (".", "."),
        ("[x", "[x"),
        pytest.param("9" * 5000, "9" * 5000, id="more digits than an int takes"),
        pytest.param("[" * 100_000, "[" * 100_000, id="deeper than JSON is read"),
    ],
)
def test_the_values_of_options(written, value):
    found = options_of(f"size={written}", "env = 'x'")["size"]
    assert found == value and type(found) is type(value)


def test_a_limit_of_too_many_digits_is_refused():
    for name in ("smax/3s_vs_4z", "stand_ins:Meet"):
        with pytest.raises(InputError, match="limit must be a whole number from 1 to 2147483647"):
            make(f"{name}?limit={'9' * 5000}")


def test_an_option_of_a_battle_is_there_once():
    with pytest.raises(InputError, match="option 'limit' is there twice; leave one of them out"):
        make("smax/3s_vs_4z?limit=5&limit=3")


class Hidden(Meet):
    """Does not show its agents."""

    possible_agents: Any = property(lambda self: self.names[2])

    def __init__(self) -> None:
        self.names = ["a", "b"]


class Uncounted(Line):
    """Does not know how many agents it has."""

    num_agents: Any = property(lambda self: 1 // 0)


@pytest.mark.parametrize(
    ("name", "error"), [("Hidden", "IndexError: list "), ("Uncounted", "ZeroDivisionError: ")]
)
def test_an_attribute_that_raises_is_said(name, error):
    with pytest.raises(InputError, match=f"reading its attributes raised {error}.*test_adapters"):
        make(f"test_adapters:{name}")


class Blind:
    """An episode in JAX that shows nothing."""

    num_agents, episode_limit = 2, 6
    reset, step = Line.reset, Line.step


def test_what_an_episode_in_jax_lacks_is_named():
    with pytest.raises(InputError, match="and lacks num_actions, observe; an episode in JAX needs"):
        make("test_adapters:Blind")


def test_a_file_is_no_module(tmp_path, monkeypatch):
    (tmp_path / "lone_module.py").write_text("def factory(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("lone_module.py", "no_such_module.py"):
        with pytest.raises(InputError, match="write module:factory, as in an import: no path and"):
            make(f"{name}:factory")


def test_of_a_long_word_in_an_error_the_beginning_is_said():
    assert words_of(RuntimeError("x" * 301)) == f"RuntimeError: {'x' * 300} …"
    assert words_of(RuntimeError("two\n words")) == "RuntimeError: two words"
