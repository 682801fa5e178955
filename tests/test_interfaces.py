"""Our environments behind PettingZoo's and SMAC's interfaces: the conformance tests of the former,
and episodes that are those of the contract, step by step."""

import copy
import functools
import pickle
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, seed_test
from pettingzoo.utils.conversions import parallel_to_aec

import dm2.envs
from dm2.envs import HostEnvironment, Mapped, PettingZooEnv, SmacEnv, Step, TeamView, make
from dm2.envs.adapters.pettingzoo import PettingZooAdapter
from dm2.envs.adapters.smac import SmacAdapter
from dm2.envs.interfaces.episode import EpisodeByEpisode
from dm2.envs.python_env import Snapshot, StepOutcome
from dm2.envs.workers import InThisProcess
from dm2.errors import EnvError, InputError
from stand_ins import Meet
from stand_ins_jax import Line

BATTLES = ("smac/3m", "smax/3m")


class Moment(NamedTuple):
    """What one step of an episode led to, and the actions of it; none at the start."""

    view: TeamView
    actions: np.ndarray
    step: Step


@functools.cache
def played(name: str, seed: int, number: int = 0) -> list[Moment]:
    """Episode `number` of a seed under random legal actions, by the contract alone."""
    env = make(name)
    key = jax.random.fold_in(jax.random.PRNGKey(seed), number)
    reset_key, key = jax.random.split(key)
    rng = np.random.default_rng(seed)
    observe, step = compiled(name)
    state, no = env.reset(reset_key, 1), jnp.zeros(1, bool)
    moments = [Moment(observe(state), np.zeros(0, int), Step(jnp.zeros(1), no, no, no))]
    while not (moments[-1].step.terminated | moments[-1].step.truncated)[0]:
        legal = np.asarray(moments[-1].view.legal)[:, 0]
        actions = (rng.random(legal.shape) * legal).argmax(axis=1)
        key, step_key = jax.random.split(key)
        state, outcome = step(step_key, state, actions[:, None])
        moments.append(Moment(observe(state), actions, outcome))
    return moments


@functools.cache
def compiled(name: str) -> tuple[Any, Any]:
    env = make(name)
    return jax.jit(env.observe), jax.jit(env.step)


def assert_shown(shown: Snapshot, view: TeamView) -> None:
    """It shows what the contract's view holds; another program may round the last bit."""
    np.testing.assert_allclose(shown.observations, view.observations[:, 0], atol=1e-5)
    # An adapter need not say what the dead may do.
    alive = np.asarray(view.alive[:, 0])
    np.testing.assert_array_equal(shown.legal[alive], view.legal[alive, 0])
    np.testing.assert_array_equal(shown.alive, view.alive[:, 0])
    np.testing.assert_allclose(shown.state, view.state[0], atol=1e-5)


@pytest.mark.parametrize("name", BATTLES)
def test_pettingzoos_own_conformance_tests_pass(name):
    parallel_api_test(PettingZooEnv(name), num_cycles=60)
    parallel_seed_test(lambda: PettingZooEnv(name, illegal="replace"))
    seed_test(lambda: parallel_to_aec(PettingZooEnv(name)), num_cycles=10)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        api_test(parallel_to_aec(PettingZooEnv(name)), num_cycles=60)
    # Both are matters of taste: what an observation's entries may be, and what they are called.
    assert all("Observation" in str(each.message) for each in warned)


@pytest.mark.parametrize("name", BATTLES)
def test_an_episode_behind_pettingzoo_is_that_of_the_contract(name):
    env, moments = PettingZooEnv(name), played(name, 3)
    observations, infos = env.reset(seed=3)
    agents = env.possible_agents
    assert env.agents == agents == ["agent_0", "agent_1", "agent_2"]
    for moment in [None, *moments[1:]]:
        acted = list(env.agents)
        view = (moment or moments[0]).view
        alive = {agent: bool(view.alive[k, 0]) for k, agent in enumerate(agents)}
        if moment is not None:
            actions = {agent: int(moment.actions[agents.index(agent)]) for agent in acted}
            observations, rewards, terminated, truncated, infos = env.step(actions)
            step = moment.step
            over = bool(step.terminated[0] | step.truncated[0])
            assert rewards == pytest.approx(dict.fromkeys(acted, float(step.reward[0])), abs=1e-5)
            for agent in acted:
                assert terminated[agent] == (bool(step.terminated[0]) or not alive[agent])
                assert truncated[agent] == (bool(step.truncated[0]) and alive[agent])
                assert infos[agent]["won"] == bool(step.won[0])
            assert env.agents == [agent for agent in acted if alive[agent] and not over]
        assert list(observations) == list(infos) == acted
        for agent in acted:
            k, mask = agents.index(agent), observations[agent]["action_mask"]
            np.testing.assert_array_equal(mask, view.legal[k, 0])
            assert infos[agent]["action_mask"] is mask
            shown = observations[agent]["observation"]
            np.testing.assert_allclose(shown, view.observations[k, 0], atol=1e-5)
            assert env.observation_space(agent).contains(observations[agent])
        np.testing.assert_allclose(env.state(), view.state[0], atol=1e-5)
        assert env.state_space.contains(env.state())
    assert env.agents == []
    deaths = [moment.view.alive.sum() for moment in moments[:-1]]
    assert 0 < min(deaths) < 3  # somebody died while others fought on


@pytest.mark.parametrize("name", BATTLES)
def test_an_episode_behind_smacs_interface_is_that_of_the_contract(name):
    env, moments = SmacEnv(name), played(name, 3)
    first, state = env.reset(seed=3)
    np.testing.assert_array_equal(first, env.get_obs())
    np.testing.assert_array_equal(state, env.get_state())
    for moment in moments:
        if len(moment.actions):
            reward, over, info = env.step(list(moment.actions))
            step = moment.step
            assert reward == pytest.approx(float(step.reward[0]), abs=1e-5)
            assert over == bool(step.terminated[0] | step.truncated[0])
            assert info["battle_won"] == bool(step.won[0])
            assert ("episode_limit" in info) == bool(step.truncated[0])
        legal = env.get_avail_actions()
        assert legal == np.asarray(moment.view.legal[:, 0], int).tolist()
        alive = np.asarray(moment.view.alive[:, 0])
        shown = Snapshot(np.array(env.get_obs()), np.array(legal) == 1, alive, env.get_state())
        assert_shown(shown, moment.view)
        for k in range(env.n_agents):
            np.testing.assert_array_equal(env.get_obs_agent(k), env.get_obs()[k])
            assert env.get_avail_agent_actions(k) == legal[k]
            if not alive[k]:  # SMAC's dead do nothing, action 0; SMAX's stop, action 4
                assert np.flatnonzero(legal[k]).tolist() == [0 if name == "smac/3m" else 4]


@pytest.mark.parametrize(
    ("name", "sizes"),
    [  # as SMAC itself reports them: observation, state, actions, agents, limit
        ("smac/3m", (30, 48, 9, 3, 60)),
        ("smac/3s_vs_4z", (42, 61, 10, 3, 200)),
        ("smac/5m_vs_6m", (55, 98, 12, 5, 70)),
    ],
)
def test_sizes_are_said_as_smac_says_them(name, sizes):
    env = SmacEnv(name)
    names = ("obs_shape", "state_shape", "n_actions", "n_agents", "episode_limit")
    assert env.get_env_info() == dict(zip(names, sizes, strict=True))
    assert (env.get_obs_size(), env.get_state_size(), env.get_total_actions()) == sizes[:3]
    assert (env.n_agents, env.episode_limit) == sizes[3:]


class Frail(Line):
    """The second agent dies where it stands at 2 or more."""

    action_names = ("stay", "move")

    def alive(self, state: Any) -> Any:
        return jnp.array([True, False]) | (state.at < 2)

    def legal(self, state: Any) -> Any:
        return self.alive(state)[:, None] | jnp.array([True, False])


@functools.cache
def frail(**options: Any) -> Mapped:
    return Mapped(Frail(), "frail", **options)


def test_the_dead_leave_and_the_limit_cuts_those_that_are_left():
    env = PettingZooEnv(frail(individual=True))
    observations, _ = env.reset(seed=1)
    begun = [int(observations[agent]["observation"][0]) for agent in env.agents]
    steps = 2 - begun[1]
    for left in range(steps, 0, -1):
        assert env.agents == ["agent_0", "agent_1"]
        _, rewards, terminated, truncated, _ = env.step({"agent_0": 0, "agent_1": 1})
        assert rewards == {"agent_0": begun[0], "agent_1": 3 - left}
        assert terminated == {"agent_0": False, "agent_1": left == 1}
        assert truncated == {"agent_0": False, "agent_1": False}
    for time in range(steps + 1, 7):
        assert env.agents == ["agent_0"]
        _, rewards, terminated, truncated, infos = env.step({"agent_0": 0})
        assert rewards == {"agent_0": begun[0]} and terminated == {"agent_0": False}
        assert truncated == {"agent_0": time == 6} and not infos["agent_0"]["won"]
    assert env.agents == []


def test_who_dies_with_the_limits_last_step_is_terminated_and_not_cut():
    env = PettingZooEnv(frail(individual=True))
    observations, _ = env.reset(seed=1)
    steps = 2 - int(observations["agent_1"]["observation"][0])
    for moves in [0] * (6 - steps) + [1] * (steps - 1):
        env.step({"agent_0": 0, "agent_1": moves})
    _, _, terminated, truncated, _ = env.step({"agent_0": 0, "agent_1": 1})
    assert terminated == {"agent_0": False, "agent_1": True}
    assert truncated == {"agent_0": True, "agent_1": False}
    assert env.agents == []


def test_smacs_interface_keeps_ends_apart_and_counts_them():
    env = SmacEnv(frail(individual=True), seed=1)
    assert env.get_stats()["win_rate"] == 0
    env.reset()
    begun = float(env.get_obs()[0][0])
    infos = [env.step([0, 0])[1:] for _ in range(6)]
    assert infos[:5] == [(False, {"battle_won": False})] * 5
    assert infos[5] == (True, {"battle_won": False, "episode_limit": True})
    env.reset()
    begun = [int(row[0]) for row in env.get_obs()]
    # The team is paid the mean of where both stand; the first arrives at 4.
    for time in range(begun[0] + 1, 5):
        reward, over, info = env.step([1, 0])
        assert reward == (time + begun[1]) / 2
        assert (over, info) == (time == 4, {"battle_won": time == 4})
    stats = {"battles_won": 1, "battles_game": 2, "battles_draw": 1, "timeouts": 1}
    assert env.get_stats() == {**stats, "win_rate": 0.5, "restarts": 0}


def starts(env: Any, *seeds: int | None) -> list[np.ndarray]:
    """The global states in which episodes begin."""
    states = []
    for seed in seeds:
        env.reset(seed=seed)
        states.append(env.get_state() if isinstance(env, SmacEnv) else env.state())
    return states


@pytest.mark.parametrize("kind", [PettingZooEnv, SmacEnv])
def test_seeds_determine_what_follows(kind):
    env = kind("smax/3m")
    first, second, other, again, then = starts(env, 5, None, 6, 5, None)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(second, then)
    assert not np.array_equal(first, second) and not np.array_equal(first, other)
    # Without a seed, every environment begins elsewhere.
    one, two = (starts(kind("smax/3m"), None)[0] for _ in range(2))
    assert not np.array_equal(one, two)


def test_smacs_interface_takes_seeds_where_pymarl_gives_them():
    wanted = starts(SmacEnv("smax/3m"), 5)[0]
    env = SmacEnv("smax/3m", seed=5)
    assert env.seed() == 5
    np.testing.assert_array_equal(starts(env, None)[0], wanted)
    assert env.seed(7) == 7
    assert env.seed(5) == 5
    np.testing.assert_array_equal(starts(env, None)[0], wanted)


def test_what_an_interface_shows_is_the_callers_own():
    env = SmacEnv(frail())
    before = env.reset()[0][0]
    kept = before.copy()
    env.step([1, 0])
    np.testing.assert_array_equal(before, kept)
    before += 1  # it can be written to


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_goes_on_with_the_same_episode(copied):
    env, moments = SmacEnv("smac/3m"), played("smac/3m", 3)
    env.reset(seed=3)
    for moment in moments[1:10]:
        env.step(moment.actions)
    twin = copied(env)
    for moment in moments[10:]:
        assert twin.step(moment.actions) == env.step(moment.actions)
        np.testing.assert_array_equal(twin.get_state(), env.get_state())


def test_an_action_that_is_not_legal_raises_or_is_replaced():
    env = SmacEnv("smac/3m", seed=0)
    env.reset()
    said = re.escape(
        "action of agent 1 = 0 (nothing): it is not legal now; choose among 1 (stop), 2"
    )
    with pytest.raises(InputError, match=said):
        env.step([1, 0, 1])
    with pytest.raises(InputError, match="action of agent 2 = 9: must be a whole number"):
        env.step([1, 1, 9])
    with pytest.raises(InputError, match=re.escape("actions = [1, 1]: must be 3, one for each")):
        env.step([1, 1])
    strict, lenient = PettingZooEnv("smac/3m"), PettingZooEnv("smac/3m", illegal="replace")
    for one in (strict, lenient):
        one.reset(seed=0)
    wrong = {"agent_0": 0, "agent_1": 2, "agent_2": 7}
    with pytest.raises(InputError, match="action of agent 0 = 0 "):
        strict.step(wrong)
    with pytest.raises(InputError, match="action of agent_2 = 99: must be a whole number"):
        lenient.step({**wrong, "agent_2": 99})
    with pytest.raises(InputError, match="actions: agent_1 has none; give one to each agent"):
        strict.step({"agent_0": 1, "agent_2": 1})
    lenient.step(wrong)
    strict.step({"agent_0": 1, "agent_1": 2, "agent_2": 1})
    np.testing.assert_array_equal(lenient.state(), strict.state())
    line = PettingZooEnv(frail(), illegal="replace")  # it has no action of this name
    line.reset(seed=1)
    while "agent_1" in line.agents:
        line.step({"agent_0": 0, "agent_1": 1})


def test_what_cannot_be_done_is_said():
    for kind in (SmacEnv, PettingZooEnv):
        with pytest.raises(InputError, match="did you mean 'smac/3m'"):
            kind("smac/3n")
    with pytest.raises(InputError, match=r"env = 7: must be an environment's name, as dm2\.make"):
        EpisodeByEpisode(7)
    with pytest.raises(InputError, match="illegal = 'ignore': must be one of error, replace"):
        PettingZooEnv(frail(), illegal="ignore")
    with pytest.raises(InputError, match="seed = -1: must be a whole number from 0 to 4294967295"):
        SmacEnv(frail(), seed=-1)
    smac, zoo = SmacEnv(frail()), PettingZooEnv(frail())
    for attempt in (smac.get_obs, smac.get_state, smac.get_avail_actions, zoo.state):
        with pytest.raises(InputError, match=r"call reset\(\) first"):
            attempt()
    for attempt in (smac.save_replay, smac.render):
        with pytest.raises(InputError, match="`dm2 watch` films the battles of a run"):
            attempt()
    # Before the first episode, and after its end.
    for _ in range(2):
        with pytest.raises(InputError, match="step: no episode is in progress; call reset"):
            smac.step([0, 0])
        with pytest.raises(InputError, match="step: no episode is in progress; call reset"):
            zoo.step({"agent_0": 0, "agent_1": 0})
        smac.reset()
        zoo.reset()
        while zoo.agents:
            zoo.step(dict.fromkeys(zoo.agents, 0))
            smac.step([0, 0])


def assert_round_trip(adapter: Any, name: str) -> Iterator[tuple[StepOutcome, Moment]]:
    """Plays an episode through an adapter and compares all but the rewards, which it yields."""
    moments = played(name, 4)
    assert_shown(adapter.reset(4), moments[0].view)
    for moment in moments[1:]:
        shown, outcome = adapter.step(moment.actions)
        if not outcome.terminated:  # then nobody acts any more, and an adapter need not say of whom
            assert_shown(shown, moment.view)
        step = (moment.step.terminated[0], moment.step.truncated[0], moment.step.won[0])
        assert outcome[1:] == step
        yield outcome, moment


def test_smacs_interface_leads_back_to_the_same_episodes():
    adapter = SmacAdapter(SmacEnv("smac/3m"), "back")
    for outcome, moment in assert_round_trip(adapter, "smac/3m"):
        np.testing.assert_allclose(outcome.rewards, moment.step.reward[0], atol=1e-5)


@pytest.mark.parametrize("name", BATTLES)
def test_pettingzoos_interface_leads_back_to_the_same_episodes(name):
    adapter = PettingZooAdapter(PettingZooEnv(name), "back")
    spec = make(name).spec
    assert (adapter.sizes.limit, adapter.sizes.state_size) == (spec.episode_limit, spec.state_size)
    alive = np.ones(3, bool)
    for outcome, moment in assert_round_trip(adapter, name):
        paid = np.where(alive, moment.step.reward[0], 0)  # nothing after one's death
        np.testing.assert_allclose(outcome.rewards, paid, atol=1e-5)
        alive = np.asarray(moment.view.alive[:, 0])


def test_environments_that_are_stepped_in_python_have_these_interfaces_too():
    def recipe() -> PettingZooAdapter:
        return PettingZooAdapter(Meet(max_cycles=4, dies=2, fault=fault), "meet")

    fault = ""
    host = HostEnvironment(recipe, recipe().sizes, "meet", individual=True, group=InThisProcess)
    env = PettingZooEnv(host)
    observations, _ = env.reset(seed=0)
    left, truncated = [], {}
    while env.agents:
        left.append(list(env.agents))
        assert observations["agent_0"]["action_mask"].tolist() == [1, 1, 1, 0]
        observations, _, _, truncated, _ = env.step(dict.fromkeys(env.agents, 1))
    assert left == [["agent_0", "agent_1"]] * 2 + [["agent_0"]] * 2
    assert truncated == {"agent_0": True}
    env.close()
    fault = "step"
    env.reset()
    with pytest.raises(EnvError, match="env = 'meet': step raised ZeroDivisionError"):
        env.step({"agent_0": 1, "agent_1": 1})


NO_EXTRA = """
import sys
import dm2.envs
from dm2.envs import SmacEnv
assert not {"pettingzoo", "gymnasium"} & sys.modules.keys()
sys.modules["pettingzoo"] = None
try:
    from dm2.envs import PettingZooEnv
except dm2.InputError as error:
    print(error)
"""


def test_pettingzoo_is_imported_when_it_is_asked_for():
    command = [sys.executable, "-c", NO_EXTRA]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "PettingZooEnv: needs PettingZoo: pip install 'dm2[pettingzoo]'\n"
    with pytest.raises(AttributeError, match=r"module 'dm2\.envs' has no attribute 'GymEnv'"):
        getattr(dm2.envs, "GymEnv")  # noqa: B009


FORKED = """
import multiprocessing, sys
from dm2.envs import SmacEnv
from dm2.errors import InputError

def play(made):
    try:
        (made or SmacEnv("smac/3m", seed=0)).reset()
        print("played")
    except InputError as error:
        print(error)

earlier = [SmacEnv("smac/3m", seed=0)] if "early" in sys.argv else [None]
child = multiprocessing.get_context("fork").Process(target=play, args=earlier)
child.start()
child.join(60)
"""


@pytest.mark.parametrize(("when", "said"), [("early", 'start it by "spawn"'), ("late", "played")])
def test_a_forked_process_is_refused_where_it_would_hang(when, said):
    """What is handed to a forked process is not pickled."""
    command = [sys.executable, "-c", FORKED, when]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert said in done.stdout


def test_the_examples_of_the_docs_play(capsys):
    page = (Path(__file__).parents[1] / "docs" / "environments.md").read_text()
    section = page.partition("## Our battles in other people's tools")[2]
    examples = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        assert len(example.splitlines()) <= 20
        exec(compile(example, "environments.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["won:", "won:"]
