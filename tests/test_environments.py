"""Environments of people's own: their numbers through the adapters, what is wrong with them in one
sentence, processes that end, and teams that train on them."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mpe2 import simple_spread_v3

import dm2
from conftest import SMALL
from dm2.cli import main
from dm2.envs import Environment, HostEnvironment, Mapped, make, workers
from dm2.envs.adapters.gymnasium import GymnasiumAdapter
from dm2.envs.adapters.pettingzoo import PettingZooAdapter
from dm2.envs.adapters.single import MappedState
from dm2.envs.adapters.smac import SmacAdapter
from dm2.envs.python_env import Sizes
from dm2.envs.workers import InProcesses, InThisProcess
from dm2.errors import EnvError, InputError
from dm2.methods.centralised.settings import Q
from dm2.rollout.stepping import random_steps
from dm2.run.check import check_quickly
from dm2.run.combine import record_style
from dm2.run.evaluate import exchange
from dm2.run.programs import programs_for
from dm2.studies.registry import find_study
from dm2.studies.scales import scale_named
from stand_ins import Battle, Meet, Tuples
from stand_ins_jax import Line, LineState
from test_record import untrained
from test_training import interrupt, start_process, wait_for_metrics

KEY = jax.random.PRNGKey(0)


def actions(*chosen: int) -> np.ndarray:
    return np.array(chosen, np.int32)


def test_pettingzoo_agents_are_padded_masked_and_die():
    adapter = PettingZooAdapter(Meet(max_cycles=3, dies=2), "meet")
    sizes = adapter.sizes
    assert (sizes.num_agents, sizes.observation_size, sizes.num_actions) == (2, 3, 4)
    assert (sizes.state_size, sizes.limit, sizes.wins) == (6, 3, False)
    begun = adapter.reset(5)
    at = np.random.default_rng(5).integers(5, size=2)
    assert begun.observations.tolist() == [[at[0], at[1], 0], [at[1], at[0], 7]]
    assert begun.legal.tolist() == [[True, True, True, False]] * 2
    _, outcome = adapter.step(actions(1, 1))
    assert (outcome.terminated, outcome.truncated) == (False, False)
    after, outcome = adapter.step(actions(1, 1))
    assert after.alive.tolist() == [True, False]
    assert not outcome.terminated and not outcome.truncated
    # The limit cuts the episode of the one that lives, whose future goes on.
    last, outcome = adapter.step(actions(1, 1))
    assert (outcome.terminated, outcome.truncated) == (False, True)
    assert last.alive.tolist() == [True, False]


def test_gymnasium_tuples_are_taken_and_each_agent_is_paid_its_own():
    adapter = GymnasiumAdapter(Tuples(), "tuples")
    assert (adapter.sizes.observation_size, adapter.sizes.num_actions) == (3, 3)
    assert adapter.sizes.limit == 4
    assert adapter.reset(0).observations.tolist() == [[1, 0, 0], [0, 0.25, 0]]
    after, outcome = adapter.step(actions(1, 2))
    assert after.observations.tolist() == [[0, 1, 0], [0.25, 0.25, 0]]
    assert after.legal.tolist() == [[True, True, False], [True, True, True]]
    assert outcome.rewards.tolist() == [2, 2]  # the first agent's actions begin at 1


def test_a_limit_that_a_gymnasium_environment_calls_a_termination_cuts():
    class Ending(Tuples):
        def step(self, action: Any) -> Any:
            seen, paid, _, late, info = super().step(action)
            return seen, paid, late or self.time == 2, False, info

    for limit, wanted in ((2, (False, True)), (4, (True, False))):
        adapter = GymnasiumAdapter(Ending(limit), "ending")
        adapter.reset(0)
        adapter.step(actions(0, 0))
        _, outcome = adapter.step(actions(0, 0))
        assert (outcome.terminated, outcome.truncated) == wanted


def test_a_gymnasium_environment_says_who_won_with_the_end_of_its_task():
    class Winning(Tuples):
        def step(self, action: Any) -> Any:
            seen, paid, _, late, _ = super().step(action)
            return seen, paid, self.time == 2, late, {"won": True}

    adapter = GymnasiumAdapter(Winning(), "winning")
    adapter.reset(0)
    ends = [adapter.step(actions(0, 0))[1] for _ in range(2)]
    assert [(end.terminated, end.truncated, end.won) for end in ends] == [
        (False, False, False),  # nobody has won before the task ends
        (True, False, True),
    ]


def test_smacs_methods_are_taken_and_a_crash_costs_one_episode():
    adapter = SmacAdapter(Battle(crash=2), "battle")
    adapter.reset(0)
    before, outcome = adapter.step(actions(2, 2))
    assert outcome.rewards.tolist() == [1.5, 1.5]
    shown, outcome = adapter.step(actions(2, 2))
    assert (outcome.terminated, outcome.truncated, outcome.won) == (False, True, False)
    assert shown is before
    assert adapter.reset(0).observations.tolist() == [[0, 0], [0, 1]]
    adapter = SmacAdapter(Battle(), "battle")
    adapter.reset(0)
    adapter.step(actions(1, 1))
    after, _ = adapter.step(actions(1, 1))
    assert after.alive.tolist() == [True, False]
    _, outcome = adapter.step(actions(2, 0))
    assert (outcome.terminated, outcome.truncated, outcome.won) == (True, False, True)
    adapter.reset(0)
    ends = [adapter.step(actions(1, 0))[1] for _ in range(5)][-1]
    assert (ends.terminated, ends.truncated) == (False, True)  # its own limit


MALFORMED = [
    ("Meet?fault=reset", "reset raised OSError: the file is gone (stand_ins.py, line"),
    ("Meet?fault=step", "step raised ZeroDivisionError: division by zero (stand_ins.py, line"),
    ("Meet?fault=reward", "after step, the reward of agent 0 is nan; it must be a finite"),
    ("Meet?fault=observation", "agent 0 observes a number that is not finite; mend"),
    ("Meet?fault=shape", "it shows an array of shape (5,), which is not in Box"),
    ("Meet?fault=mask", "agent 0 is alive and has no legal action; give it one"),
    ("Meet?fault=mask size", "action_mask of agent 'a' has the shape (5,); its action space has 3"),
    ("Meet?fault=missing", "agent 'a' has no observation; show one of each agent"),
    ("Meet?fault=leaving", "agent 'b' left without being terminated or truncated; say in"),
    ("Meet?fault=unknown", "agent 'c' is in `agents` and not in `possible_agents`; name every"),
    ("Meet?fault=continuous", "its action space is Box(0.0, 1.0, (1,), float32); dm2's agents"),
    ("Meet?fault=no limit", "it does not say after how many steps an episode ends; add the option"),
    ("Meet?max_cycles=-3", "its max_cycles = -3: must be a whole number above 0; add the option"),
    ("Meet?max_cycles=0", "its max_cycles = 0: must be a whole number above 0; add the option"),
    ("Meet?max_cycles=6.5", "its max_cycles = 6.5: must be a whole number above 0; add the option"),
    ("Meet?max_cycles='6'", "its max_cycles = '6': must be a whole number above 0; add the option"),
    ("Meet?fault=set", ": must be a list, whose order is the agents' numbers"),
    ("Meet?fault=twice", "possible_agents = ['a', 'a']: must name every agent, each once"),
    ("Meet?fault=nobody", "possible_agents = []: must name every agent"),
    ("Meet?fault=old reset", "reset returned one dict; it must return observations and infos"),
    ("Meet?fault=old step", "step returned 4 values; it must return observations, rewards, "),
    ("Meet?fault=unpaid", "the reward of agent 'a' is None; must be a number"),
    ("Meet?fault=infos", "its infos: None; must be a dictionary"),
    ("Meet?fault=spaces", "reading its sizes raised KeyError: 'a' (stand_ins.py, line"),
    ("Meet?fault=exit", "step raised SystemExit: 3 (stand_ins.py, line"),
    ("Meet?limit=5&limit=3", "option 'limit' is there twice; leave one of them out"),
    ("Meet?colour=red", "making it raised TypeError: "),
    ("Meet?wins=often", "wins must be true or false"),
    ("Tuples?fault=rewards", "its rewards have the shape (3,); must be one number for each of its"),
    ("Tuples?fault=range", "it shows 5, which is not in Discrete(3); make the space say"),
    ("Tuples?fault=words", "its reward is 'much'; must be a number, or one for each agent"),
    ("Tuples?fault=info", "its info: [{}, {}]; must be a dictionary"),
    ("Tuples?fault=old step", "step returned 4 values; it must return observation, reward, "),
    ("Battle?fault=launch", "reading its sizes raised RuntimeError: launch the game first"),
    ("Battle?fault=exit", "reading its sizes raised SystemExit: 0 (stand_ins.py, line"),
    ("Battle?fault=clock", "episode limit = 1099511627776: must be at most 2147483647; add the"),
    ("Battle?fault=nobody", "n_agents = 0; get_env_info() must say it as a whole number above 0"),
    ("Battle?fault=long", "agent 1 observes 3 numbers; obs_shape must be the most that any does"),
    ("Battle?fault=stuck", "agent 1 has no legal action; a dead one has the first"),
    ("Battle?fault=sizes", "obs_shape = None; get_env_info() must say it as a whole number"),
    ("Battle?fault=state", "its state has the shape (4,); (3,) is what the environment says"),
    ("no_environment", "is no environment; it needs dm2's contract, PettingZoo's parallel"),
    ("hands_out_a_class", "it returned the class Battle; return an object, Battle()"),
    ("nothing", "stand_ins.py) has no 'nothing'; write module:factory, and rename your module if"),
    ("leaves", "making it raised SystemExit: no licence (stand_ins.py, line"),
    ("made", "'made' is no function or class; name what makes it; an object itself is for env=…"),
    ("Meet.py/x", "names no module and what is in it; write module:factory, as in an import"),
    ("Meet?limit=many", "limit must be a whole number from 1 to 2147483647"),
    ("Meet?limit=2147483648", "limit must be a whole number from 1 to 2147483647"),
    ("Meet?rewards=mine", "rewards must be 'shared' or 'individual'"),
]


def play_a_step(name: str) -> None:
    env = make(name)
    assert isinstance(env, HostEnvironment)
    group = InThisProcess(env._recipe, env._sizes, 1)
    group.arrays["which"][:] = True
    group.tell("reset")
    group.tell("step")


@pytest.mark.parametrize(("name", "sentence"), MALFORMED, ids=[name for name, _ in MALFORMED])
def test_what_is_wrong_with_an_environment_is_said_in_one_sentence(name, sentence):
    with pytest.raises((InputError, EnvError)) as caught:
        play_a_step(f"stand_ins:{name}")
    said = str(caught.value)
    assert sentence in said
    assert "\n" not in said and "CpuCallback" not in said


def test_a_mistake_in_a_module_is_not_taken_for_a_name_that_it_lacks(tmp_path, monkeypatch):
    (tmp_path / "mistaken_module.py").write_text("import os\nos.nothing\ndef factory(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"importing 'mistaken_module' raised AttributeError: "):
        make("mistaken_module:factory")


def test_other_names_lead_to_pettingzoos_and_gymnasiums_own():
    with pytest.raises(InputError, match=r"no module 'pettingzoo.sisl.nobody_v0'"):
        make("pettingzoo/sisl/nobody-v0")
    with pytest.raises(InputError, match="making it raised NameNotFound"):
        make("gymnasium/Nobody-v0")
    with pytest.raises(InputError, match="it is for one agent"):
        make("gymnasium/CartPole-v1")


PUBLISHED = {
    "mpe2/simple_spread-v3?N=3&max_cycles=7": (3, 18, 5, 7),
    "gymnasium/lbforaging:Foraging-8x8-2p-2f-coop-v3": (2, 12, 6, 50),
    "gymnasium/rware:rware-tiny-2ag-v2?max_steps=9": (2, 71, 5, 9),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_copies_are_stepped_as_by_themselves(name):
    env = make(name)
    assert isinstance(env, HostEnvironment)
    spec = env.spec
    sizes = (spec.num_agents, spec.observation_size, spec.num_actions, spec.episode_limit)
    assert sizes == PUBLISHED[name]
    group, theirs = InThisProcess(env._recipe, env._sizes, 1), published(name)
    group.arrays["which"][:], group.arrays["seeds"][:] = True, 5
    group.tell("reset")
    seen, _ = theirs.reset(seed=5)
    rng = np.random.default_rng(0)
    for _ in range(6):
        rows = list(seen.values()) if isinstance(seen, dict) else seen
        np.testing.assert_array_equal(group.arrays["observations"][:, 0], np.stack(rows))
        chosen = rng.integers(spec.num_actions, size=spec.num_agents)
        group.arrays["actions"][:, 0] = chosen
        group.tell("step")
        mapped = isinstance(seen, dict)
        taken = dict(zip(seen, chosen.tolist(), strict=True)) if mapped else tuple(chosen.tolist())
        seen, paid, *_ = theirs.step(taken)
        rewards = list(paid.values()) if isinstance(paid, dict) else paid
        np.testing.assert_allclose(group.arrays["rewards"][:, 0], rewards, rtol=1e-6)
    assert not group.arrays["terminated"][0] and not group.arrays["truncated"][0]


def published(name: str) -> Any:
    """The same environment from its own library."""
    if name.startswith("mpe2"):
        return simple_spread_v3.parallel_env(N=3, max_cycles=7)
    if "rware" in name:
        return gymnasium.make("rware:rware-tiny-2ag-v2", max_steps=9).unwrapped
    return gymnasium.make("lbforaging:Foraging-8x8-2p-2f-coop-v3").unwrapped


def test_a_dead_agent_observes_zeros_and_may_do_nothing():
    class Dead(Battle):
        def get_avail_actions(self) -> list[list[int]]:
            return [[0, 1, 1], [1, 0, 0]]

    adapter = SmacAdapter(Dead(), "battle")
    arrays = InThisProcess(lambda: adapter, adapter.sizes, 1)
    arrays.arrays["which"][:] = True
    arrays.tell("reset")
    assert arrays.arrays["alive"].tolist() == [[True], [False]]
    assert arrays.arrays["observations"].tolist() == [[[0, 0]], [[0, 0]]]
    assert arrays.arrays["legal"][1, 0].tolist() == [True, False, False]


def started(count: int, processes: int | None = None, name: str = "Meet") -> InProcesses:
    env = make(f"stand_ins:{name}")
    assert isinstance(env, HostEnvironment)
    group = InProcesses(env._recipe, env._sizes, count, processes)
    group.arrays["which"][:] = True
    group.arrays["seeds"][:] = np.arange(count)
    group.tell("reset")
    return group


def test_processes_step_as_one_does_and_end():
    group, env = started(3), make("stand_ins:Meet")
    assert isinstance(env, HostEnvironment)
    here = InThisProcess(env._recipe, env._sizes, 3)
    here.arrays["which"][:], here.arrays["seeds"][:] = True, np.arange(3)
    here.tell("reset")
    for _ in range(3):
        for both in (group, here):
            both.arrays["actions"][:] = 2
            both.tell("step")
        for name in here.arrays:
            np.testing.assert_array_equal(group.arrays[name], here.arrays[name])
    group.close()
    assert all(worker.process.returncode == 0 for worker in group._workers)


def test_a_process_that_dies_costs_its_episodes_and_no_more():
    """Two processes step four environments. One is killed: its two episodes are cut where they
    were, with nothing paid, and begin anew; those of the other process go on."""
    group = started(4, processes=2)
    shown, arrays = group.arrays["observations"].copy(), group.arrays
    arrays["actions"][:] = 1
    killed = group._workers[1]
    os.kill(killed.process.pid, signal.SIGKILL)
    with pytest.warns(RuntimeWarning, match="killed by signal 9: its episodes are cut"):
        group.tell("step")
    assert arrays["truncated"].tolist() == [False, True, False, True]
    assert arrays["rewards"][:, [1, 3]].tolist() == [[0, 0], [0, 0]]
    np.testing.assert_array_equal(arrays["observations"], shown)  # they stayed where they were
    arrays["which"][:], arrays["seeds"][:] = arrays["truncated"], 9
    group.tell("reset")
    at = np.random.default_rng(9).integers(5, size=2)
    assert arrays["observations"][0, [1, 3], :2].tolist() == [at.tolist()] * 2
    np.testing.assert_array_equal(arrays["observations"][:, [0, 2]], shown[:, [0, 2]])
    group.tell("step")
    assert not arrays["truncated"].any()
    group.close()


def test_a_process_that_dies_while_copies_are_reset_cuts_those_that_were_not():
    group = started(2, processes=1)
    os.kill(group._workers[0].process.pid, signal.SIGKILL)
    group.arrays["which"][:] = [True, False]
    with pytest.warns(RuntimeWarning, match="its episodes are cut"):
        group.tell("reset")
    group.tell("step")
    assert group.arrays["truncated"].tolist() == [False, True]
    group.close()


def test_a_process_that_dies_again_and_again_is_given_up():
    group = started(1)
    for _ in range(2):
        os.kill(group._workers[0].process.pid, signal.SIGKILL)
        with pytest.warns(RuntimeWarning, match="its episodes are cut"):
            group.tell("reset")
    os.kill(group._workers[0].process.pid, signal.SIGKILL)
    with pytest.raises(EnvError, match="3 times before an episode ended; mend what kills it"):
        group.tell("reset")
    group.close()


def test_in_a_process_of_their_own_copies_may_raise_what_ctrl_c_does(capfd):
    group = started(2, processes=1, name="Meet?fault=interrupt")
    os.kill(group._workers[0].process.pid, signal.SIGINT)  # which is no copy's doing
    with pytest.warns(RuntimeWarning, match="killed by signal 2: its episodes are cut"):
        group.tell("reset")
    with pytest.raises(EnvError, match=r"^step raised KeyboardInterrupt \(stand_ins.py, line \d+"):
        group.tell("step")
    group.close()
    assert capfd.readouterr().err == ""


def test_deaths_are_counted_anew_once_an_episode_ended():
    group = started(1)
    group.arrays["actions"][:] = 1
    for _ in range(4):
        os.kill(group._workers[0].process.pid, signal.SIGKILL)
        with pytest.warns(RuntimeWarning, match="its episodes are cut"):
            group.tell("reset")
        for _ in range(6):
            group.tell("step")
        assert group.arrays["truncated"].tolist() == [True]
    group.close()


def test_environments_have_a_process_a_core_where_the_system_names_no_cores(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    env = make("stand_ins:Meet")
    assert isinstance(env, HostEnvironment)
    group = InProcesses(env._recipe, env._sizes, 3)
    assert len(group._workers) == 2
    group.close()


def test_what_an_environment_prints_goes_to_standard_error(capfd):
    env = make("stand_ins:Meet?fault=talk")
    assert isinstance(env, HostEnvironment)
    group = InProcesses(env._recipe, env._sizes, 1)
    group.arrays["which"][:] = True
    group.tell("reset")
    group.close()
    out, err = capfd.readouterr()
    assert (out, err) == ("", "It begins.\n")


def test_what_an_environment_started_ends_with_its_process(tmp_path):
    """A game that outlives its environment ends with the process, also where that is killed."""
    pids = []
    for kill in (False, True):
        env = make(f"stand_ins:Leaving?note={tmp_path}/{kill}")
        assert isinstance(env, HostEnvironment)
        group = InProcesses(env._recipe, env._sizes, 1)
        group.arrays["which"][:] = True
        group.tell("reset")
        pids.append(int((tmp_path / str(kill)).read_text()))
        assert _runs(pids[-1])
        if kill:
            os.kill(group._workers[0].process.pid, signal.SIGKILL)
        group.close()
        assert _gone(pids[-1])


def test_what_an_environment_starts_when_it_is_looked_at_ends_with_that(tmp_path):
    check_quickly(make(f"stand_ins:Leaving?note={tmp_path}/game"))
    assert _gone(int((tmp_path / "game").read_text()))


def test_processes_end_when_whoever_started_them_is_killed():
    code = (
        "import test_environments, time\n"
        "group = test_environments.started(1)\n"
        "print(group._workers[0].process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    assert _gone(_orphaned(code))


def _orphaned(code: str, delay: float = 0.0) -> int:
    """The process that some code starts and writes down, once what runs the code was killed."""
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    time.sleep(delay)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    return worker


def test_processes_end_in_the_midst_of_a_step_that_does_not():
    code = (
        "import test_environments\n"
        "group = test_environments.started(1, name='Meet?fault=endless')\n"
        "print(group._workers[0].process.pid, flush=True)\n"
        "group.tell('step')\n"
    )
    worker = _orphaned(code, delay=1.0)
    assert _gone(worker)


def test_a_step_that_does_not_end_is_said(monkeypatch):
    group = started(1, name="Meet?fault=endless")
    monkeypatch.setattr(workers, "PATIENCE_S", 0.2)
    with pytest.raises(EnvError, match=r"step was not done after 0.2 s; mend what waits for ever"):
        group.tell("step")
    group.close()
    assert _gone(group._workers[0].process.pid)


def test_ctrl_c_while_an_environment_is_stepped_is_not_hidden_by_the_program():
    class Interrupted(Meet):
        def step(self, actions: dict[str, int]) -> Any:
            raise KeyboardInterrupt

    def recipe() -> PettingZooAdapter:
        return PettingZooAdapter(Interrupted(), "meet")

    env = HostEnvironment(recipe, recipe().sizes, "interrupted", group=InThisProcess)
    results = jax.jit(lambda key: random_steps(env, key, 2, 10)[0].returns)(KEY)
    with pytest.raises(KeyboardInterrupt):
        env.settle(results)


@pytest.mark.learning  # for its time: it compiles a whole method in a process of its own
def test_ctrl_c_ends_the_processes_that_step_copies(monkeypatch, tmp_path):
    monkeypatch.chdir(Path(__file__).parent)  # where `stand_ins` is found
    path = tmp_path / "run"
    arguments = ["--env", "stand_ins:Meet", "--steps", "1000000", "--num-envs", "4"]
    arguments += ["--rollout-steps", "16", "--ppo.hidden", "8", "--out", str(path)]
    process = start_process(["train", "ippo", *arguments])
    wait_for_metrics(process, path / "metrics.jsonl", 3)
    workers = _children(process.pid)
    interrupt(process)
    assert workers and all(_gone(worker) for worker in workers)
    assert dm2.load(path).steps()


def _gone(process: int) -> bool:
    """Whether a process ends within 20 seconds."""
    deadline = time.monotonic() + 20
    while _runs(process) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not _runs(process)


def _children(process: int) -> list[int]:
    """What its threads started."""
    listed = Path(f"/proc/{process}/task").glob("*/children")
    return [int(word) for path in listed for word in path.read_text().split()]


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_failure_ends_a_program_quietly_and_the_next_one_begins_anew():
    faults = {"now": ""}

    class Fickle(Meet):
        def step(self, actions: dict[str, int]) -> Any:
            self.fault = faults["now"]
            return super().step(actions)

    def recipe() -> PettingZooAdapter:
        return PettingZooAdapter(Fickle(), "meet")

    env = HostEnvironment(recipe, recipe().sizes, "fickle", group=InThisProcess)
    program = jax.jit(lambda key: random_steps(env, key, 2, 10)[0].returns)
    first = env.settle(program(KEY))
    faults["now"] = "step"
    results = program(KEY)
    with pytest.raises(EnvError, match="env = 'fickle': step raised ZeroDivisionError"):
        env.settle(results)
    faults["now"] = ""
    np.testing.assert_array_equal(env.settle(program(KEY)), first)


def test_rewards_are_the_agents_own_where_that_is_asked_for():
    for name, shape in (
        ("stand_ins:Tuples", (3,)),
        ("stand_ins:Tuples?rewards=individual", (2, 3)),
    ):
        env = make(name)
        state = jax.eval_shape(lambda key, env=env: env.reset(key, 3), KEY)
        chosen = jax.ShapeDtypeStruct((2, 3), jnp.int32)
        _, step = jax.eval_shape(env.step, KEY, state, chosen)
        assert step.reward.shape == shape
        assert env.spec.own_rewards == (len(shape) == 2)


def test_only_agents_that_learn_from_rewards_of_their_own_hold_nothing_paid_after_death():
    spec = make("stand_ins:Tuples?rewards=individual").spec
    for method, after in ((dm2.IPPO(), False), (dm2.DM2(), False), (dm2.RMAPPO(), True)):
        team: Any = method.build(spec, 8)
        assert team.learner.reward.paid_after_death == after
    shared: Any = dm2.IPPO().build(make("stand_ins:Tuples").spec, 8)
    assert shared.learner.reward.paid_after_death
    joint: Any = dm2.MAGAIL().build(spec, 8)  # its imitation goes on while a teammate lives
    assert joint.independent.learner.reward.paid_after_death


def test_a_single_jax_environment_is_mapped():
    env = make("stand_ins_jax:Line?rewards=individual")
    assert isinstance(env, Environment) and isinstance(env, Mapped)
    spec = env.spec
    assert (spec.num_agents, spec.observation_size, spec.num_actions) == (2, 2, 2)
    assert (spec.state_size, spec.episode_limit, spec.wins) == (4, 6, True)
    state = env.reset(KEY, 3)
    at = np.asarray(state.env.at)
    assert at.shape == (2, 3)
    ones = jnp.ones((2, 3), jnp.int32)
    state, step = env.step(KEY, state, ones)
    np.testing.assert_array_equal(step.reward, at + 1)
    view = env.observe(state)
    np.testing.assert_array_equal(view.observations[..., 0], at + 1)
    np.testing.assert_array_equal(view.observations[..., 1], [[0] * 3, [1] * 3])
    assert view.legal.shape == (2, 3, 2) and view.alive.shape == (2, 3)
    for _ in range(5):
        state, step = env.step(KEY, state, 0 * ones)
    assert np.all(step.truncated != step.terminated)


def test_how_a_single_jax_environments_episode_ends():
    class Sure(Line):
        def won(self, state: Any) -> Any:
            return state.at[0] >= 0

    # Ends with its limit's last step, ends before it, is cut by the limit, goes on.
    at = jnp.array([[3, 0, 0, 0], [0, 3, 0, 0]])
    time = jnp.array([5, 0, 5, 0], jnp.int32)
    for env, won in ((Line(), [True, False, False, False]), (Sure(), [True, True, False, False])):
        state = MappedState(LineState(at), time)
        _, step = Mapped(env, "line").step(KEY, state, jnp.ones((2, 4), jnp.int32))
        assert step.terminated.tolist() == [True, True, False, False]
        assert step.truncated.tolist() == [False, False, True, False]
        assert step.won.tolist() == won


def test_a_malformed_jax_environment_is_refused():
    class Short(Line):
        def observe(self, state: Any) -> Any:
            return jnp.zeros(2)

    class Restless(Line):
        def step(self, key: Any, state: Any, actions: Any) -> Any:
            return state, jnp.zeros(2)

    class Unpaid(Line):
        def step(self, key: Any, state: Any, actions: Any) -> Any:
            return state, None, False

    class Stateless(Line):
        def reset(self, key: Any) -> Any:
            return ()

    class Flat(Line):
        def global_state(self, state: Any) -> Any:
            return state.at[0]

    class Listing(Line):
        def legal(self, state: Any) -> Any:
            return [[True, True]] * 2

    class Half(Line):
        num_agents = 2.5

    class Unlimited(Line):
        episode_limit = None

    class Timeless(Line):
        episode_limit = 2**31

    class Leaving(Line):
        def step(self, key: Any, state: Any, actions: Any) -> Any:
            sys.exit(5)

    for env, sentence in (
        (Short(), "observe returned the shape"),
        (Restless(), "step must return the state, the reward and whether"),
        (Unpaid(), "step returned a reward of shape NoneType; return one number, or one for each"),
        (Stateless(), "a state without an array; put one into it, such as the time"),
        (Flat(), r"global_state returned the shape \(\); return a row of numbers"),
        (Listing(), r"legal returned the shape list; return \(2, 2\)"),
        (Half(), "num_agents = 2.5: must be a whole number above 0"),
        (Unlimited(), "episode_limit = None: must be a whole number above 0"),
        (Timeless(), "limit = 2147483648: must be at most 2147483647; add the option limit=STEPS"),
        (Leaving(), "step raised SystemExit: 5"),
    ):
        with pytest.raises(InputError, match=f"env = 'line': .*{sentence}"):
            Mapped(env, "line")  # pyright: ignore


def test_a_limit_of_ones_own_counts_for_a_jax_environment():
    assert make("stand_ins_jax:Line?limit=4").spec.episode_limit == 4
    assert make("stand_ins_jax:Endless?limit=4").spec.episode_limit == 4
    with pytest.raises(InputError, match="after how many steps an episode ends; add the option"):
        make("stand_ins_jax:Endless")


def test_wins_are_asked_of_a_jax_environment_that_tells_them():
    assert make("stand_ins_jax:Line?wins=true").spec.wins
    with pytest.raises(InputError, match="it does not say who won; add won, a function of the"):
        make("stand_ins_jax:Endless?limit=4&wins=true")


TINY = dm2.PPO(hidden=8, epochs=1, minibatches=2)


@pytest.fixture
def begun(monkeypatch):
    """The groups of processes that were begun."""
    groups, begin = [], InProcesses.__init__

    def begin_noted(self: InProcesses, *given: Any) -> None:
        groups.append(self)
        begin(self, *given)

    monkeypatch.setattr(InProcesses, "__init__", begin_noted)
    return groups


@pytest.mark.learning  # for its time
def test_a_team_trains_goes_on_and_is_recorded(tmp_path, begun):
    config = dm2.Config(dm2.IPPO(TINY), "smax/3m", steps=256, **SMALL)
    run = dm2.train(config, tmp_path / "run", env=Meet, quiet=True)
    assert run.config.env == "stand_ins:Meet"
    assert run.config.method.observations == "running"  # pyright: ignore  # not that of smax/3m
    with pytest.warns(RuntimeWarning, match="begin anew"):
        run = dm2.resume(run.path, 384, quiet=True)
    assert run.steps()[-1] == 384
    assert dm2.evaluate(run, episodes=10)["mean_length"] == 6
    recorded = dm2.record(run, episodes=10)
    assert recorded.summary()["steps"] == 60
    assert len(begun) >= 6 and not any(group._end.alive for group in begun)


@pytest.mark.parametrize("name", ["num_agents", "observation_size", "num_actions", "state_size"])
def test_a_run_in_an_environment_that_has_other_sizes_now_says_so(tmp_path, name):
    run = untrained(tmp_path, 0, "stand_ins:Battle")
    config = run.path / "config.json"
    info = json.loads(config.read_bytes())
    size = getattr(make("stand_ins:Battle").spec, name)
    info["environment"][name] = size + 2
    config.write_text(json.dumps(info))
    said = f"changed since it was trained in: {name} was {size + 2}, is {size}; bring back what it"
    with pytest.raises(InputError, match=said):
        dm2.resume(run.path, quiet=True)
    if name == "state_size":  # the agents do not see it
        assert dm2.evaluate(run.path, episodes=1)["episodes"] == 1
        return
    agent = tmp_path / "agent.safetensors"
    for use in (dm2.evaluate, dm2.record, lambda path: dm2.export(path, agent=0, out=agent)):
        with pytest.raises(InputError, match=said):
            use(run.path)


def test_environments_end_with_whatever_played_in_them(tmp_path, begun):
    run = untrained(tmp_path, 0, "stand_ins:Battle")
    begun.clear()
    dm2.evaluate(run, episodes=2)
    assert len(begun) == 1 and not begun[0]._end.alive
    dm2.evaluate(run, episodes=2)
    assert len(begun) == 2 and not begun[1]._end.alive
    elsewhere = dm2.evaluate(run, env="stand_ins:Battle?limit=2", episodes=2)
    assert elsewhere["mean_length"] == 2
    with pytest.raises(InputError, match="observation_size is 3, there 2, num_actions is 4, there"):
        dm2.evaluate(run, env="stand_ins:Meet", episodes=2)
    assert len(begun) >= 3 and not any(group._end.alive for group in begun)


@pytest.mark.learning  # for its time
def test_teams_that_are_mixed_play_as_many_copies_side_by_side_as_train(tmp_path, monkeypatch):
    """Agents of several teams, to exchange them and to record them together."""
    method = dm2.IPPO(dataclasses.replace(TINY, learning_rate=1e-9))  # as they began
    runs = []
    for seed in (0, 1):
        config = dm2.Config(method, "stand_ins:Battle", steps=128, seed=seed, **SMALL)
        runs.append(dm2.train(config, tmp_path / str(seed), quiet=True))
    reset, counts = HostEnvironment.reset, []
    monkeypatch.setattr(
        HostEnvironment,
        "reset",
        lambda env, key, num_envs: counts.append(num_envs) or reset(env, key, num_envs),
    )
    rates = exchange(runs, episodes=11)
    assert len({*np.diag(rates)}) == 2
    # In Battle agent 0 alone decides, so that a team with agent 1 of another wins as its own does.
    alone = [dm2.evaluate(run, episodes=1)["win_rate"] for run in runs]
    np.testing.assert_allclose(rates, [[alone[0], np.mean(alone)], [np.mean(alone), alone[1]]])
    together = record_style(runs, "mixed-concurrent", episodes=11)
    assert together.agents[0].num_episodes == 11
    assert max(counts) == SMALL["num_envs"]


@pytest.mark.learning
@pytest.mark.parametrize(
    ("length", "remedy"),
    [("16", "then train anew: there is no checkpoint"), ("4", "then go on: dm2 resume")],
)
def test_a_failure_in_training_is_one_line_and_the_run_goes_on(tmp_path, capfd, length, remedy):
    """Each copy of the environment fails at its ninth step."""
    flags = ["--steps", "256", "--num-envs", "2", "--rollout-steps", length, "--ppo.hidden", "8"]
    flags += ["--checkpoint-every", "8", "--eval-episodes", "2"]
    flags += ["--ppo.minibatches", "2", "--out", str(tmp_path / "run")]
    flags += ["--env", "stand_ins:Meet?fault=late", "--json"]
    assert main(["train", "ippo", *flags]) == 1
    lines = capfd.readouterr().err.splitlines()
    said = [line for line in lines if not re.match(r"W\d{4} ", line)]  # XLA's own, of its cache
    assert len(said) == 1
    assert "step raised ZeroDivisionError" in said[0] and remedy in said[0]


@pytest.mark.learning  # for its time: it compiles a whole method
def test_an_object_trains_with_a_warning(tmp_path):
    config = dm2.Config(dm2.VDN(), "mine", steps=128, **SMALL)
    with pytest.warns(RuntimeWarning, match="object:mine has no name by which another process"):
        run = dm2.train(config, tmp_path / "run", env=Battle(), quiet=True)
    assert run.config.env == "object:mine"
    for _ in range(2):  # in new environments each time
        assert dm2.evaluate(run, episodes=4)["mean_length"] <= 5


@pytest.mark.learning  # for its time: it compiles a whole method
def test_no_replay_holds_the_episode_that_was_under_way_when_a_run_stopped(tmp_path):
    """Every episode has 6 steps, and a rollout of 16 stops in the midst of the third."""
    q = Q(hidden=8, updates=1, batch=4, capacity=100, learning_starts=4)
    config = dm2.Config(dm2.VDN(q), "stand_ins:Meet", steps=128, **SMALL)
    run = dm2.train(config, tmp_path / "run", quiet=True)
    with pytest.warns(RuntimeWarning, match="begin anew"):
        run = dm2.resume(run.path, 256, quiet=True)
    state, _ = run.load_newest_valid(programs_for(run.config.program).shapes())
    stored = int(state.agents.replay.inserted)
    assert stored == 2 * 8 * 2
    assert set(np.asarray(state.agents.replay.length[:stored]).tolist()) == {6}


def test_environments_are_made_when_they_are_first_reset():
    sizes = Sizes(1, 1, 1, 1, "none", 1)
    InThisProcess(lambda: pytest.fail("made"), sizes, 2).close()


def test_the_example_of_the_docs_is_an_environment(tmp_path, monkeypatch):
    page = (Path(__file__).parent.parent / "docs" / "environments.md").read_text()
    code = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[0]
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 20
    (tmp_path / "meeting.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    env = make("meeting:Meeting")
    assert (env.spec.observation_size, env.spec.episode_limit) == (2, 20)
    state, step = env.step(KEY, env.reset(KEY, 3), jnp.ones((2, 3), jnp.int32))
    np.testing.assert_array_equal(step.reward, state.env[0] == state.env[1])


def test_a_limit_of_ones_own_cuts_every_episode_of_copies_in_python():
    env = make("stand_ins:Meet?max_cycles=99&dies=2&limit=3")
    assert isinstance(env, HostEnvironment)
    env = env.twin(InThisProcess)
    stay = jnp.ones((2, 2), jnp.int32)

    def play(key):
        def one(state, key):
            state, step = env.step(key, state, stay)
            alive = env.observe(state).alive
            ended = step.terminated | step.truncated
            return env.restart(key, state, ended), (step.truncated, step.terminated, alive)

        return jax.lax.scan(one, env.reset(key, 2), jax.random.split(key, 7))[1]

    truncated, terminated, alive = env.settle(jax.jit(play)(KEY))
    env.close()
    assert truncated.tolist() == [[t in (2, 5)] * 2 for t in range(7)]
    assert not np.any(terminated)
    # The second agent dies at step 2 of each episode, and lives again in the next.
    assert alive[:, 1].tolist() == [[t % 3 == 0] * 2 for t in range(7)]
    assert np.all(alive[:, 0])


def test_a_limit_in_place_of_one_that_is_unusable():
    assert make("stand_ins:Meet?max_cycles=-3&limit=3").spec.episode_limit == 3


def test_programs_that_call_back_are_not_kept_on_disk():
    """Such a program holds an address in the process that compiled it."""
    env = make("stand_ins:Meet")
    assert isinstance(env, HostEnvironment)
    env = env.twin(InThisProcess)

    def calls_back(key):
        return random_steps(env, key, 2, 1)[0].returns

    def calls_nobody(key):
        return jax.random.normal(key, (3,)) @ jnp.ones(3)

    shortest = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, shortest)
    jax.config.update(shortest, 0.0)
    try:
        env.settle(jax.jit(calls_back)(KEY))
        jax.jit(calls_nobody)(KEY)
    finally:
        jax.config.update(shortest, before)
    folder = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])  # of this test run
    kept = [path.name for path in folder.iterdir()]
    assert any("calls_nobody" in name for name in kept)
    assert not any("calls_back" in name for name in kept)


@pytest.mark.learning  # for its time: it compiles two methods
def test_the_docs_way_to_train_on_a_pettingzoo_environment(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parent.parent / "docs" / "environments.md").read_text()
    code = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[1]
    assert len(code.splitlines()) <= 20
    monkeypatch.chdir(tmp_path)
    stand_ins = (Path(__file__).parent / "stand_ins.py").read_text()
    (tmp_path / "myenv.py").write_text(stand_ins)
    monkeypatch.syspath_prepend(tmp_path)
    sizes = ", ".join(f"{name}={value}" for name, value in SMALL.items())
    exec(
        compile(re.sub(r"steps=[\d_]+", f"steps=256, {sizes}", code), "environments.md", "exec"), {}
    )
    assert "'episodes': 100" in capsys.readouterr().out


def test_the_study_of_other_peoples_copies_can_be_declared(monkeypatch):
    examples = Path(__file__).parents[1] / "examples"
    monkeypatch.chdir(examples)
    monkeypatch.syspath_prepend(examples)
    study = find_study("environments.py", scale_named("quick", 2))
    assert len({curve.env for curve in study.curves}) == 5
    assert [len(curve.runs) for curve in study.curves] == [2] * 16
    hunt = make("hunt:Hunt")
    found = dm2.check("hunt:Hunt", seconds=0.5)
    assert found["problems"] == [] and found["deterministic"]
    assert hunt.spec.num_agents == 3 and hunt.spec.observation_size == 6 and hunt.spec.wins
