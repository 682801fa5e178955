"""Recordings made elsewhere: every format there and back, and every malformed recording."""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import refuses
from dm2 import Demonstrations
from dm2.cli import main
from dm2.demos.experts import load_experts
from dm2.demos.importing import table
from dm2.demos.importing.formats import Format, from_files, guess_format
from dm2.demos.importing.minari import root
from dm2.demos.importing.pickled import Call, parse
from dm2.envs import EnvSpec
from test_readme import blocks, shrink

# Two agents, two features, three actions, at most four steps.
SPEC = EnvSpec("toy/pair", "toy 1", 2, 2, 3, 1, 4)

# Two episodes, of 3 and 1 steps. In the first, agent 1 dies after its first step.
FIRST = np.array([[[0.5, 1], [2, 3]], [[-1, 1], [0, 0]], [[4, 1], [0, 0]]], np.float32)
SECOND = np.array([[[0.25, 1], [4, -5]]], np.float32)
ALIVE = [np.array([[1, 1], [1, 0], [1, 0]]), np.array([[1, 1]])]
ACTIONS = [np.array([[0, 1], [2, 0], [1, 0]]), np.array([[1, 2]])]
LEGAL = [np.ones((3, 2, 3), int), np.array([[[0, 1, 1], [1, 0, 1]]])]
RETURNS, WON = np.array([2.0, -0.5]), np.array([1, 0])
RAGGED: dict[str, Any] = {"observations": [FIRST, SECOND], "alive": ALIVE, "actions": ACTIONS}
RAGGED |= {"legal": LEGAL, "returns": RETURNS, "won": WON}

HEADER = "episode,step,agent,obs_0,obs_1,alive,action,legal_0,legal_1,legal_2,return,won"
ROWS = (
    "0,0,0,0.5,1,1,0,1,1,1,2,1",
    "0,0,1,2,3,1,1,1,1,1,2,1",
    "0,1,0,-1,1,1,2,1,1,1,2,1",
    "0,1,1,,,0,,,,,2,1",
    "0,2,0,4,1,1,1,1,1,1,2,1",
    "1,0,0,0.25,1,1,1,0,1,1,-0.5,0",
    "1,0,1,4,-5,1,2,1,0,1,-0.5,0",
)


def padded(arrays: list[np.ndarray]) -> np.ndarray:
    """One array of all episodes; 7 stands where an episode is over."""
    full = np.full((2, 3, *arrays[0].shape[1:]), 7, arrays[0].dtype)
    for e, array in enumerate(arrays):
        full[e, : len(array)] = array
    return full


def whole(**changes: Any) -> dict[str, Any]:
    """The recording as padded arrays, with some of them changed; None leaves one out."""
    arrays = {n: padded(a) if isinstance(a, list) else a for n, a in RAGGED.items()}
    arrays = arrays | {"lengths": np.array([3, 1])} | changes
    return {name: array for name, array in arrays.items() if array is not None}


def write_csv(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.write_text("\n".join((header, *rows)) + "\n")
    return path


def edited(row: int, cell: int, value: str) -> list[str]:
    """The rows with one cell changed; rows from 0."""
    cells = ROWS[row].split(",")
    return [*ROWS[:row], ",".join([*cells[:cell], value, *cells[cell + 1 :]]), *ROWS[row + 1 :]]


def assert_recorded(demos: Demonstrations, fields: str = "actions legal returns won") -> None:
    """The demonstrations are the two episodes above, by hand."""
    one, two = demos.agents
    np.testing.assert_array_equal(one.observations, [[0.5, 1], [-1, 1], [4, 1], [0.25, 1]])
    np.testing.assert_array_equal(two.observations[[0, 3]], [[2, 3], [4, -5]])
    np.testing.assert_array_equal(one.alive, [1, 1, 1, 1])
    np.testing.assert_array_equal(two.alive, [1, 0, 0, 1])
    assert [name for name in one.arrays() if name in ("actions", "legal", "returns", "won")] == (
        fields.split()
    )
    for agent in demos.agents:
        np.testing.assert_array_equal(agent.offsets, [0, 3, 4])
    if "actions" in fields:
        assert one.actions is not None and two.actions is not None
        np.testing.assert_array_equal(one.actions, [0, 2, 1, 1])
        np.testing.assert_array_equal(two.actions[[0, 3]], [1, 2])
    if "legal" in fields:
        assert one.legal is not None and two.legal is not None
        np.testing.assert_array_equal(one.legal, [[1, 1, 1]] * 3 + [[0, 1, 1]])
        np.testing.assert_array_equal(two.legal[[0, 3]], [[1, 1, 1], [1, 0, 1]])
    if "returns" in fields:
        np.testing.assert_array_equal(one.returns, [2, -0.5])
    if "won" in fields:
        np.testing.assert_array_equal(two.won, [1, 0])
    assert demos.provenance["environment"] == "toy/pair"
    assert demos.provenance["environment_version"] == "toy 1"
    assert (demos.provenance["num_actions"], demos.provenance["episode_limit"]) == (3, 4)


def assert_same_arrays(a: Demonstrations, b: Demonstrations) -> None:
    for mine, theirs in zip(a.agents, b.agents, strict=True):
        assert mine.arrays().keys() == theirs.arrays().keys()
        for name, array in mine.arrays().items():
            other = theirs.arrays()[name]
            assert array.dtype == other.dtype
            np.testing.assert_array_equal(array, other)


# --- arrays -----------------------------------------------------------------------------------


def test_arrays_padded_and_as_lists():
    assert_recorded(Demonstrations.from_arrays(RAGGED, SPEC))
    assert_recorded(Demonstrations.from_arrays(whole(), SPEC))
    booleans = {name: [part.astype(bool) for part in RAGGED[name]] for name in ("alive", "legal")}
    assert_recorded(Demonstrations.from_arrays(RAGGED | booleans | {"won": [True, False]}, SPEC))


def test_observations_alone_are_enough():
    demos = Demonstrations.from_arrays({"observations": [FIRST, SECOND]}, SPEC)
    np.testing.assert_array_equal(demos[1].alive, [1, 1, 1, 1])
    assert list(demos[0].arrays()) == ["observations", "alive", "offsets"]
    assert demos.provenance["imported"] == {"format": "arrays"}
    assert demos.provenance["win_rate"] is None
    # Without lengths, padded episodes are as long as their arrays.
    long = Demonstrations.from_arrays({"observations": padded([FIRST, SECOND])}, SPEC)
    np.testing.assert_array_equal(long[0].offsets, [0, 3, 6])


def test_cloning_says_how_to_import_what_it_needs():
    given = {"observations": [FIRST, SECOND], "actions": ACTIONS}
    demos = Demonstrations.from_arrays(given, SPEC)
    parts = ("agent 0 has no legal actions", "or import both", "`actions` and `legal` of arrays")
    refuses(lambda: load_experts(demos, actions=True, episodes=True), *parts)


def test_what_is_known_of_a_recording_goes_into_its_provenance():
    told = {"method": "scripted", "policy": "greedy"}
    source = Demonstrations.from_arrays(RAGGED, SPEC, provenance=told).provenance
    assert (source["method"], source["policy"], source["win_rate"]) == ("scripted", "greedy", 0.5)


def test_a_deeply_nested_provenance_is_refused():
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    told = {"notes": deep}
    part = "provenance: maximum recursion depth exceeded"
    refuses(lambda: Demonstrations.from_arrays(RAGGED, SPEC, provenance=told), part, "plain values")


def test_float32_is_kept_where_it_is_asked_for():
    third = {"observations": [FIRST + np.float32(1 / 3)]}
    exact = Demonstrations.from_arrays(third, SPEC, dtype="float32")
    np.testing.assert_array_equal(exact[0].observations[0], FIRST[0, 0] + np.float32(1 / 3))
    half = Demonstrations.from_arrays(third, SPEC, dtype="float16")
    assert half[0].observations.dtype == np.float16
    # By default the environment decides: what is no battle keeps float32.
    assert Demonstrations.from_arrays(third, SPEC).sha256 == exact.sha256
    battle = dataclasses.replace(SPEC, name="smac/pair")
    assert Demonstrations.from_arrays(third, battle)[0].observations.dtype == np.float16
    huge = {"observations": [FIRST * 1e5]}
    parts = ("episode 0, step 0, agent 0: observations[1] = 100000: must be", "`--dtype float32`")
    refuses(lambda: Demonstrations.from_arrays(huge, SPEC, dtype="float16"), *parts)
    assert Demonstrations.from_arrays(huge, SPEC)[0].observations[0, 1] == 1e5


def test_an_environment_is_named_or_given():
    observations = {"observations": [np.zeros((2, 3, 75))]}
    demos = Demonstrations.from_arrays(observations, "smax/3m?limit=12")
    assert demos.provenance["environment"] == "smax/3m?limit=12"
    assert demos.provenance["episode_limit"] == 12
    refuses(lambda: Demonstrations.from_arrays(observations, "smax/3n"), "did you mean 'smax/3m'")


# --- .npz and .npy ----------------------------------------------------------------------------


def test_npz_of_all_episodes_and_its_provenance(tmp_path):
    path = tmp_path / "team.npz"
    np.savez(path, **whole())
    demos = Demonstrations.from_npz(path, SPEC)
    assert_recorded(demos)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    files = [{"name": "team.npz", "sha256": digest}]
    assert demos.provenance["imported"] == {"format": "npz", "files": files}
    demos.save(tmp_path / "team.safetensors")
    assert Demonstrations.load(tmp_path / "team.safetensors").sha256 == demos.sha256


def test_npz_with_a_key_for_each_episode(tmp_path):
    path = tmp_path / "team.npz"
    np.savez(path, episode_0=FIRST, episode_1=SECOND, alive_0=ALIVE[0], alive_1=ALIVE[1])
    assert_recorded(Demonstrations.from_npz(path, SPEC), "")
    # Ten episodes and more go by number: as texts, 10 stands before 2.
    eleven: dict[str, Any] = {f"episode_{e}": SECOND + e for e in range(11)}
    np.savez(path, **eleven)
    assert Demonstrations.from_npz(path, SPEC)[0].observations[:, 1].tolist() == [*range(1, 12)]


def test_npz_with_other_keys(tmp_path):
    path = tmp_path / "team.npz"
    np.savez(path, arr_0=FIRST, arr_1=SECOND, win=WON)
    mapping = {"observations": "arr_*", "won": "win"}
    demos = Demonstrations.from_npz(path, SPEC, mapping=mapping)
    np.testing.assert_array_equal(demos[0].won, [1, 0])
    assert demos.provenance["imported"]["map"] == mapping
    with pytest.warns(UserWarning, match="keys that are not read: 'win'"):
        Demonstrations.from_npz(path, SPEC, mapping={"observations": "arr_*"})


def test_one_file_an_episode_and_one_an_agent(tmp_path):
    episodes = [tmp_path / "a.npz", tmp_path / "b.npz"]
    agents = [tmp_path / "0.npz", tmp_path / "1.npz"]
    for e, path in enumerate(episodes):
        np.savez(path, **{name: array[e] for name, array in RAGGED.items()})
    assert_recorded(Demonstrations.from_npz(episodes, SPEC, each="episode"))
    for k, path in enumerate(agents):
        per_agent = {n: a[:, :, k] if a.ndim > 2 else a for n, a in whole().items()}
        np.savez(path, **per_agent)
    assert_recorded(Demonstrations.from_npz(agents, SPEC, each="agent"))
    # Joint episodes of two files stand one after the other.
    for path in episodes:
        np.savez(path, **whole())
    both = Demonstrations.from_npz(episodes, SPEC)
    np.testing.assert_array_equal(both[0].offsets, [0, 3, 4, 7, 8])


def test_an_agent_that_was_recorded_for_fewer_steps_died(tmp_path):
    paths = [tmp_path / "0.npz", tmp_path / "1.npz"]
    np.savez(paths[0], episode_0=FIRST[:, 0], episode_1=SECOND[:, 0])
    np.savez(paths[1], episode_0=FIRST[:1, 1], episode_1=SECOND[:, 1])
    assert_recorded(Demonstrations.from_npz(paths, SPEC, each="agent"), "")


def test_npy_holds_observations(tmp_path):
    np.save(tmp_path / "team.npy", padded([FIRST, SECOND]))
    demos = Demonstrations.from_npz(tmp_path / "team.npy", SPEC)
    np.testing.assert_array_equal(demos[0].observations[:3], FIRST[:, 0])


def test_npz_and_back(tmp_path):
    told = {"method": "ippo", "seed": 3, "policy": "greedy"}
    demos = Demonstrations.from_arrays(RAGGED, SPEC, provenance=told)
    size = demos.to_npz(tmp_path / "team.npz")
    assert size == (tmp_path / "team.npz").stat().st_size
    again = Demonstrations.from_npz(tmp_path / "team.npz", SPEC)
    assert_same_arrays(demos, again)
    assert {n: again.provenance[n] for n in told} == told
    assert again.provenance["imported"]["before"] == {"format": "arrays"}
    with np.load(tmp_path / "team.npz") as stored:
        assert stored["observations"].shape == (2, 3, 2, 2)
        assert stored["lengths"].tolist() == [3, 1]
    # It is of the environment that it was recorded in.
    other = EnvSpec("toy/other", "toy 1", 2, 2, 3, 1, 4)
    refuses(lambda: Demonstrations.from_npz(tmp_path / "team.npz", other), "toy/pair do not fit")


def test_files_that_are_merged_claim_what_all_of_them_do(tmp_path):
    paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for seed, path in enumerate(paths):
        told = {"method": "ippo", "seed": seed, "win_rate": 0.9, "episode_indices": "4-5"}
        bare = {"observations": [FIRST, SECOND]}
        Demonstrations.from_arrays(bare, SPEC, provenance=told).to_npz(path)
    names = ("method", "seed", "win_rate", "episode_indices")

    def claims(given: Any) -> list[Any]:
        source = Demonstrations.from_npz(given, SPEC).provenance
        return [source.get(name) for name in names]

    assert claims(paths[0]) == ["ippo", 0, 0.9, "4-5"]
    assert claims(paths) == ["ippo", None, None, None]
    # Of other episodes than those that it was measured in, a win rate says nothing.
    with np.load(paths[0]) as stored:
        fewer = {"observations": stored["observations"][:1], "provenance": stored["provenance"]}
    np.savez(paths[0], **fewer)
    assert claims(paths[0]) == ["ippo", 0, None, None]
    fewer["provenance"] = np.array('{"seed": [1, 2, 3]}')
    np.savez(paths[0], **fewer)
    parts = ("provenance.seed = [1, 2, 3]", "or leave out the key 'provenance'")
    refuses(lambda: Demonstrations.from_npz(paths[0], SPEC), f"{paths[0]}: ", *parts)


def test_a_recording_that_says_who_won_has_that_win_rate(tmp_path):
    told = np.array(json.dumps({"win_rate": 0.9, "method": "ippo"}))
    np.savez(tmp_path / "team.npz", **whole(won=WON), provenance=told)
    source = Demonstrations.from_npz(tmp_path / "team.npz", SPEC).provenance
    assert (source["win_rate"], source["method"]) == (0.5, "ippo")
    np.savez(tmp_path / "team.npz", **whole(won=None), provenance=told)
    assert Demonstrations.from_npz(tmp_path / "team.npz", SPEC).provenance["win_rate"] == 0.9


@pytest.mark.parametrize("file_format", ["npz", "csv", "minari", "authors", "vault"])
def test_no_file_is_given_twice(tmp_path, file_format: Format):
    path = tmp_path / "one"
    if file_format in ("minari", "vault"):
        path.mkdir()
        (path / "metadata.json").write_text("{}")
    else:
        path.write_text("")
    (tmp_path / "link").symlink_to(path)
    part = f"{path}: is given twice; give every file once"
    refuses(lambda: from_files([path, path], SPEC, file_format), part)
    part = f"{tmp_path / 'link'}: is given twice, first as {path}; give every file once"
    refuses(lambda: from_files([path, tmp_path / "link"], SPEC, file_format), part)


def test_a_member_of_an_npz_that_is_no_array(tmp_path):
    path = tmp_path / "team.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("observations.npy", b"0.5 1")
    parts = ("key 'observations' cannot be read (ValueError: no header", "damaged: save it again")
    refuses(lambda: Demonstrations.from_npz(path, SPEC), f"{path}: ", *parts)


def test_parts_of_agents_come_back_from_npz(tmp_path):
    demos = Demonstrations.from_arrays(RAGGED, SPEC, provenance={"seed": 7})
    paths = [tmp_path / "b.npz", tmp_path / "a.npz"]
    for k, path in enumerate(paths):
        demos.subset(agent=k).to_npz(path)
    for given in (paths, paths[::-1]):  # each says whose it is
        again = Demonstrations.from_npz(given, SPEC, each="agent")
        assert_recorded(again)
        assert again.provenance["seed"] == 7
        assert "agent" not in again.provenance and "team_agents" not in again.provenance
    twice = [paths[0], tmp_path / "copy.npz"]
    shutil.copy(*twice)
    parts = ("both are the part of agent 0", "give one for each agent")
    refuses(lambda: Demonstrations.from_npz(twice, SPEC, each="agent"), *parts)
    apart = Demonstrations(demos.agents, demos.provenance | {"concurrency": [0, 1]})
    for k, path in enumerate(paths):
        apart.subset(agent=k).to_npz(path, overwrite=True)
    part = "these agents come from different episodes"
    refuses(lambda: Demonstrations.from_npz(paths, SPEC, each="agent"), part)


def test_an_export_replaces_nothing_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    demos, path = Demonstrations.from_arrays(RAGGED, SPEC), tmp_path / "team.npz"
    path.write_text("mine")
    refuses(lambda: demos.to_npz(path), "exists", "overwrite")
    refuses(lambda: demos.to_npz(tmp_path / "team.csv"), "must end in .npz")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        demos.to_npz(path, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["team.npz"]
    assert path.read_text() == "mine"
    monkeypatch.undo()
    demos.to_npz(path, overwrite=True)
    assert_recorded(Demonstrations.from_npz(path, SPEC))


def test_agents_of_different_episodes_cannot_be_exported(tmp_path):
    demos = Demonstrations.from_arrays(RAGGED, SPEC)
    apart = Demonstrations(demos.agents, demos.provenance | {"concurrency": [0, 1]})
    refuses(lambda: apart.to_npz(tmp_path / "x.npz"), "different episodes", "demos subset --agent")


# --- CSV and Parquet --------------------------------------------------------------------------


def test_csv_with_the_usual_columns(tmp_path):
    path = write_csv(tmp_path / "film.csv", *ROWS)
    demos = Demonstrations.from_csv(path, SPEC)
    assert_recorded(demos)
    assert demos.provenance["imported"]["files"][0]["name"] == "film.csv"
    for array in demos[1].arrays().values():
        assert array.flags.owndata or array.base is not None
    # In any order, with steps from 1, with true and false, blank lines and Excel's first letter.
    shifted = [re.sub(r"^(\d),(\d)", lambda m: f"{m[1]},{int(m[2]) + 1}", row) for row in ROWS]
    words = [re.sub(r",1$", ", True", re.sub(r",0$", ",false", row)) for row in shifted]
    text = "\r\n".join(("\ufeff" + HEADER, *words[::-1], "", ""))
    path.write_text(text, encoding="utf-8", newline="")
    assert_recorded(Demonstrations.from_csv(path, SPEC))


def test_csv_with_other_columns_and_named_agents(tmp_path):
    header, rows = "clip,frame,player,x,y", ["b,0,red,0.5,1", "b,0,blue,2,3", "b,1,red,-1,1"]
    rows += ["b,2,red,4,1", "a,0,blue,4,-5", "a,0,red,0.25,1"]
    path = write_csv(tmp_path / "film.csv", *rows, header=header)
    mapping = {"episode": "clip", "step": "frame", "agent": "player", "obs": "x,y"}
    # Names stand in the order in which they appear, of episodes too.
    assert_recorded(Demonstrations.from_csv(path, SPEC, mapping=mapping), "")
    swapped = Demonstrations.from_csv(path, SPEC, mapping=mapping | {"agents": "blue,red"})
    np.testing.assert_array_equal(swapped[1].observations[:2], [[0.5, 1], [-1, 1]])


def test_numbered_agents_and_episodes_go_by_number(tmp_path):
    header, rows = "episode,step,agent,obs_1,obs_2", ["10,0,7,1,1", "10,0,5,2,2", "9,0,5,3,3"]
    path = write_csv(tmp_path / "film.csv", *rows, "9,0,7,4,4", header=header)
    demos = Demonstrations.from_csv(path, SPEC)
    assert demos[0].observations[:, 0].tolist() == [3, 2]
    assert demos[1].observations[:, 0].tolist() == [4, 1]


def test_tables_of_several_files_are_one(tmp_path):
    one = write_csv(tmp_path / "a.csv", *ROWS[:3])
    two = write_csv(tmp_path / "b.csv", *ROWS[3:])
    assert_recorded(Demonstrations.from_csv([one, two], SPEC))
    write_csv(two, *ROWS[2:])
    twice = ["a.csv: row 4 and b.csv: row 2", "both are episode 0, step 1, agent 0"]
    refuses(lambda: Demonstrations.from_csv([one, two], SPEC), *twice)


@pytest.mark.parametrize(
    ("agents", "order"),
    [
        (("agent_1", "agent_0"), ("agent_0", "agent_1")),
        (("player 10 red", "player 9 red"), ("player 9 red", "player 10 red")),
        (("02", "01"), ("01", "02")),
        (("red_2", "blue_1"), ("red_2", "blue_1")),  # they differ in more than a number
        (("2", "1.0"), ("1", "2")),
        (("1e5", "10e4"), ("1e5", "10e4")),  # texts, though equal numbers to Python
        (("9007199254740993", "9007199254740992"), ("9007199254740992", "9007199254740993")),
    ],
)
def test_the_order_of_agents_in_a_table(tmp_path, agents, order):
    rows = [f"0,0,{agent},{i},0" for i, agent in enumerate(agents)]
    path = write_csv(tmp_path / "film.csv", *rows, header="episode,step,agent,obs_0,obs_1")
    wanted = [[float(agents.index(label) if label in agents else 1)] for label in order]
    demos = Demonstrations.from_csv(path, SPEC)
    assert [agent.observations[:, 0].tolist() for agent in demos.agents] == wanted
    for mapping in ({"agents": ", ".join(order[::-1])}, {"agents": order[::-1]}):
        swapped = Demonstrations.from_csv(path, SPEC, mapping=mapping)
        assert [agent.observations[:, 0].tolist() for agent in swapped.agents] == wanted[::-1]


def test_labels_of_episodes_are_texts(tmp_path):
    labels = ("2024_1_12", "2024_11_2", "1e5", "10e4")
    rows = [f"{label},0,{k},{e},0" for e, label in enumerate(labels) for k in range(2)]
    path = write_csv(tmp_path / "film.csv", *rows, header="episode,step,agent,obs_0,obs_1")
    demos = Demonstrations.from_csv(path, SPEC)
    assert demos[0].observations[:, 0].tolist() == [0, 1, 2, 3]


def test_columns_whose_numbers_begin_with_zeros(tmp_path):
    header = "episode,step,agent,obs_00,obs_01"
    path = write_csv(tmp_path / "film.csv", "0,0,0,1,2", "0,0,1,3,4", header=header)
    assert Demonstrations.from_csv(path, SPEC)[1].observations.tolist() == [[3, 4]]
    np.savez(tmp_path / "team.npz", episode_00=FIRST, episode_01=SECOND)
    demos = Demonstrations.from_npz(tmp_path / "team.npz", SPEC)
    assert demos[0].offsets.tolist() == [0, 3, 4]
    write_csv(path, "0,0,0,1,2", "0,0,1,3,4", header=header.replace("obs_00", "obs_1"))
    parts = ("'obs_1' and 'obs_01' have the same number", "give each its own")
    refuses(lambda: Demonstrations.from_csv(path, SPEC), *parts)


def test_tables_with_unlike_columns(tmp_path):
    header = "episode,step,agent,obs_0,obs_1"
    one = write_csv(tmp_path / "a.csv", "0,0,0,1,2", "0,0,1,3,4", header=header)
    two = write_csv(tmp_path / "b.csv", "1,0,0,1,2,1", "1,0,1,3,4,1", header=f"{header},alive")
    read, remedy = Demonstrations.from_csv, "give all files of a table the same columns"
    parts = (f"{two}: there is a column 'alive', which a.csv does not have", remedy)
    refuses(lambda: read([one, two], SPEC), *parts)
    parts = (f"{one}: there is no column 'alive', which b.csv has", remedy)
    refuses(lambda: read([two, one], SPEC), *parts)
    write_csv(two, "1,0,0,1,2", "1,0,1,3,4", header="episode,step,agent,obs_1,obs_2")
    refuses(lambda: read([one, two], SPEC), f"{two}: there is no column 'obs_0', which a.csv has")


def test_the_line_by_which_excel_says_what_separates(tmp_path):
    path = write_csv(tmp_path / "film.csv", HEADER, *ROWS, header="sep=,")
    assert_recorded(Demonstrations.from_csv(path, SPEC))
    write_csv(path, HEADER, *edited(2, 3, "left"), header="sep=,")
    refuses(lambda: Demonstrations.from_csv(path, SPEC), "row 5: column 'obs_0' = 'left'")


def test_columns_that_nobody_reads_are_said(tmp_path):
    path = write_csv(tmp_path / "film.csv", *(f"{row},x" for row in ROWS), header=f"{HEADER},note")
    with pytest.warns(UserWarning, match="columns that are not read: 'note'"):
        assert_recorded(Demonstrations.from_csv(path, SPEC))


def as_table(**changes: Any) -> Any:
    """The rows as a table of pyarrow's, with some columns changed."""
    pyarrow = pytest.importorskip("pyarrow")
    cells = [[float(c) if c else None for c in row.split(",")] for row in ROWS]
    columns = dict(zip(HEADER.split(","), map(list, zip(*cells, strict=True)), strict=True))
    return pyarrow.table(columns | changes)


def test_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "film.parquet"
    parquet.write_table(
        as_table(won=[True] * 5 + [False] * 2, agent=list("abababa"[:5] + "ab")), path
    )
    assert_recorded(Demonstrations.from_parquet(path, SPEC))
    imported = Demonstrations.from_parquet(path, SPEC).provenance["imported"]
    assert imported["format"] == "parquet"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            {"obs_1": [1.0, 3.0, float("nan"), 0, 1, 1, -5]},
            ["row 2: column 'obs_1' = nan: must be a finite number", "or make it null"],
        ),
        ({"obs_0": list("abcdefg")}, ["column 'obs_0' is of type string", "convert it"]),
        ({"agent": [0, None, 0, 1, 0, 0, 1]}, ["row 1: column 'agent' is empty"]),
        ({"action": [0, 1, 2, None, 9, 1, 2]}, ["row 4: column 'action' = 9: must be a whole"]),
        ({"agent": ["0", "", "0", "1", "0", "0", "1"]}, ["row 1: column 'agent' is empty"]),
        (
            {"agent": ["01", "1", "01", "1", "01", "0", "1"]},
            ["column 'agent' holds 3 agents ('0', '01', '1')"],
        ),
    ],
)
def test_parquet_that_is_malformed(tmp_path, changes, parts):
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(as_table(**changes), tmp_path / "film.parquet")
    path = tmp_path / "film.parquet"
    refuses(lambda: Demonstrations.from_parquet(path, SPEC), str(path), *parts)


def test_parquet_with_unusual_columns(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "film.parquet"
    parquet.write_table(as_table(won=pyarrow.nulls(7)), path)
    assert_recorded(Demonstrations.from_parquet(path, SPEC), "actions legal returns")
    buffers = pyarrow.array([b"\xe9", *[b"b"] * 6]).buffers()[1:]
    parquet.write_table(as_table(agent=pyarrow.StringArray.from_buffers(7, *buffers)), path)
    refuses(lambda: Demonstrations.from_parquet(path, SPEC), "'agent' holds text that is not UTF-8")
    lists = as_table(obs=[[1.0, 2.0]] * 7).drop_columns(["obs_0", "obs_1"])
    parquet.write_table(lists, path)
    parts = ("there is no column 'obs_*'", "column 'obs' holds lists: make a column of each number")
    refuses(lambda: Demonstrations.from_parquet(path, SPEC), *parts)
    mapped = {"obs": "obs"}
    refuses(lambda: Demonstrations.from_parquet(path, SPEC, mapping=mapped), "are 1, but", parts[1])


def test_parquet_that_is_none(tmp_path):
    pytest.importorskip("pyarrow")
    path = write_csv(tmp_path / "film.parquet", *ROWS)
    refuses(lambda: Demonstrations.from_parquet(path, SPEC), "cannot be read as Parquet")


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    path = write_csv(tmp_path / "film.parquet", *ROWS)
    refuses(lambda: Demonstrations.from_parquet(path, SPEC), "pip install 'dm2[parquet]'")


# --- malformed recordings ---------------------------------------------------------------------

DEAD = [row.replace("1,4,-5,1", "1,4,-5,0").replace("1,2,3,1,", "1,2,3,0,") for row in ROWS]

CSV_PROBLEMS: dict[str, tuple[Sequence[str], str, list[str]]] = {
    "word for a number": (
        edited(2, 3, "left"),
        HEADER,
        ["row 4: column 'obs_0' = 'left': must be a finite number", "correct the cell"],
    ),
    "nan": (
        edited(2, 4, "nan"),
        HEADER,
        ["row 4: column 'obs_1' = 'nan': must be a finite number", "correct the cell"],
    ),
    "infinite": (edited(0, 3, "-inf"), HEADER, ["row 2: column 'obs_0' = '-inf'", "finite"]),
    "beyond float32": (edited(0, 3, "1e39"), HEADER, ["row 2: column 'obs_0' = 1e+39", "finite"]),
    "empty though alive": (
        edited(4, 4, ""),
        HEADER,
        ["row 6: column 'obs_1' is empty", "set alive to 0 if the agent was dead"],
    ),
    "alive of two": (
        edited(1, 5, "2"),
        HEADER,
        ["row 3: column 'alive' = 2: must be 0 or 1, or false or true"],
    ),
    "alive as a word": (
        edited(1, 5, "yes"),
        HEADER,
        ["row 3: column 'alive' = 'yes': must be 0 or 1, or false or true", "correct the cell"],
    ),
    "alive is empty": (edited(1, 5, ""), HEADER, ["row 3: column 'alive' is empty", "fill it in"]),
    "no such action": (
        edited(6, 6, "3"),
        HEADER,
        ["row 8: column 'action' = 3: must be a whole number from 0 to 2", "toy/pair numbers"],
    ),
    "negative action": (edited(0, 6, "-1"), HEADER, ["row 2: column 'action' = -1", "0 to 2"]),
    "number as Python writes it": (edited(0, 3, "1_0"), HEADER, ["row 2: column 'obs_0' = '1_0'"]),
    "half an action": (edited(0, 6, "0.5"), HEADER, ["row 2: column 'action' = 0.5", "whole"]),
    "illegal action": (
        edited(5, 6, "0"),
        HEADER,
        ["row 7: column 'action' = 0: must be legal", "correct the action, or what is legal"],
    ),
    "nothing legal": (
        ["0,0,0,1,1,1,0,0,0,0,2,1", *ROWS[1:]],
        HEADER,
        ["row 2: columns 'legal_0' to 'legal_2' = 0: must have a legal action", "to 1"],
    ),
    "legal of two": (edited(0, 9, "2"), HEADER, ["row 2: column 'legal_2' = 2: must be 0 or 1"]),
    "returns that differ": (
        edited(2, 10, "3"),
        HEADER,
        ["row 4: column 'return' = 3, but 2 in row 2", "whole of episode 0", "correct one"],
    ),
    "infinite return": (
        [row.replace("-0.5,0", "1e39,0") for row in ROWS],
        HEADER,
        ["episode 1: column 'return' = 1e+39: must be a finite number", "undiscounted return"],
    ),
    "wins that differ": (edited(6, 11, "1"), HEADER, ["row 8: column 'won' = 1, but 0 in row 7"]),
    "won of two": (
        [re.sub(",0$", ",2", row) for row in ROWS],
        HEADER,
        ["episode 1: column 'won' = 2: must be 0 or 1"],
    ),
    "won in one episode alone": (
        [re.sub(",0$", ",", row) for row in ROWS],
        HEADER,
        ["episode 1 has no won, but others have", "give it for every episode, or for none"],
    ),
    "row twice": (
        [*ROWS, ROWS[0]],
        HEADER,
        ["row 2 and row 9: both are episode 0, step 0, agent 0", "keep one of them"],
    ),
    "step missing": (
        [ROWS[0], ROWS[1], *ROWS[3:]],
        HEADER,
        ["episode 0, step 1, agent 0: the row is missing, though later ones", "end the episode"],
    ),
    "first step missing": (
        ROWS[2:4] + ROWS[4:],
        HEADER,
        ["episode 0, step 0, agent 0: the row is missing", "add it"],
    ),
    "agent missing in an episode": (
        ROWS[:6],
        HEADER,
        ["episode 1 has no row of agent 1", "with alive = 0 if it was dead throughout"],
    ),
    "third agent": (
        [*ROWS, "1,0,2,4,-5,1,2,1,0,1,-0.5,0"],
        HEADER,
        ["column 'agent' holds 3 agents (0, 1, 2)", "toy/pair has 2", "another environment"],
    ),
    "one agent": (
        [row for row in ROWS if row.split(",")[2] == "0"],
        HEADER,
        ["column 'agent' holds 1 agents (0)", "give the rows of every agent"],
    ),
    "agent without a name": (edited(3, 2, " "), HEADER, ["row 5: column 'agent' is empty"]),
    "half a step": (edited(2, 1, "1.5"), HEADER, ["row 4: column 'step' = 1.5: must be a whole"]),
    "step without a number": (edited(2, 1, ""), HEADER, ["row 4: column 'step' is empty"]),
    "steps from 2": (
        ["0,2,0,1,1,1,0,1,1,1,2,1", "0,2,1,1,1,1,0,1,1,1,2,1"],
        HEADER,
        ["row 2: column 'step' = 2, the lowest step of all: must be 0 or 1", "from 0"],
    ),
    "beyond the limit": (
        edited(4, 1, "4"),
        HEADER,
        ["row 6: column 'step' = 4", "toy/pair has at most 4 steps", "cut the episode", "?limit="],
    ),
    "never alive": (
        DEAD,
        HEADER,
        ["column 'alive' = 0 at every step of agent 1", "record episodes in which it is alive"],
    ),
    "cell missing": (
        [*ROWS[:3], "0,1,1,0,0", *ROWS[4:]],
        HEADER,
        ["row 5 has 5 cells, but the header has 12", "give every row a cell for each column"],
    ),
    "column missing": (
        list(ROWS),
        HEADER.replace("episode", "epsiode"),
        ["there is no column 'episode'; did you mean 'epsiode'?", "`--map episode=COLUMN`"],
    ),
    "feature missing": (
        list(ROWS),
        HEADER.replace("obs_1", "obs_2"),
        ["'obs_1' is missing, 'obs_2' is there; number them without a gap"],
    ),
    "feature too many": (
        list(ROWS),
        HEADER.replace("return", "obs_2"),
        ["columns 'obs_0' to 'obs_2' are 3, but toy/pair has 2 features", "another environment"],
    ),
    "legal action too few": (
        list(ROWS),
        HEADER.replace("legal_2", "return2"),
        ["columns 'legal_0' to 'legal_1' are 2, but toy/pair has 3 actions"],
    ),
    "column twice": (
        list(ROWS),
        HEADER.replace("won", "return"),
        ["column 'return' is there twice; give every column its own name"],
    ),
    "no rows": ([], HEADER, ["the table has no rows; give one for each step and agent"]),
    "semicolons": (
        [row.replace(",", ";") for row in ROWS],
        HEADER.replace(",", ";"),
        ["the header is 'episode;step;agent", "separated by commas"],
    ),
    "quote without an end in a row before": (
        edited(2, 3, '"4'),
        HEADER,
        ["row 4: unexpected end of data; close the quotation mark that opens in it, or save"],
    ),
    "quote without an end": (edited(6, 3, '"4'), HEADER, ["row 8: unexpected end of data"]),
}


@pytest.mark.parametrize(("rows", "header", "parts"), CSV_PROBLEMS.values(), ids=CSV_PROBLEMS)
def test_a_malformed_table(tmp_path, rows, header, parts):
    path = write_csv(tmp_path / "film.csv", *rows, header=header)
    refuses(lambda: Demonstrations.from_csv(path, SPEC), f"{path}: ", *parts)


LETTERS = "clip,frame,who,x,y,alive"
NAMED = ("a,1,north,1,2,1", "a,1,south,1,2,1", "a,2,north,1,2,1", "a,2,south,1,2,1")
NAMES = {"episode": "clip", "step": "frame", "agent": "who", "obs": "x,y"}


@pytest.mark.parametrize(
    ("rows", "changes", "parts"),
    [
        (NAMED[1:], {}, ["episode 'a', step 1, agent 'north': the row is missing"]),
        ([*NAMED, NAMED[3]], {}, ["row 5 and row 6: both are episode 'a', step 2, agent 'south'"]),
        (
            ["a,1,north,1,2,0", *NAMED[1:]],
            {},
            ["row 4: column 'alive' = 1, though agent 'north' was dead before; set alive to 1"],
        ),
        (
            [row.replace("north,1,2,1", "north,1,2,0") for row in NAMED],
            {"agents": "south,north"},
            ["column 'alive' = 0 at every step of agent 'north': it has nothing to show"],
        ),
        (
            [*NAMED[:3], "a,2,south,1,-7e4,1"],
            {"agents": "south,north"},
            ["row 5: column 'y' = -70000: must be within ±65504, the range of float16; use dtype"],
        ),
        (
            [*NAMED, *(row.replace("a,", "b,")[:-1] + "0" for row in NAMED)],
            {},
            ["episode 'b': nobody is alive at any step of it; leave the episode out"],
        ),
    ],
)
def test_a_message_about_a_table_has_its_own_names(tmp_path, rows, changes, parts):
    path = write_csv(tmp_path / "film.csv", *rows, header=LETTERS)
    options: Any = {"mapping": NAMES | changes, "dtype": "float16"}
    refuses(lambda: Demonstrations.from_csv(path, SPEC, **options), f"{path}: ", *parts)


def test_what_a_dead_agent_observed_may_be_beyond_float16(tmp_path):
    given = whole()
    given["observations"][0, 2, 1] = (1e30, 3)
    np.savez(tmp_path / "team.npz", **given)
    demos = Demonstrations.from_npz(tmp_path / "team.npz", SPEC, dtype="float16")
    assert_recorded(demos)
    assert demos[1].observations[2].tolist() == [0, 3]
    assert demos.provenance["rounding_error"] == 0
    exact = Demonstrations.from_npz(tmp_path / "team.npz", SPEC, dtype="float32")
    assert exact[1].observations[2, 0] == np.float32(1e30)
    given["observations"][0, 2, 0, 1] = 7e4  # the other agent is alive
    np.savez(tmp_path / "team.npz", **given)
    parts = ("episode 0, step 2, agent 0: observations[1] = 70000: must be within ±65504",)
    refuses(lambda: Demonstrations.from_npz(tmp_path / "team.npz", SPEC, dtype="float16"), *parts)


def test_what_concerns_whole_episodes_is_gathered_in_any_order_of_rows(tmp_path, monkeypatch):
    header = "episode,step,agent,obs_0,obs_1,return"
    rows = [
        f"{e},{t},{k},0,0,{e if t == e % 2 else ''}"
        for t in (0, 1)
        for e in (2, 0, 1)
        for k in (1, 0)
    ]
    path = write_csv(tmp_path / "film.csv", *rows, header=header)
    demos = Demonstrations.from_csv(path, SPEC)
    np.testing.assert_array_equal(demos[0].returns, [0, 1, 2])
    looked_at, once = [], table._once
    monkeypatch.setattr(table, "_once", lambda *a: (looked_at.append(len(a[2])), once(*a))[1])
    Demonstrations.from_csv(path, SPEC)
    assert sum(looked_at) == len(rows)  # and not all rows for every episode, which takes minutes
    write_csv(path, *rows[:-1], rows[-1][:-1] + "5", header=header)
    parts = ("row 13: column 'return' = 5, but 1 in row 12; it concerns the whole of episode 1",)
    refuses(lambda: Demonstrations.from_csv(path, SPEC), *parts)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["the file is empty", "write a row of column names"]),
        (
            "episode,step,agent\n0,0,0\n".encode("utf-16-le"),
            ["the header holds letters of number 0", "as CSV in UTF-8"],
        ),
        (b"episode,step\xff,agent\n", ["byte 12 is not UTF-8", "save the table as CSV in UTF-8"]),
        (b"episode,step,agent,obs_0,obs_1\n0,0,0,\x000,1\n", ["row 2", "'\\x000'"]),
    ],
)
def test_a_file_that_is_no_csv(tmp_path, content, parts):
    (tmp_path / "film.csv").write_bytes(content)
    refuses(lambda: Demonstrations.from_csv(tmp_path / "film.csv", SPEC), "film.csv: ", *parts)


@pytest.mark.parametrize(
    ("mapping", "parts"),
    [
        ({"action": "acton"}, ["no column 'acton'; did you mean 'action'?", "`--map action="]),
        ({"obs": "obs_0,obs_7"}, ["there is no column 'obs_7'", "`--map obs=COLUMN`"]),
        ({"obs": "feature_*"}, ["there is no column 'feature_*'"]),
        ({"observation": "x"}, ["map = 'observation=x': there is no name 'observation'", "known:"]),
        ({"agents": "0"}, ["column 'agent' = '1': is not among the agents of the map, 0"]),
        ({"agents": "0,1,1"}, ["map = 'agents=0,1,1': '1' is there twice; name each once"]),
        ({"obs": "obs_0, obs_0"}, ["map = 'obs=obs_0,obs_0': 'obs_0' is there twice"]),
        (
            {"agents": "1,0,7"},
            ["map = 'agents=1,0,7': names 3 agents, but toy/pair has 2; name each of its agents"],
        ),
    ],
)
def test_a_mapping_that_does_not_fit(tmp_path, mapping, parts):
    path = write_csv(tmp_path / "film.csv", *ROWS)
    refuses(lambda: Demonstrations.from_csv(path, SPEC, mapping=mapping), *parts)


def nan_at(index: tuple[int, ...]) -> np.ndarray:
    changed = padded([FIRST, SECOND])
    changed[index] = np.nan
    return changed


def with_action(value: float) -> np.ndarray:
    changed = padded(ACTIONS).astype(float)
    changed[0, 1, 0] = value
    return changed


ARRAY_PROBLEMS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "nan": (
        {"observations": nan_at((0, 2, 1, 0))},
        ["episode 0, step 2, agent 1: observations[0] = nan: must be a finite number"],
    ),
    "axis of agents missing": (
        {"observations": np.zeros((2, 3, 2), np.float32)},
        ["episode 0: observations has shape (3, 2), must be [steps, 2 agents, 2 features]"],
    ),
    "another number of agents": (
        {"observations": np.zeros((2, 3, 5, 2))},
        ["shape (3, 5, 2), must be [3 steps, 2 agents, 2 features]", "environment than toy/pair"],
    ),
    "steps that differ": (
        {"alive": np.ones((2, 2, 2))},
        ["episode 0: alive has shape (2, 2), must be [3 steps, 2 agents]", "save it with"],
    ),
    "episodes that differ": (
        {"won": np.ones(3)},
        ["won has 3 episodes, but observations have 2", "give it for every episode"],
    ),
    "won without an axis": ({"won": np.array(1)}, ["won has shape ()", "for each episode"]),
    "returns of each step": (
        {"returns": np.ones((2, 3))},
        ["episode 0: returns has shape (3,), must be []"],
    ),
    "text": (
        {"actions": padded(ACTIONS).astype(str)},
        ["episode 0: actions is of type <U21, must be of numbers", "`.astype(float)`"],
    ),
    "no such action": (
        {"actions": with_action(3)},
        ["episode 0, step 1, agent 0: actions = 3: must be a whole number from 0 to 2"],
    ),
    "nan where dead": (
        {"observations": nan_at((0, 1, 1, 0))},
        ["step 1, agent 1: observations[0] = nan: must be a finite number", "any finite number"],
    ),
    "beyond float32": (
        {"observations": whole()["observations"].astype(float) * 1e39},
        ["observations[0] = 5e+38: must be a finite number within ±3.4e38, the range of float32"],
    ),
    "what nan is as an integer": (
        {"actions": np.full((2, 3, 2), -(2**63))},
        ["step 0, agent 0: actions = -9223372036854775808: must be a whole number from 0 to 2"],
    ),
    "alive again": (
        {"alive": padded([np.array([[1, 1], [1, 0], [1, 1]]), ALIVE[1]])},
        ["episode 0, step 2, agent 1: alive = 1, though agent 1 was dead before; set alive to 1"],
    ),
    "nan for an action": ({"actions": with_action(np.nan)}, ["agent 0: actions = nan: must be"]),
    "alive of two": (
        {"alive": padded(ALIVE) * 2},
        ["episode 0, step 0, agent 0: alive = 2: must be 0 or 1"],
    ),
    "length of none": ({"lengths": np.array([3, 0])}, ["episode 1: lengths = 0", "from 1 to 3"]),
    "length beyond": ({"lengths": np.array([4, 1])}, ["episode 0: lengths = 4", "from 1 to 3"]),
    "half a length": ({"lengths": np.array([1.5, 1])}, ["episode 0: lengths = 1.5", "whole"]),
    "nothing": ({"observations": None}, ["there is no key 'observations'", "--map observations="]),
    "no episode": (
        {name: array[:0] for name, array in whole().items()},
        ["the recording holds no episode; record one"],
    ),
    "longer than the limit": (
        {"observations": np.zeros((2, 9, 2, 2)), "lengths": None, "alive": None}
        | dict.fromkeys(("actions", "legal")),
        ["episode 0 has 9 steps, but those of toy/pair have at most 4", "toy/pair?limit=9"],
    ),
}


@pytest.mark.parametrize(("changes", "parts"), ARRAY_PROBLEMS.values(), ids=ARRAY_PROBLEMS)
def test_malformed_arrays(tmp_path, changes, parts):
    np.savez(tmp_path / "team.npz", **whole(**changes))
    path = tmp_path / "team.npz"
    with np.errstate(all="raise"):
        refuses(lambda: Demonstrations.from_npz(path, SPEC), f"{path}: ", *parts)


class Bomb:
    """Makes a folder where it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.target,)


def test_objects_in_arrays_are_refused_and_not_run(tmp_path):
    bomb = np.empty(1, object)
    bomb[0] = Bomb(tmp_path / "ran")
    np.savez(tmp_path / "team.npz", observations=bomb)
    np.save(tmp_path / "team.npy", bomb)
    for name in ("team.npz", "team.npy"):
        parts = ("Python objects", "not read", "episode_0=", "format `authors`")
        refuses(lambda name=name: Demonstrations.from_npz(tmp_path / name, SPEC), name, *parts)
    assert not (tmp_path / "ran").exists()


def test_damaged_and_foreign_files_of_arrays(tmp_path):
    path = tmp_path / "team.npz"
    np.savez(path, **whole())
    data = path.read_bytes()
    for cut in (5, 100, len(data) // 2, len(data) - 30):
        path.write_bytes(data[:cut])
        refuses(lambda: Demonstrations.from_npz(path, SPEC), f"{path}: ", "damaged: save it again")
    path.write_text("episode,step\n")
    refuses(lambda: Demonstrations.from_npz(path, SPEC), "not a file of NumPy's", "numpy.savez")
    refuses(lambda: Demonstrations.from_npz(tmp_path, SPEC), "is no file")
    refuses(lambda: Demonstrations.from_npz(tmp_path / "no", SPEC), "no: no such file")
    refuses(lambda: Demonstrations.from_npz([], SPEC), "files: there are none")


def test_a_header_that_declares_too_much_is_refused(tmp_path):
    path = tmp_path / "team.npy"
    np.save(path, np.zeros((2, 3, 2, 2)))
    path.write_bytes(path.read_bytes().replace(b"(2, 3, 2, 2)", b"(2, 3, 9**9)"))
    refuses(lambda: Demonstrations.from_npz(path, SPEC), f"{path}: ", "cannot be read")
    path.write_bytes(path.read_bytes().replace(b"9**9", b"9" * 4))
    refuses(lambda: Demonstrations.from_npz(path, SPEC), f"{path}: ", "cannot be read")


def test_files_of_agents_that_do_not_fit_together(tmp_path):
    paths = [tmp_path / "0.npz", tmp_path / "1.npz"]
    arrays = {n: a[:, :, 0] if a.ndim > 2 else a for n, a in whole().items()}
    np.savez(paths[0], **arrays)

    def second(**changes: Any) -> Any:
        np.savez(paths[1], **{n: a for n, a in (arrays | changes).items() if a is not None})
        return lambda: Demonstrations.from_npz(paths, SPEC, each="agent")

    refuses(second(won=None), "episode 0: agent 1 has no won, others have", "for none")
    refuses(second(won=[0, 0]), "episode 0: won = False for agent 1, True for agent 0", "team's")
    fewer = {name: array[:1] for name, array in arrays.items()}
    refuses(second(**fewer), "1.npz: has 1 episodes, but", "same episodes")
    one = paths[:1]
    few = "files: 1 were given, but toy/pair has 2 agents"
    refuses(lambda: Demonstrations.from_npz(one, SPEC, each="agent"), few, "one file for each")


def test_arguments_that_do_not_fit(tmp_path):
    path: Any = write_csv(tmp_path / "film.csv", *ROWS)
    refuses(lambda: Demonstrations.from_npz(path, SPEC, each="step"), "each = 'step'")  # pyright: ignore[reportArgumentType]
    refuses(lambda: Demonstrations.from_csv(path, SPEC, dtype="float64"), "dtype = 'float64'")  # pyright: ignore[reportArgumentType]
    refuses(lambda: Demonstrations.from_arrays({"obs": [FIRST]}, SPEC), "no field 'obs'; known")
    refuses(lambda: Demonstrations.from_arrays({"won": WON}, SPEC), "observations are missing")
    cases: list[tuple[Any, str]] = [
        ({"observations": 3}, "observations has shape (), must have an entry for each episode"),
        ({"observations": [np.zeros((0, 2, 2))]}, "episode 0: observations have no step"),
        ({"observations": [[[[1, 2], [3]]]]}, "episode 0: observations is a list of unlike lists"),
        ({"observations": [FIRST], "lengths": [np.nan]}, "episode 0: lengths = nan"),
        ({"observations": np.ma.masked_less(FIRST[None], 0)}, "observations holds masked values"),
        ({"observations": [np.ma.masked_less(FIRST, 0)]}, "observations holds masked values"),
        (FIRST[None], "arrays: are of type ndarray, must be a dictionary"),
        ([FIRST], "arrays: are of type list, must be a dictionary"),
    ]
    for given, part in cases:
        refuses(lambda given=given: Demonstrations.from_arrays(given, SPEC), part)


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda path: Demonstrations.from_csv(None, SPEC), "files = None: must be a path"),  # pyright: ignore[reportArgumentType]
        (lambda path: Demonstrations.from_minari(5, SPEC), "files = 5: must be a path"),  # pyright: ignore[reportArgumentType]
        (lambda path: Demonstrations.from_csv(path, None), "env = None: must be an environment"),
        (lambda path: Demonstrations.from_csv(path, {}), "env = {}: must be an environment"),
        (
            lambda path: Demonstrations.from_csv(path, SPEC, mapping="obs=x"),  # pyright: ignore[reportArgumentType]
            "mapping = 'obs=x': must be a dictionary of names",
        ),
        (
            lambda path: Demonstrations.from_csv(path, SPEC, mapping={"obs": 3}),  # pyright: ignore[reportArgumentType]
            "mapping = {'obs': 3}: must be a dictionary of names",
        ),
        (
            lambda path: Demonstrations.from_csv(path, SPEC, mapping={"action": ["a", "b"]}),
            "map = 'action=['a', 'b']': must be one name, not a list",
        ),
        (
            lambda path: Demonstrations.from_csv(path, SPEC, provenance="scripted"),  # pyright: ignore[reportArgumentType]
            "provenance = 'scripted': must be a dictionary",
        ),
    ],
)
def test_arguments_of_wrong_types(tmp_path, call, part):
    path = write_csv(tmp_path / "film.csv", *ROWS)
    refuses(lambda: call(path), part)


# --- the authors' files -----------------------------------------------------------------------


class Named:
    """Stands for something of torch's in a pickle: a class or function, by its name."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Raw:
    """Stands for instructions that are written into a pickle as they are."""

    def __init__(self, data: bytes) -> None:
        self.data = data


PythonPickler: Any = pickle._Pickler  # to which instructions can be added


class TorchPickler(PythonPickler):
    """Writes what torch would, without torch."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Named):
            self.write(f"c{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Raw):
            self.write(obj.data)
        elif isinstance(obj, Call):
            module, _, name = obj.name.rpartition(".")
            self.save(Named(module, name))
            self.save(obj.args)
            self.write(pickle.REDUCE)
        else:
            super().save(obj, save_persistent_id)

    def persistent_id(self, obj: Any) -> Any:
        return ("storage", *obj["storage"]) if isinstance(obj, dict) and "storage" in obj else None


def dumps(value: Any, protocol: int = 2) -> bytes:
    stream = io.BytesIO()
    TorchPickler(stream, protocol).dump(value)
    return stream.getvalue()


def storage(numbers: np.ndarray, kind: str = "FloatStorage", module: str = "torch") -> bytes:
    """What `torch.save(storage, _use_new_zipfile_serialization=False)` writes."""
    reference = {"storage": (Named(module, kind), "94", "cuda:0", numbers.size, None)}
    info = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2}}
    pickles = (0x1950A86A20F9469CFC6C, 1001, info, reference, ["94"])
    return b"".join(map(dumps, pickles)) + struct.pack("<q", numbers.size) + numbers.tobytes()


def tensor(
    array: np.ndarray, kind: str, stride: Any = None, offset: int = 0, module="torch"
) -> Call:
    steps = tuple(n // array.itemsize for n in array.strides) if stride is None else stride
    stored = Call("torch.storage._load_from_bytes", (storage(array, kind, module),))
    hooks = Call("collections.OrderedDict", ())
    return Call(
        "torch._utils._rebuild_tensor_v2", (stored, offset, array.shape, steps, False, hooks)
    )


def write_authors(path: Path, values: list[Any], shape: tuple[int, ...] | None = None) -> Path:
    """An `.npz` as `numpy.savez` writes it of an object array."""
    shape = (len(values),) if shape is None else shape
    state = (1, shape, Call("numpy.dtype", ("O8", False, True)), False, values)
    array = Call(
        "numpy.core.multiarray._reconstruct", (Named("numpy", "ndarray"), (0,), b"b"), None
    )
    stream = io.BytesIO()
    pickler = TorchPickler(stream, 4)
    pickler.write(pickle.PROTO + b"\x04")
    pickler.save(array)
    pickler.save(state)
    pickler.write(pickle.BUILD + pickle.STOP)
    return write_pickle(path, stream.getvalue(), shape)


def write_pickle(path: Path, data: bytes, shape: tuple[int, ...]) -> Path:
    header = repr({"descr": "|O", "fortran_order": False, "shape": shape})
    header = header.ljust(118) + "\n"
    with zipfile.ZipFile(path, "w") as archive:
        start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header))
        archive.writestr("arr_0.npy", start + header.encode() + data)
    return path


def episode(obs: np.ndarray, actions: np.ndarray, module: str = "torch") -> dict[str, Any]:
    return {
        "obs": tensor(obs.astype(np.float32)[None], "FloatStorage", module=module),
        "actions": tensor(actions.astype(np.int64)[None, :, None], "LongStorage", module=module),
    }


def authors_team(folder: Path) -> Path:
    """The two episodes in arrays of 5 steps, with an observation after the last step of each."""
    for k in range(2):
        values = []
        for obs, actions in zip((FIRST, SECOND), ACTIONS, strict=True):
            padded_obs, padded_actions = np.zeros((5, 2)), np.zeros(5)
            padded_obs[: len(obs)], padded_actions[: len(obs)] = obs[:, k], actions[:, k]
            # In the first episode agent 1 is dead by then, in the second it is alive.
            padded_obs[len(obs)] = 9 if k == 0 or len(obs) == 1 else 0
            module = "torch.cuda" if k else "torch"
            values.append(episode(padded_obs, padded_actions, module))
        write_authors(folder / f"agent_{k}.npz", values)
    return folder


def test_the_stand_ins_write_what_numpy_writes(tmp_path):
    """Apart from torch's names, the file is one that numpy itself reads."""
    path = write_authors(tmp_path / "x.npz", [{"a": 1}, {"b": [1.5, "c"]}])
    with np.load(path, allow_pickle=True) as loaded:
        assert loaded["arr_0"].tolist() == [{"a": 1}, {"b": [1.5, "c"]}]
    array = np.empty(2, object)
    array[:] = [{"a": 1}, {"b": [1.5, "c"]}]
    np.savez(tmp_path / "y.npz", array)
    names = ["numpy.ndarray", "numpy.dtype"]
    names += [f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")]
    for file in ("x.npz", "y.npz"):
        with zipfile.ZipFile(tmp_path / file) as archive:
            data = archive.read("arr_0.npy")
        parsed = parse(io.BytesIO(data[data.index(b"\n") + 1 :]), names)
        assert parsed.state[4] == [{"a": 1}, {"b": [1.5, "c"]}]


def test_the_authors_files(tmp_path):
    demos = Demonstrations.from_authors(authors_team(tmp_path), SPEC)
    assert_recorded(demos, "actions")
    names = [file["name"] for file in demos.provenance["imported"]["files"]]
    assert names == ["agent_0.npz", "agent_1.npz"]
    files = [tmp_path / name for name in names]
    assert Demonstrations.from_authors(files, SPEC).sha256 == demos.sha256


def test_a_tensor_that_is_a_view(tmp_path):
    # Two episodes of one agent and the other in one storage: [time, episode, feature].
    numbers = np.arange(1, 21, dtype=np.float32).reshape(5, 2, 2)
    for k in range(2):
        values = []
        for e in range(2):
            stored = Call("torch.storage._load_from_bytes", (storage(numbers),))
            args = (stored, 2 * e, (1, 5, 2), (20, 4, 1), False, None)
            obs = Call("torch._utils._rebuild_tensor_v2", args)
            values.append(episode(np.ones((5, 2)), np.zeros(5)) | {"obs": obs})
        write_authors(tmp_path / f"agent_{k}.npz", values)
    demos = Demonstrations.from_authors(tmp_path, SPEC)
    np.testing.assert_array_equal(demos[0].observations[:4], numbers[:4, 0])
    np.testing.assert_array_equal(demos[0].observations[4:], numbers[:4, 1])


def test_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path):
    target = tmp_path / "ran"
    array = np.empty(1, object)
    array[0] = Bomb(target)
    path, other = tmp_path / "agent_0.npz", write_authors(tmp_path / "agent_1.npz", [])
    for protocol in (2, 3, 4, 5):
        write_pickle(path, pickle.dumps(array, protocol), (1,))
        refuses(lambda: Demonstrations.from_authors([path, other], SPEC), f"{path}: ", "names")
    for module, name in (("os", "system"), ("posix", "system"), ("builtins", "eval")):
        call = Call(f"{module}.{name}", (f"mkdir {target}",))
        write_authors(path, [episode(FIRST[:, 0], ACTIONS[0][:, 0]) | {"obs": call}])
        parts = (f"the pickle names {module}.{name}", "no part of an array", "nothing of it is")
        refuses(lambda: Demonstrations.from_authors([path, other], SPEC), f"{path}: ", *parts)
    # Within the storage, which is a row of pickles of its own.
    nested = dumps(Call("os.mkdir", (str(target),)))
    inner = Call("torch.storage._load_from_bytes", (nested,))
    args = (inner, 0, (1,), (1,), False, None)
    hidden = {"obs": Call("torch._utils._rebuild_tensor_v2", args), "actions": 0}
    write_authors(path, [hidden])
    refuses(lambda: Demonstrations.from_authors([path, other], SPEC), "the pickle names os.mkdir")
    # By instructions that name nothing, or take the name from elsewhere.
    for data, name in (
        (b"(X\x01\x00\x00\x00xios\nsystem\n.", "INST"),
        (b"\x82\x01.", "EXT1"),
        (b"cnumpy\nndarray\n)\x81.", "NEWOBJ"),
        (b"S'x'\n.", "STRING"),
    ):
        write_pickle(path, b"\x80\x02" + data, (1,))
        part = f"the pickle has the instruction {name}, which plain values do not need"
        refuses(lambda: Demonstrations.from_authors([path, other], SPEC), part)
    assert not target.exists()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"obs": tensor(np.ones((1, 4, 3), np.float32), "FloatStorage")}, ["shape (1, 4, 3)"]),
        ({"actions": tensor(np.ones((1, 9, 1), np.int64), "LongStorage")}, ["must be (1, 4, 1)"]),
        ({"obs": [1.0, 2.0]}, ["obs is no torch tensor"]),
        (
            {"obs": tensor(np.ones((1, 4, 2), np.float32), "FloatStorage", (8, 2, 1), 1)},
            ["size (1, 4, 2), stride (8, 2, 1) from 1, beyond its 8 numbers"],
        ),
        (
            {"obs": tensor(np.ones((1, 4, 2), np.float32), "FloatStorage", (8, -2, 1), 7)},
            ["stride (8, -2, 1) from 7, beyond"],
        ),
        (
            {"obs": tensor(np.ones((1, 4, 2), np.float32), "DoubleStorage")},
            ["32 bytes, not 8 numbers of torch.DoubleStorage"],
        ),
        ({"obs": tensor(np.ones((1, 4, 2), np.float32), "QInt8Storage")}, ["torch.QInt8Storage"]),
        (
            {"obs": tensor(np.full((1, 4, 2), np.nan, np.float32), "FloatStorage")},
            ["step 0: obs[0] = nan: must be a finite number"],
        ),
        (
            {"actions": tensor(np.full((1, 4, 1), 5), "LongStorage")},
            ["step 0: actions = 5: must be a whole number from 0 to 2"],
        ),
    ],
)
def test_authors_files_that_are_malformed(tmp_path, change, parts):
    sound = episode(np.ones((4, 2)), np.zeros(4))
    paths = [write_authors(tmp_path / f"agent_{k}.npz", [sound | change]) for k in range(2)]
    refuses(lambda: Demonstrations.from_authors(paths, SPEC), f"{paths[0]}: ", *parts)


def test_an_authors_episode_of_zeros_names_the_files(tmp_path):
    values = [episode(np.ones((5, 2)), np.zeros(5)), episode(np.zeros((5, 2)), np.zeros(5))]
    paths = [write_authors(tmp_path / f"agent_{k}.npz", values) for k in range(2)]
    part = f"{paths[0]}, {paths[1]}: episode 1: observations are zero throughout; leave the episode"
    refuses(lambda: Demonstrations.from_authors(paths, SPEC), part)


def resized(size: Any, stride: Any, count: Any = None, offset: Any = 0) -> Call:
    """A tensor of ten numbers that says something else of itself, such as of how many they are."""
    numbers = np.ones(10 if count is None else 0, np.float32)
    stored = storage(numbers)
    if count is not None:
        declared = {"storage": (Named("torch", "FloatStorage"), "94", "cuda:0", count, None)}
        pickles = (0x1950A86A20F9469CFC6C, 1001, {}, declared, ["94"])
        stored = b"".join(map(dumps, pickles))
    args = (Call("torch.storage._load_from_bytes", (stored,)), offset, size, stride, False, None)
    return Call("torch._utils._rebuild_tensor_v2", args)


@pytest.mark.parametrize(
    ("obs", "part"),
    [
        (resized((1, 5, 2), (10, 2, 1), count=-2), "a storage that is a view or none"),
        (resized((1, 5, 2), (10, 2, 1), count=2**70), "a storage that is a view or none"),
        (resized((0, 2**70), (1, 1)), "no size and stride of three axes"),
        (resized((0, 2**70, 1), (1, 1, 1)), "no size and stride of three axes"),
        (resized((0, 2**40, 2**40), (1, 1, 1)), "beyond its 10 numbers"),
        (resized((0,) * 100, (1,) * 100), "no size and stride of three axes"),
        (resized((1,) * 100, (1,) * 100), "no size and stride of three axes"),
        (resized((1, 1, 2), (0, 0, 2**70)), "no size and stride of three axes"),
        (resized((1, 1, 2), (0, 0, 2**62)), "beyond its 10 numbers"),
        (resized((1, 5, 2), (10, 2, 1), offset=10**5000), "no size and stride of three axes"),
        (resized((1, 5, "x"), (10, 2, 1)), "no size and stride of three axes"),
    ],
)
def test_authors_tensors_that_declare_what_cannot_be(tmp_path, obs, part):
    sound = episode(np.ones((5, 2)), np.zeros(5))
    paths = [write_authors(tmp_path / f"agent_{k}.npz", [sound | {"obs": obs}]) for k in range(2)]
    refuses(lambda: Demonstrations.from_authors(paths, SPEC), f"{paths[0]}: ", part, "damaged")


def test_the_stride_of_an_axis_of_one_entry_means_nothing(tmp_path):
    sound = episode(np.ones((5, 2)), np.zeros(5)) | {"obs": resized((1, 5, 2), (2**62, 2, 1))}
    for k in range(2):
        write_authors(tmp_path / f"agent_{k}.npz", [sound])
    assert Demonstrations.from_authors(tmp_path, SPEC)[0].observations.shape == (4, 2)


DEEP = b"N" + b"\x85" * 200_000
"""A tuple in a tuple and so on, so deep that no C function may follow it."""


@pytest.mark.parametrize("data", [b"}" + DEEP + b"Ns.", b"}(" + DEEP + b"Nu.", DEEP + b"N\x93."])
def test_a_deeply_nested_pickle_is_damaged(tmp_path, data):
    paths = [write_pickle(tmp_path / f"agent_{k}.npz", data, (1,)) for k in range(2)]
    call = f"import dm2; dm2.Demonstrations.from_authors({list(map(str, paths))}, 'smax/3m')"
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    said = f"dm2.errors.InputError: {paths[0]}: the pickle cannot be read (TypeError: "
    assert (done.returncode, last[: len(said)]) == (1, said)  # the process was not killed


@pytest.mark.parametrize("keyed", [False, True])
def test_deeply_nested_parts_of_a_tensor_are_damaged(tmp_path, keyed):
    obs = resized((1, Raw(DEEP), 2), (10, 2, 1))
    if keyed:
        declared = {"storage": (Named("torch", "FloatStorage"), Raw(DEEP), "cpu", 10, None)}
        pickles = (0x1950A86A20F9469CFC6C, 1001, {}, declared, [Raw(DEEP)])
        stored = Call(
            "torch.storage._load_from_bytes", (b"".join(map(dumps, pickles)) + bytes(48),)
        )
        args = (stored, 0, (1, 5, 2), (10, 2, 1), False, None)
        obs = Call("torch._utils._rebuild_tensor_v2", args)
    value = episode(np.ones((5, 2)), np.zeros(5)) | {"obs": obs}
    paths = [write_authors(tmp_path / f"agent_{k}.npz", [value]) for k in range(2)]
    refuses(lambda: Demonstrations.from_authors(paths, SPEC), f"{paths[0]}: ", "damaged")


def test_authors_files_that_are_damaged(tmp_path):
    path = authors_team(tmp_path) / "agent_0.npz"
    data = path.read_bytes()
    for cut in range(0, len(data), 97):
        path.write_bytes(data[:cut])
        refuses(lambda: Demonstrations.from_authors(tmp_path, SPEC), f"{path}: ", "damaged")
    with zipfile.ZipFile(tmp_path / "agent_1.npz") as archive:
        stored = archive.read("arr_0.npy")
    for cut in range(1, len(stored), 83):  # a pickle that ends too early in a sound archive
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("arr_0.npy", stored[:cut])
        refuses(lambda: Demonstrations.from_authors(tmp_path, SPEC), f"{path}: ", "damaged")
    np.savez(path, np.zeros(3))
    refuses(lambda: Demonstrations.from_authors(tmp_path, SPEC), "an array of <f8 (3,)", "`npz`")
    path.unlink()
    refuses(lambda: Demonstrations.from_authors(tmp_path, SPEC), "agent_0.npz: no such file")


# --- Minari -----------------------------------------------------------------------------------


@pytest.fixture
def minari(tmp_path, monkeypatch):
    module = pytest.importorskip("minari")
    pytest.importorskip("h5py")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return module


def test_minari_and_back(tmp_path, minari):
    told = {"method": "scripted", "policy": "greedy"}
    demos = Demonstrations.from_arrays(RAGGED, SPEC, provenance=told)
    names = demos.to_minari("toy/pair")
    assert names == ["toy/pair/agent_0-v0", "toy/pair/agent_1-v0"]
    for chosen in (names, "toy/pair", [tmp_path / "minari" / name for name in names]):
        again = Demonstrations.from_minari(chosen, SPEC)
        assert_recorded(again)
        assert_same_arrays(demos, again)
        assert again.provenance["policy"] == "greedy"
    # As Minari itself sees it.
    assert sorted(minari.list_local_datasets()) == names
    dataset = minari.load_dataset(names[1])
    first = dataset[0]
    np.testing.assert_array_equal(first.observations, [[2, 3], [0, 0], [0, 0], [0, 0]])
    assert first.actions.tolist() == [1, 0, 0]
    assert first.rewards.tolist() == [0, 0, 2]
    assert (first.terminations[-1], first.truncations[-1]) == (True, False)
    layout = dataset.storage.metadata["dm2"]
    assert (layout["agent"], layout["agents"], layout["datasets"]) == (1, 2, names)


def test_observations_alone_to_minari_and_back(minari):
    demos = Demonstrations.from_arrays({"observations": [FIRST, SECOND]}, SPEC)
    demos.to_minari("alone")
    assert_same_arrays(demos, Demonstrations.from_minari("alone", SPEC))


def test_minari_datasets_are_replaced_as_a_whole(tmp_path, minari, monkeypatch):
    demos = Demonstrations.from_arrays(RAGGED, SPEC)
    demos.to_minari("pair")
    refuses(lambda: demos.to_minari("pair"), "minari = 'pair': exists", "overwrite")
    refuses(lambda: demos.to_minari("a b"), "minari = 'a b': must be of two or more letters")
    refuses(lambda: demos.to_minari("../pair"), "more letters")
    shorter = Demonstrations.from_arrays({"observations": [SECOND]}, SPEC)
    monkeypatch.setattr("dm2.demos.exporting._episode", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        shorter.to_minari("pair", overwrite=True)
    monkeypatch.undo()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    assert [folder.name for folder in (tmp_path / "minari").iterdir()] == ["pair"]
    assert_same_arrays(demos, Demonstrations.from_minari("pair", SPEC))
    shorter.to_minari("pair", overwrite=True)
    assert_same_arrays(shorter, Demonstrations.from_minari("pair", SPEC))
    assert [folder.name for folder in (tmp_path / "minari").iterdir()] == ["pair"]


def test_other_minari_datasets_of_the_same_beginning_stay(tmp_path, minari):
    demos = Demonstrations.from_arrays(RAGGED, SPEC)
    demos.to_minari("toy/film")
    shorter = Demonstrations.from_arrays({"observations": [SECOND]}, SPEC)
    shorter.to_minari("toy")  # where nothing of these names is
    refuses(lambda: shorter.to_minari("toy"), "minari = 'toy': exists")
    shorter.to_minari("toy", overwrite=True)
    assert_same_arrays(demos, Demonstrations.from_minari("toy/film", SPEC))
    assert_same_arrays(shorter, Demonstrations.from_minari("toy", SPEC))
    for name in ("toy/agent_0-v0", "toy/agent_0-v0/more"):
        part = f"minari = '{name}': lies in a dataset; choose another name"
        refuses(lambda name=name: demos.to_minari(name, overwrite=True), part)
    refuses(lambda: demos.to_minari("h"), "minari = 'h': must be of two or more letters")


def test_minari_datasets_say_which_agent_they_are_of(minari):
    demos = Demonstrations.from_arrays(RAGGED, SPEC)
    names = demos.to_minari("toy/pair")
    assert_same_arrays(demos, Demonstrations.from_minari(names[::-1], SPEC))
    copied = root() / "copy-v0"
    shutil.copytree(root() / names[0], copied)
    twice = [names[0], copied]
    refuses(lambda: Demonstrations.from_minari(twice, SPEC), "both are the part of agent 0")
    parts = [demos.subset(agent=k).to_minari(f"toy/{name}")[0] for k, name in enumerate("ba")]
    for given in (parts, parts[::-1]):
        again = Demonstrations.from_minari(given, SPEC)
        assert_same_arrays(demos, again)
        assert "agent" not in again.provenance


def test_minari_datasets_outlive_a_failed_or_killed_exchange(tmp_path, minari, monkeypatch):
    demos = Demonstrations.from_arrays(RAGGED, SPEC)
    shorter = Demonstrations.from_arrays({"observations": [SECOND]}, SPEC)
    demos.to_minari("pair")
    target, rename = tmp_path / "minari" / "pair", Path.rename

    def full(self: Path, to: Path) -> Path:
        if self.name == "agent_1-v0" and self.parent.name == ".tmp-pair":
            raise OSError(28, "No space left on device")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        shorter.to_minari("pair", overwrite=True)
    monkeypatch.setattr(Path, "rename", rename)
    assert [folder.name for folder in target.parent.iterdir()] == ["pair"]
    assert_same_arrays(demos, Demonstrations.from_minari("pair", SPEC))
    # Killed before the second new dataset was there, the old ones wait under another name.
    target.rename(target.with_name(".tmp-old-pair"))
    (target / "agent_0-v0" / "data").mkdir(parents=True)
    refuses(lambda: shorter.to_minari("pair"), "minari = 'pair': exists")
    assert_same_arrays(demos, Demonstrations.from_minari("pair", SPEC))


def foreign(minari: Any, name: str, spaces: Any, episodes: list[Any]) -> str:
    """A dataset as somebody else makes it."""
    from minari.data_collector import EpisodeBuffer

    made = []
    for observations, actions, rewards in episodes:
        ended = [False] * (len(rewards) - 1) + [True]
        buffer = {"observations": observations, "actions": actions, "rewards": rewards}
        made.append(EpisodeBuffer(**buffer, terminations=ended, truncations=[False] * len(ended)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nobody is named as the author
        minari.create_dataset_from_buffers(
            name, made, observation_space=spaces[0], action_space=spaces[1]
        )
    return name


def one_more(observations: np.ndarray) -> np.ndarray:
    """With the observation after the last step, on which nobody acts."""
    return np.concatenate([observations, np.full_like(observations[:1], 9)])


def test_a_minari_dataset_of_a_team(minari):
    from gymnasium import spaces

    box, actions = spaces.Box(-9, 9, (2, 2), np.float32), spaces.MultiDiscrete([3, 3])
    data = [
        (one_more(FIRST), ACTIONS[0], [1.0, 0.0, 1.0]),
        (one_more(SECOND), ACTIONS[1], [-0.5]),
    ]
    name = foreign(minari, "team-v0", (box, actions), data)
    demos = Demonstrations.from_minari(name, SPEC)
    np.testing.assert_array_equal(demos[1].observations, [[2, 3], [0, 0], [0, 0], [4, -5]])
    np.testing.assert_array_equal(demos[0].actions, [0, 2, 1, 1])
    np.testing.assert_array_equal(demos[0].returns, [2, -0.5])
    np.testing.assert_array_equal(demos[1].alive, [1, 1, 1, 1])


def test_a_minari_dataset_whose_team_is_a_dictionary(minari):
    from gymnasium import spaces

    one = spaces.Box(-9, 9, (2,), np.float32)
    both = (
        spaces.Dict({"red": one, "blue": one}),
        spaces.Dict({"red": spaces.Discrete(3), "blue": spaces.Discrete(3)}),
    )
    data = [
        (
            {name: one_more(FIRST)[:, k] for k, name in enumerate(("red", "blue"))},
            {name: ACTIONS[0][:, k] for k, name in enumerate(("red", "blue"))},
            [1.0, 0.0, 1.0],
        )
    ]
    name = foreign(minari, "team-v0", both, data)
    mapping = {"agents": "red,blue"}
    demos = Demonstrations.from_minari(name, SPEC, mapping=mapping)
    np.testing.assert_array_equal(demos[0].observations, FIRST[:, 0])
    np.testing.assert_array_equal(demos[0].actions, [0, 2, 1])
    parts = ("there is no agent 'green' among", "correct the map")
    wrong = {"agents": "red,green"}
    refuses(lambda: Demonstrations.from_minari(name, SPEC, mapping=wrong), *parts)
    wrong = {"agents": ["red", "red"]}
    part = "map = 'agents=red,red': 'red' is there twice"
    refuses(lambda: Demonstrations.from_minari(name, SPEC, mapping=wrong), part)


def test_minari_actions_that_start_elsewhere(minari):
    from gymnasium import spaces

    box, one = spaces.Box(-9, 9, (2, 2), np.float32), spaces.Discrete(3, start=1)
    later = spaces.MultiDiscrete([3, 3], start=[1, 0])
    data = [(one_more(FIRST), ACTIONS[0] + [1, 0], [1.0, 0.0, 1.0])]
    demos = Demonstrations.from_minari(foreign(minari, "team-v0", (box, later), data), SPEC)
    np.testing.assert_array_equal(demos[0].actions, [0, 2, 1])
    np.testing.assert_array_equal(demos[1].actions, [1, 0, 0])
    both = spaces.Tuple((one, spaces.Discrete(3)))
    columns = tuple((ACTIONS[0] + [1, 0]).T)
    data = [(one_more(FIRST), columns, [1.0, 0.0, 1.0])]
    demos = Demonstrations.from_minari(foreign(minari, "two-v0", (box, both), data), SPEC)
    np.testing.assert_array_equal(demos[0].actions, [0, 2, 1])
    # An order of agents can be said only where they have names.
    part = "map = 'agents=1,0': observations are no dictionary of agents"
    order = {"agents": "1,0"}
    refuses(lambda: Demonstrations.from_minari("two-v0", SPEC, mapping=order), part, "leave it out")


@pytest.mark.parametrize("kind", ["dictionary", "tuple"])
def test_minari_observations_in_pieces(minari, kind):
    from gymnasium import spaces

    one = spaces.Box(-9, 9, (1,), np.float32)
    pieces = one_more(FIRST)
    team: Any = {k: {"x": pieces[:, i, :1], "y": pieces[:, i, 1:]} for i, k in enumerate("ab")}
    space: Any = spaces.Dict({k: spaces.Dict({"x": one, "y": one}) for k in "ab"})
    agent = "'a'"
    if kind == "tuple":
        team = tuple(tuple(of_agent.values()) for of_agent in team.values())
        space, agent = spaces.Tuple([spaces.Tuple([one, one])] * 2), "0"
    both = (space, spaces.MultiDiscrete([3, 3]))
    name = foreign(minari, "team-v0", both, [(team, ACTIONS[0], [1.0, 0.0, 1.0])])
    part = f"observations of agent {agent} are a {kind} of 2, must be one array"
    refuses(lambda: Demonstrations.from_minari(name, SPEC), "episode 0: ", part)


def test_minari_datasets_of_agents_by_others(minari):
    from gymnasium import spaces

    both = spaces.Box(-9, 9, (2,), np.float32), spaces.Discrete(3)
    data = [(one_more(FIRST[:, 0]), ACTIONS[0][:, 0], [1.0, 0.0, 1.0])]
    one = foreign(minari, "one-v0", both, data)
    # The other agent dies after its first step; its rewards are its own.
    data = [(one_more(FIRST[:1, 1]), ACTIONS[0][:1, 1], [5.0])]
    two = foreign(minari, "two-v0", both, data)
    demos = Demonstrations.from_minari([one, two], SPEC)
    np.testing.assert_array_equal(demos[1].alive, [1, 0, 0])
    np.testing.assert_array_equal(demos[0].alive, [1, 1, 1])
    assert demos[0].returns is None
    three = [one, two, foreign(minari, "three-v0", both, data)]
    few = "files: 3 were given, but toy/pair has 2 agents"
    refuses(lambda: Demonstrations.from_minari(three, SPEC), few)
    data = [(one_more(FIRST[:, 0]), np.zeros((3, 2), np.float32), [0.0, 0.0, 0.0])]
    box = spaces.Box(-1, 1, (2,))
    moving = [foreign(minari, f"{name}-v0", (both[0], box), data) for name in ("aa", "bb")]
    with pytest.warns(UserWarning, match="actions that are no whole numbers are not read"):
        assert Demonstrations.from_minari(moving, SPEC)[0].actions is None


def test_minari_datasets_that_are_not_there_or_damaged(tmp_path, minari):
    refuses(lambda: Demonstrations.from_minari("no/such-v0", SPEC), "no/such-v0", "download")
    assert not (tmp_path / "minari").exists()
    Demonstrations.from_arrays(RAGGED, SPEC).to_minari("pair")
    data = tmp_path / "minari" / "pair" / "agent_1-v0" / "data"
    metadata = (data / "metadata.json").read_text()
    # The space is what keeps Minari from making the environment that the metadata names.
    bare = {n: v for n, v in json.loads(metadata).items() if n != "action_space"}
    (data / "metadata.json").write_text(json.dumps(bare | {"env_spec": "{}"}))
    refuses(lambda: Demonstrations.from_minari("pair", SPEC), f"{data}: ", "has no spaces")
    for text in ("{", "[]"):
        (data / "metadata.json").write_text(text)
        part = f"{data}: metadata.json holds no JSON object; get or write it again"
        refuses(lambda: Demonstrations.from_minari("pair", SPEC), part)
    (data / "metadata.json").write_text(metadata)
    stored = (data / "main_data.hdf5").read_bytes()
    (data / "main_data.hdf5").write_bytes(stored[:3000])
    refuses(lambda: Demonstrations.from_minari("pair", SPEC), f"{data}: ", "cannot read it")


# --- the command line -------------------------------------------------------------------------


def run(capsys, *arguments: Any) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def film(path: Path, *, clip: str = "clip") -> Path:
    """Two episodes of `smax/3m` as a camera might tell them: 75 features, three marines."""
    features = ",".join(f"f{i}" for i in range(1, 76))
    rows = [
        f"{episode},{step},{name}," + ",".join([str(step + k / 4)] * 75) + f",{episode}"
        for episode in range(2)
        for step in range(3 + episode)
        for k, name in enumerate(("north", "middle", "south"))
    ]
    return write_csv(path, *rows, header=f"{clip},step,agent,{features},won")


def test_a_film_becomes_demonstrations(capsys, tmp_path):
    path, out = film(tmp_path / "film.csv"), tmp_path / "film.safetensors"
    command = ["demos", "import", path, "--env", "smax/3m", "--out", out, "--json"]
    command += ["--map", "episode=clip", "obs=f*"]
    code, text, error = run(capsys, *command)
    assert (code, error) == (0, "")
    result = json.loads(text)
    assert (result["episodes"], result["win_rate"]) == (2, 0.5)
    demos = Demonstrations.load(out)
    np.testing.assert_array_equal(demos[2].observations[:3, 0], [0.5, 1.5, 2.5])
    assert demos.provenance["environment"] == "smax/3m"
    assert demos.provenance["imported"]["map"] == {"episode": "clip", "obs": "f*"}
    before = out.read_bytes()
    code, text, error = run(capsys, *command, "--overwrite")
    assert (code, out.read_bytes()) == (0, before)
    code, text, error = run(capsys, *command)
    assert (code, text) == (2, "")
    assert "exists" in error


def test_a_refused_import_writes_nothing(capsys, tmp_path):
    out = tmp_path / "film.safetensors"
    path = film(tmp_path / "film.csv", clip="episode")
    path.write_text(path.read_text().replace(",1.25,", ",fast,", 1))
    command = ["demos", "import", path, "--env", "smax/3m", "--out", out, "--map", "obs=f*"]
    code, text, error = run(capsys, *command)
    assert (code, text, error.count("\n")) == (2, "", 1)
    assert f"dm2: {path}: row 6: column 'f1' = 'fast': must be a finite number" in error
    assert not out.exists()
    for word, part in (("obs", "map = 'obs'"), ("won=a", "no column 'a'")):
        code, text, error = run(capsys, *command, word)
        assert code == 2
        assert part in error
    (tmp_path / "film.mp4").write_text("")
    code, _, error = run(capsys, "demos", "import", tmp_path / "film.mp4", *command[3:])
    assert (code, "film.mp4: its format is not known" in error) == (2, True)
    code, _, error = run(capsys, "demos", "import", *command[3:7])
    assert (code, "files: there are none" in error) == (2, True)


def test_what_an_import_does_to_other_files(capsys, tmp_path):
    path = film(tmp_path / "film.csv")
    rest = ["--env", "smax/3m", "--map", "episode=clip", "obs=f*"]
    code, _, error = run(capsys, "demos", "import", path, *rest, "--out", path, "--overwrite")
    assert (code, f"out = '{path}': is imported; choose another file" in error) == (2, True)
    out = tmp_path / "new" / "folders" / "film.safetensors"
    code, _, _ = run(capsys, "demos", "import", path, *rest[:2], "--out", out)
    assert (code, (tmp_path / "new").exists()) == (2, False)
    assert run(capsys, "demos", "import", path, *rest, "--out", out)[0] == 0
    np.save(tmp_path / "film.npy", np.zeros(3))
    both = [path, tmp_path / "film.npy"]
    code, _, error = run(capsys, "demos", "import", *both, *rest, "--out", tmp_path / "x")
    part = f"{path} is of the format csv, {both[1]} of npz; give files of one format"
    assert (code, part in error) == (2, True)


def test_export_and_import(capsys, tmp_path):
    path, out = film(tmp_path / "film.csv", clip="episode"), tmp_path / "film.safetensors"
    where = ["--env", "smax/3m"]
    run(capsys, "demos", "import", path, *where, "--out", out, "--map", "obs=f*")
    code, text, _ = run(capsys, "demos", "export", out, "--out", tmp_path / "film.npz", "--json")
    assert (code, json.loads(text)["file"]) == (0, str(tmp_path / "film.npz"))
    again = tmp_path / "again.safetensors"
    assert run(capsys, "demos", "import", tmp_path / "film.npz", *where, "--out", again)[0] == 0
    assert_same_arrays(Demonstrations.load(out), Demonstrations.load(again))
    code, _, error = run(capsys, "demos", "export", out)
    assert (code, "say one of --out FILE.npz and --minari NAME" in error) == (2, True)


def test_export_to_minari_and_import(capsys, tmp_path, minari):
    path, out = film(tmp_path / "film.csv", clip="episode"), tmp_path / "film.safetensors"
    where = ["--env", "smax/3m"]
    run(capsys, "demos", "import", path, *where, "--out", out, "--map", "obs=f*")
    code, text, _ = run(capsys, "demos", "export", out, "--minari", "smax/3m", "--json")
    names = json.loads(text)["datasets"]
    assert (code, names) == (0, [f"smax/3m/agent_{k}-v0" for k in range(3)])
    for given in (names, ["smax/3m"]):
        again = tmp_path / f"{len(given)}.safetensors"
        assert run(capsys, "demos", "import", *given, *where, "--out", again)[0] == 0
        assert_same_arrays(Demonstrations.load(out), Demonstrations.load(again))


def test_other_files_say_how_they_are_imported(capsys, tmp_path):
    path = film(tmp_path / "film.csv")
    np.savez(tmp_path / "film.npz", observations=np.zeros(3))
    for name in (path, tmp_path / "film.npz"):
        code, _, error = run(capsys, "demos", "inspect", name)
        assert (code, "dm2 demos import" in error) == (2, True)


def test_names_that_no_file_can_have(capsys, tmp_path, minari, monkeypatch):
    path, long = film(tmp_path / "film.csv", clip="episode"), "a" * 300
    rest = ["--env", "smax/3m", "--map", "obs=f*"]
    loop = tmp_path / "loop.csv"
    loop.symlink_to(loop)
    leads_nowhere = tmp_path / "nowhere"
    leads_nowhere.symlink_to(tmp_path / "gone" / "too")
    before = sorted(tmp_path.iterdir())

    def refused(*arguments: Any) -> str:
        code, _, error = run(capsys, *arguments)
        assert (code, error.count("\n")) == (2, 1), error
        assert sorted(tmp_path.iterdir()) == before
        return error

    new = tmp_path / "new"
    outs = [tmp_path / long, tmp_path / long / "x.st", new / long, new / long / "x.st"]
    for out in (*outs, loop, leads_nowhere / "x.st", path / "x.st"):
        error = refused("demos", "import", path, *rest, "--out", out)
        assert f"out = '{out}': cannot be written: " in error
    for given in (tmp_path / f"{long}.csv", loop, tmp_path / long):
        error = refused("demos", "import", given, *rest, "--out", new / "x.st")
        assert f"dm2: {given}: " in error
    for file_format in ("minari", "vault", "authors"):
        asked = ("--env", "smax/3m", "--format", file_format, "--out", new / "x.st")
        error = refused("demos", "import", tmp_path / long, *asked)
        assert f"dm2: {tmp_path / long}: " in error
    demos = tmp_path / "demos.safetensors"
    assert run(capsys, "demos", "import", path, *rest, "--out", demos)[0] == 0
    (tmp_path / "minari").mkdir()
    (tmp_path / "minari" / "film").write_text("")
    before = sorted(tmp_path.iterdir())
    for name, place in (("film", "minari"), ("a" * 300, "minari"), ("team", "film.csv")):
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / place))
        error = refused("demos", "export", demos, "--minari", name)
        assert f"dm2: minari = '{name}': {tmp_path / place} cannot take it: " in error
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / long))
    assert "cannot take it: File name too long" in refused(
        "demos", "export", demos, "--minari", "team"
    )
    # What is refused for another reason leaves no folder behind.
    assert "out = " in refused("demos", "export", demos, "--out", new / "x.txt")
    assert "no such file" in refused("demos", "export", tmp_path / "no", "--out", new / "x.npz")
    assert run(capsys, "demos", "export", demos, "--out", new / "more" / "x.npz")[0] == 0


def test_damaged_metadata_may_be_a_vaults_as_well(tmp_path):
    (tmp_path / "metadata.json").write_text("{")
    part = f"{tmp_path}: metadata.json holds no JSON object; get or write it again"
    refuses(lambda: from_files(tmp_path, SPEC, guess_format([tmp_path])), part)


# --- the docs' examples -----------------------------------------------------------------------


@pytest.mark.learning  # for its time
def test_the_docs_examples_work(tmp_path, monkeypatch, capsys):
    """They run as they stand, only smaller: from a film to DM², and arrays with several keys."""
    monkeypatch.chdir(tmp_path)
    page = "docs/demonstrations.md"
    python, commands = blocks("python", page), blocks("bash", page)[0].splitlines()
    lines = [sum(1 for line in example.splitlines() if line) for example in python]
    assert max(lines) <= 20  # of a user's own
    smaller = python[0].replace('_v3"), 256', '_v3"), 2')
    assert smaller != python[0]
    for example in (smaller, python[1]):
        namespace: dict[str, Any] = {}
        exec(compile(example, page, "exec"), namespace)
    for line in commands:
        assert main(shrink(line)) == 0, (line, capsys.readouterr().err)
    film = Demonstrations.load("film.safetensors")
    assert (len(film), film[0].num_episodes) == (3, 2)
    assert (tmp_path / "runs" / "film" / "seed_0" / "metrics.jsonl").exists()
    demos, same = namespace["demos"], namespace["same"]
    np.testing.assert_array_equal(demos[2].offsets, [0, 9, 21])
    assert_same_arrays(demos, same)
