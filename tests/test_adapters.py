"""Other people's environments that are unusual and sound; what they say that is read or refused."""

import json
import re
import sys
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from dm2.envs import HostEnvironment, make
from dm2.envs.adapters.gymnasium import GymnasiumAdapter
from dm2.envs.adapters.pettingzoo import PettingZooAdapter, is_parallel
from dm2.envs.adapters.returned import flag, legal_by
from dm2.envs.adapters.single import Mapped
from dm2.envs.adapters.smac import SmacAdapter
from dm2.envs.factories import options_of
from dm2.envs.spaces import flat
from dm2.envs.workers import InThisProcess, words_of
from dm2.errors import EnvError, InputError
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
    adapter = PettingZooAdapter(Goal(), "goal")
    assert adapter.sizes.observation_size == 4
    shown = adapter.reset(3)
    at = np.random.default_rng(3).integers(5, size=2)
    assert shown.observations.tolist() == [[0, 1, *at]] * 2  # one number a choice, in its order
    assert shown.legal.tolist() == [[True, True, True, False]] * 2


def test_a_mask_within_an_observation_is_refused():
    class Hidden(Meet):
        def observation_space(self, agent: str) -> Any:
            return Dict({"own": super().observation_space(agent), "time": Discrete(2)})

    with pytest.raises(InputError, match="show action_mask beside the agent's observation"):
        PettingZooAdapter(Hidden(), "hidden")


def test_gymnasium_copies_say_what_is_legal():
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

    shown = GymnasiumAdapter(ByInfo(), "by info").reset(0)
    assert shown.legal.tolist() == [[False, True, False], [True, False, True]]
    shown = GymnasiumAdapter(ByObservation(), "by observation").reset(0)
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
def test_a_flag_for_each_agent_of_a_gymnasium_environment(terminated, truncated, ended):
    class Apart(Tuples):
        def step(self, action: Any) -> Any:
            seen, paid, *_ = super().step(action)
            return seen, paid, np.array(terminated), np.array(truncated), {}

    adapter = GymnasiumAdapter(Apart(), "apart")
    adapter.reset(0)
    _, outcome = adapter.step(actions(0, 0))
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
    adapter = PettingZooAdapter(env, "early")
    for env.wins in (True, False):
        adapter.reset(0)
        ends = [adapter.step(actions(1, 1))[1] for _ in range(2)]
        assert [(end.terminated, end.won) for end in ends] == [(False, False), (True, env.wins)]


def test_the_end_of_a_battle_without_words_is_no_crash_if_it_is_paid():
    class Silent(Battle):
        def step(self, actions: Any) -> Any:
            paid, over, _ = super().step(actions)
            return paid, [over, over], {}

    adapter = SmacAdapter(Silent(), "silent")
    adapter.reset(0)
    ends = [adapter.step(actions(2, 2))[1] for _ in range(3)]
    assert [(end.terminated, end.truncated) for end in ends] == [(False, False)] * 2 + [
        (True, False)
    ]


@pytest.mark.parametrize(("left", "terminated"), [(1, False), (0, True)])
def test_a_battle_that_is_lost_with_the_last_step_of_its_limit_is_not_cut(left, terminated):
    class Lost(Battle):
        def get_avail_actions(self) -> list[list[int]]:
            return [[0, 1, 1]] * left + [[1, 0, 0]] * (2 - left)

    adapter = SmacAdapter(Lost(), "lost")
    adapter.reset(0)
    ends = [adapter.step(actions(1, 1))[1] for _ in range(5)]
    assert (ends[-1].terminated, ends[-1].truncated) == (terminated, not terminated)


def test_shorter_observations_of_a_battle_are_padded():
    class Unlike(Battle):
        def get_obs(self) -> list[np.ndarray]:
            return [np.ones(1, np.float32), np.ones(2, np.float32)]

    assert SmacAdapter(Unlike(), "unlike").reset(0).observations.tolist() == [[1, 0], [1, 1]]


def test_a_mistake_in_a_seeded_reset_is_not_hidden():
    class Mistaken(Battle):
        def reset(self, seed: Any = None) -> Any:
            super().reset()
            if seed is not None:
                len(seed)

    with pytest.raises(TypeError, match="has no len"):
        SmacAdapter(Mistaken(), "mistaken").reset(3)


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


def test_what_an_environment_prints_in_this_process_is_lost_as_is_how_it_closes(capfd):
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


def test_another_module_of_the_name_is_told_by_its_file(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("def factory(): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    said = f"module 'json' ({json.__file__}) has no 'factory'; write module:factory, and rename"
    with pytest.raises(InputError, match=re.escape(said)):
        make("json:factory")


def test_of_a_long_word_in_an_error_the_beginning_is_said():
    assert words_of(RuntimeError("x" * 301)) == f"RuntimeError: {'x' * 300} …"
    assert words_of(RuntimeError("two\n words")) == "RuntimeError: two words"


class Replaced:
    """Returns something else in one place of what its step returns."""

    place, value = 0, None

    def step(self, action: Any) -> Any:
        returned = list(super().step(action))  # pyright: ignore
        returned[self.place] = self.value
        return tuple(returned)


class ReplacedMeet(Replaced, Meet):  # pyright: ignore
    pass


class ReplacedTuples(Replaced, Tuples):
    pass


class ReplacedBattle(Replaced, Battle):  # pyright: ignore
    pass


def refused(adapter: Any, sentence: str) -> Any:
    """A context in which an environment's next step is refused in this one sentence."""
    adapter.reset(0)
    return pytest.raises(EnvError, match=f"^{re.escape(sentence)}$")


def replaced(env: Any, place: int, value: Any) -> Any:
    env.place, env.value = place, value
    return env


OBSERVATIONS, REWARDS, TERMINATIONS, TRUNCATIONS, INFOS = range(5)


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        (REWARDS, {0: 1.0, 1: 1.0}, "agent 'a' is not in `rewards`, which names 0, 1"),
        (REWARDS, {"a": 1.0}, "agent 'b' is not in `rewards`, which names 'a'"),
        (REWARDS, {}, "agent 'a' is not in `rewards`, which names nobody"),
        (TERMINATIONS, {"a": True}, "agent 'b' is not in `terminations`, which names 'a'"),
        (TRUNCATIONS, {"b": False}, "agent 'a' is not in `truncations`, which names 'b'"),
    ],
)
def test_a_pettingzoo_environment_names_every_agent_that_acted(place, value, sentence):
    adapter = PettingZooAdapter(replaced(ReplacedMeet(), place, value), "meet")
    with refused(adapter, f"{sentence}; name every agent that acted"):
        adapter.step(actions(1, 1))


def test_a_pettingzoo_environment_need_not_name_an_agent_that_died():
    adapter = PettingZooAdapter(Meet(dies=1), "meet")
    adapter.reset(0)
    adapter.step(actions(1, 1))
    assert adapter.step(actions(1, 1))[1].rewards[1] == 0


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        (REWARDS, "1.0", "the reward of agent 'a' is '1.0'; must be a number"),
        (REWARDS, 1 + 2j, "the reward of agent 'a' is (1+2j); must be a number"),
        (TERMINATIONS, "False", "the termination of agent 'a' is 'False'; must be true or false"),
        (TERMINATIONS, None, "the termination of agent 'a' is None; must be true or false"),
        (TRUNCATIONS, 0.3, "the truncation of agent 'a' is 0.3; must be true or false"),
        (INFOS, None, "its infos of agent 'a': None; must be a dictionary"),
        (
            INFOS,
            {"won": np.zeros((2, 1))},
            "`won` of agent 'a' is array([[0.], [0.]]); must be true or false",
        ),
        (
            OBSERVATIONS,
            {"observation": np.array([1j, 0]), "action_mask": np.ones(3)},
            "it shows array([0.+1.j, 0.+0.j]), which is not in Box(0.0, 9.0, (2,), float32); make"
            " the space say what is shown",
        ),
        (
            OBSERVATIONS,
            {"observation": np.zeros(2), "action_mask": [0.0, -np.inf, 0.0]},
            "the action_mask of agent 'a' is [0.0, -inf, 0.0]; must be 1 for each action that is"
            " legal and 0 for the others",
        ),
    ],
)
def test_what_a_pettingzoo_environment_says_of_an_agent_is_taken_as_meant(place, value, sentence):
    other = [{"observation": np.zeros(3), "action_mask": np.ones(4)}, 0.0, False, False, {}]
    env = replaced(ReplacedMeet(), place, {"a": value, "b": other[place]})
    adapter = PettingZooAdapter(env, "meet")
    with refused(adapter, sentence):
        adapter.step(actions(1, 1))


@pytest.mark.parametrize("value", [None, [np.zeros(2), np.zeros(3)]])
def test_the_observations_of_a_pettingzoo_environment_go_by_the_agents_names(value):
    adapter = PettingZooAdapter(replaced(ReplacedMeet(), OBSERVATIONS, value), "meet")
    sentence = " ".join(f"its observations: {value!r}; must be a dictionary".split())
    with refused(adapter, sentence):
        adapter.step(actions(1, 1))

    class Silent(Meet):
        def reset(self, seed: Any = None, options: Any = None) -> Any:
            return value, super().reset(seed)[1]

    with pytest.raises(EnvError, match=re.escape(sentence)):
        PettingZooAdapter(Silent(), "silent").reset(0)


def test_all_agents_are_there_when_an_episode_begins_and_none_comes_back():
    class Comes(Meet):
        first: Any = ("a",)

        def reset(self, seed: Any = None, options: Any = None) -> Any:
            shown = super().reset(seed)
            self.agents = self.first
            return shown

        def step(self, actions: Any) -> Any:
            returned = super().step(actions)
            if self.time == 3:
                self.agents = ["a", "b"]
            return returned

    env = Comes(dies=1)
    adapter = PettingZooAdapter(env, "comes")
    with pytest.raises(EnvError, match="'b' is in `possible_agents` and not in `agents`; every"):
        adapter.reset(0)
    env.first = None
    with pytest.raises(EnvError, match="its agents: None; must be a list of those that are"):
        adapter.reset(0)
    env.first = ["a", "b"]
    adapter.reset(0)
    for _ in range(2):
        adapter.step(actions(1, 1))
    with pytest.raises(EnvError, match="'b' is in `agents` again after it was terminated or tr"):
        adapter.step(actions(1, 1))


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        (0, None, "its observations: None; must be one for each of its 2 agents"),
        (0, (0,), "its observations: (0,); must be one for each of its 2 agents"),
        (0, {0: 0, 1: 0}, "its observations: {0: 0, 1: 0}; must be one for each of its 2 agents"),
        (1, "1.0", "its reward is '1.0'; must be a number, or one for each agent"),
        (1, ["1", "2"], "its reward is ['1', '2']; must be a number, or one for each agent"),
        (
            2,
            "no",
            "`terminated` is 'no'; must be true or false, or that for each of its 2 agents",
        ),
        (
            2,
            None,
            "`terminated` is None; must be true or false, or that for each of its 2 agents",
        ),
        (
            3,
            [True, True, True],
            "`truncated` is [True, True, True]; must be true or false, or that for each of its 2"
            " agents",
        ),
        (4, {"action_mask": True}, "its action_mask: True; must be one for each of its 2 agents"),
        (
            4,
            {"action_mask": [[1, 1]]},
            "its action_mask: [[1, 1]]; must be one for each of its 2 agents",
        ),
    ],
)
def test_what_a_gymnasium_environment_says_is_taken_as_it_is_meant(place, value, sentence):
    adapter = GymnasiumAdapter(replaced(ReplacedTuples(), place, value), "tuples")
    with refused(adapter, sentence):
        adapter.step(actions(0, 0))


def test_the_victory_of_a_gymnasium_environment_is_true_or_false():
    class Ending(Tuples):
        def step(self, action: Any) -> Any:
            seen, paid, *_ = super().step(action)
            return seen, paid, True, False, {"won": "no"}

    adapter = GymnasiumAdapter(Ending(), "ending")
    with refused(adapter, "`won` is 'no'; must be true or false"):
        adapter.step(actions(0, 0))


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        (0, "1.5", "its reward is '1.5'; must be a number, or one for each agent"),
        (1, "no", "`terminated` is 'no'; must be true or false, or that for each of its 2 agents"),
        (2, {"battle_won": "no"}, "`battle_won` is 'no'; must be true or false"),
        (2, {"episode_limit": None}, "`episode_limit` is None; must be true or false"),
    ],
)
def test_what_a_battle_says_is_taken_as_it_is_meant(place, value, sentence):
    adapter = SmacAdapter(replaced(ReplacedBattle(), place, value), "battle")
    with refused(adapter, sentence):
        adapter.step(actions(1, 1))


@pytest.mark.parametrize(
    ("method", "value", "sentence"),
    [
        ("get_avail_actions", None, "get_avail_actions returned None; it must return a row for"),
        ("get_avail_actions", [[0, 1, 1], [1]], "get_avail_actions returned [[0, 1, 1], [1]]; it"),
        ("get_avail_actions", [[1, 1]] * 2, "else 0, of shape (2, 3)"),
        ("get_avail_actions", [[-1.0, 0, 0]] * 2, "get_avail_actions returned [[-1.0, 0, 0], [-"),
        ("get_obs", None, "its observations: None; must be one for each of its 2 agents"),
        ("get_obs", [["1", "2"]] * 2, "agent 0 observes ['1', '2']; must be a row of numbers"),
        ("get_obs", [[1.0], [1.0, 1j]], "agent 1 observes [1.0, 1j]; must be a row of numbers"),
        ("get_state", ["1", "2", "3"], "its state is ['1', '2', '3']; must be a row of numbers"),
    ],
)
def test_what_a_battle_shows_is_rows_of_numbers(method, value, sentence):
    env: Any = Battle()
    setattr(env, method, lambda: value)
    with pytest.raises(EnvError, match=re.escape(sentence)):
        SmacAdapter(env, "battle").reset(0)


@pytest.mark.parametrize(
    ("mask", "legal"),
    [
        ([True, False], [True, False]),
        ([1.0, 0.0], [True, False]),
        (np.array([0, 1], np.int8), [False, True]),
        ([0.0, -np.inf], None),
        ([np.nan, 1.0], None),
        ([-1, 5], None),
        (["0", "1"], None),
        ([None, True], None),
        ([[1], [0, 1]], None),
    ],
)
def test_a_mask_is_truth_values_or_numbers_that_are_0_or_1(mask, legal):
    if legal is not None:
        assert legal_by(mask, 2, "a").tolist() == legal
        return
    with pytest.raises(EnvError, match=r"action_mask of agent 'a' is .*; must be 1 for each act"):
        legal_by(mask, 2, "a")


@pytest.mark.parametrize("kind", [bool, np.bool_, int, float, np.int8, np.atleast_1d, jnp.array])
def test_a_truth_value_may_be_of_any_type_that_says_it_plainly(kind):
    assert flag(kind(True), "the end") is True
    assert flag(kind(False), "the end") is False


@pytest.mark.parametrize(
    ("space", "value", "row"),
    [
        (Discrete(3), 1, [0, 1, 0]),
        (Discrete(3), np.float32(1), [0, 1, 0]),
        (Discrete(3), np.array([1]), [0, 1, 0]),
        (Discrete(3), 1.7, None),
        (Discrete(3), "1", None),
        (Discrete(3), np.inf, None),
        (MultiDiscrete([2, 2]), [1, 0], [0, 1, 1, 0]),
        (MultiDiscrete([2, 2]), [0.5, 0], None),
        (MultiDiscrete([2, 2], start=[-1, 3]), [-1, 4], [1, 0, 0, 1]),
        (MultiDiscrete([2, 2], start=[-1, 3]), [1, 0], None),
        (Box(0, 1, (2,)), [True, False], [1, 0]),
        (Box(0, 1, (3,)), np.array(["1", "2", "3"]), None),
        (Box(0, 1, (2,)), np.array([1j, 0]), None),
        (Box(0, 1, (2,)), None, None),
    ],
)
def test_an_observation_is_of_the_kind_that_its_space_says(space, value, row):
    if row is not None:
        assert flat(space, value).tolist() == row
        return
    with pytest.raises(EnvError, match=r"^it shows .*, which is not in .*; make the space say"):
        flat(space, value)


def test_a_long_value_is_shown_by_its_beginning_in_one_line():
    with pytest.raises(EnvError) as caught:
        flag(np.zeros((50, 50)), "the end")
    said = str(caught.value)
    assert said.startswith("the end is array([[0., 0., 0., ")
    assert "\n" not in said and len(said) < 130


@pytest.mark.parametrize(
    ("method", "value", "sentence"),
    [
        ("legal", [[0.0, -np.inf]] * 2, "what legal returned has the type float32; return truth"),
        ("alive", [0.5, 1.0], "what alive returned has the type float32; return truth values"),
        ("won", 0.3, "what won returned has the type float32; return truth values"),
        ("observe", [[1j, 0], [0, 0]], "what observe returned has the type complex64; return real"),
        ("global_state", [1j], "what global_state returned has the type complex64; return real"),
    ],
)
def test_what_a_single_jax_environment_returns_is_of_a_kind(method, value, sentence):
    env: Any = Line()
    setattr(env, method, lambda state: jnp.array(value))
    with pytest.raises(InputError, match=f"env = 'line': {sentence}"):
        Mapped(env, "line")
    kind = float if method in ("observe", "global_state") else int
    setattr(env, method, lambda state: jnp.real(jnp.array(value)).astype(kind))
    Mapped(env, "line")


@pytest.mark.parametrize(
    ("reward", "ended", "sentence"),
    [
        (jnp.array(1j), jnp.array(False), "step's reward has the type complex64; return real num"),
        (jnp.array(1.0), jnp.array(0.3), "step's end has the type float32; return truth values"),
        (jnp.array([1, 2]), jnp.array(0), None),
    ],
)
def test_what_the_step_of_a_single_jax_environment_returns_is_of_a_kind(reward, ended, sentence):
    class Other(Line):
        def step(self, key: Any, state: Any, actions: Any) -> Any:
            return state, reward, ended

    if sentence is None:
        Mapped(Other(), "other")
        return
    with pytest.raises(InputError, match=f"env = 'other': {sentence}"):
        Mapped(Other(), "other")


def test_a_state_space_that_cannot_be_read_is_called_so():
    class Odd(Meet):
        state_space = Tuple((Discrete(2), Text(3)))

        def state(self) -> Any:
            return 0, "one"

    with pytest.raises(InputError, match=r"^odd: its state space is Text.*; must be made of Box"):
        PettingZooAdapter(Odd(), "odd")
