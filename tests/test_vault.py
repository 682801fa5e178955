"""Flashbax's vaults, written by flashbax itself, as demonstrations."""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import refuses
from dm2 import Demonstrations
from dm2.cli import main
from dm2.envs.workers import quiet_output
from test_importing import ACTIONS, FIRST, LEGAL, SECOND, SPEC, assert_same_arrays

ENDS = np.array([[0, 0], [0, 0], [1, 1], [1, 1], [0, 0]])
"""Of two episodes of 3 and 1 steps, and of one that is cut after its first."""


def stream(parts: list[np.ndarray]) -> np.ndarray:
    """Two episodes one behind another, and a step of a third; one stream."""
    return np.concatenate([*parts, parts[1]])[None]


def experience(**changes: Any) -> dict[str, Any]:
    arrays = {
        "observations": stream([FIRST, SECOND]),
        "actions": stream(ACTIONS),
        "rewards": np.array([[[1.0, 1], [0, 0], [1, 1], [-0.5, -0.5], [9, 9]]], np.float32),
        "terminals": ENDS[None].astype(np.float32),
        "truncations": np.zeros((1, 5, 2), np.float32),
        "infos": {"state": np.zeros((1, 5, 4), np.float32), "legals": stream(LEGAL)},
    } | changes
    return {name: array for name, array in arrays.items() if array is not None}


def write(folder: Path, arrays: dict[str, Any]) -> Path:
    """As whoever kept a vault has written it."""
    from flashbax.buffers.trajectory_buffer import TrajectoryBufferState
    from flashbax.vault import Vault

    tree = jax.tree.map(jnp.asarray, arrays)
    steps = jax.tree.leaves(tree)[0].shape[1]
    whole = {"current_index": jnp.array(steps), "is_full": jnp.array(False)}
    state = TrajectoryBufferState(experience=tree, **whole)
    with quiet_output():
        vault = Vault("task.vlt", tree, rel_dir=str(folder), vault_uid="Good")
        vault.write(state)
    return folder / "task.vlt" / "Good"


CUT = "the last 1 steps of a stream are no whole episode and are left out"


def test_a_vault_of_a_team(tmp_path, capsys):
    folder = write(tmp_path, experience())
    with pytest.warns(UserWarning, match=CUT):
        demos = Demonstrations.from_vault(folder, SPEC)
    one, two = demos.agents
    np.testing.assert_array_equal(one.observations, [[0.5, 1], [-1, 1], [4, 1], [0.25, 1]])
    np.testing.assert_array_equal(two.observations, [[2, 3], [0, 0], [0, 0], [4, -5]])
    np.testing.assert_array_equal(one.offsets, [0, 3, 4])
    np.testing.assert_array_equal(one.actions, [0, 2, 1, 1])
    np.testing.assert_array_equal(two.legal, np.concatenate([LEGAL[0][:, 1], LEGAL[1][:, 1]]))
    np.testing.assert_array_equal(two.alive, [1, 1, 1, 1])
    np.testing.assert_array_equal(one.returns, [2, -0.5])
    assert one.won is None
    imported = demos.provenance["imported"]
    assert imported["format"] == "vault" and imported["files"][0]["name"] == "Good"
    assert capsys.readouterr().out == ""  # flashbax greets whoever opens a vault


def test_who_is_dead_in_a_vault(tmp_path):
    # Agent 1 is terminated at its first step, and its rewards are its own.
    ends = ENDS.copy()
    ends[0, 1] = ends[1, 1] = 1
    rewards = np.arange(10.0, dtype=np.float32).reshape(1, 5, 2)
    folder = write(tmp_path / "a", experience(terminals=ends[None], rewards=rewards))
    with pytest.warns(UserWarning, match=CUT):
        demos = Demonstrations.from_vault(folder, SPEC)
    np.testing.assert_array_equal(demos[1].alive, [1, 0, 0, 1])
    np.testing.assert_array_equal(demos[0].alive, [1, 1, 1, 1])
    assert demos[0].returns is None
    # A limit cuts the team; one flag a step is the team's.
    flags = ENDS[None, :, 0].astype(bool)
    seen = stream([FIRST, SECOND])
    seen[0, 1, 0] = 0  # agent 0 sees nothing for a moment
    changes = {"observations": seen, "terminals": None, "truncations": flags}
    folder = write(tmp_path / "b", experience(**changes))
    with pytest.warns(UserWarning, match=CUT):
        cut = Demonstrations.from_vault(folder, SPEC, mapping={"dead": "zeros"})
    np.testing.assert_array_equal(cut[1].alive, [1, 0, 0, 1])
    np.testing.assert_array_equal(cut[0].alive, [1, 1, 1, 1])
    np.testing.assert_array_equal(cut[0].offsets, [0, 3, 4])


def test_the_return_is_known_of_all_episodes_or_of_none(tmp_path):
    # Agents with rewards of their own are paid alike in the second episode by chance.
    own = np.array([[[1.0, 2], [0, 0], [1, 1], [-0.5, -0.5], [9, 9]]], np.float32)
    folders = [write(tmp_path / "a", experience()), write(tmp_path / "b", experience(rewards=own))]
    for given in (folders[1], folders, folders[::-1]):
        with pytest.warns(UserWarning, match=CUT):
            assert Demonstrations.from_vault(given, SPEC)[0].returns is None
    other = write(tmp_path / "c", experience(rewards=own[..., 0]))  # one a step is the team's
    with pytest.warns(UserWarning, match=CUT):
        demos = Demonstrations.from_vault([folders[0], other], SPEC)
    np.testing.assert_array_equal(demos[0].returns, [2, -0.5, 2, -0.5])


def test_streams_and_agents_by_name(tmp_path):
    # The same episode twice, side by side; agent 10 comes after agent 2, whatever JAX's order.
    two = np.stack([FIRST, FIRST])
    arrays = {
        "observations": {"agent_2": two[:, :, 0], "agent_10": two[:, :, 1]},
        "actions": {"agent_2": np.full((2, 3), 0.5), "agent_10": np.full((2, 3), 0.5)},
        "terminals": {name: np.tile([0, 0, 1], (2, 1)) for name in ("agent_2", "agent_10")},
    }
    folder = write(tmp_path, arrays)
    with pytest.warns(UserWarning, match="actions that are no whole numbers are not read"):
        demos = Demonstrations.from_vault(folder, SPEC)
    np.testing.assert_array_equal(demos[0].observations, np.concatenate([FIRST[:, 0]] * 2))
    np.testing.assert_array_equal(demos[1].observations, np.concatenate([FIRST[:, 1]] * 2))
    assert demos[0].actions is None
    with pytest.warns(UserWarning, match="no whole numbers"):
        other = Demonstrations.from_vault(folder, SPEC, mapping={"agents": "agent_10,agent_2"})
    np.testing.assert_array_equal(other[0].observations, demos[1].observations)


def test_a_vault_with_other_keys(tmp_path):
    known = experience()
    mava = {
        "observation": known["observations"],
        "action": known["actions"],
        "reward": known["rewards"],
        "done": known["terminals"],
        "legal_action_mask": known["infos"]["legals"],
    }
    with pytest.warns(UserWarning, match=CUT):
        usual = Demonstrations.from_vault(write(tmp_path / "a", known), SPEC)
    with pytest.warns(UserWarning, match=CUT):
        same = Demonstrations.from_vault(write(tmp_path / "b", mava), SPEC)
    assert_same_arrays(usual, same)
    folder = write(tmp_path / "c", {"seen": known["observations"], "infos": {"end": ENDS[None]}})
    mapping = {"observations": "seen", "terminals": "infos/end"}
    with pytest.warns(UserWarning, match=CUT):
        mapped = Demonstrations.from_vault(folder, SPEC, mapping=mapping)
    np.testing.assert_array_equal(mapped[0].observations, usual[0].observations)
    wrong = {"observations": "looks"}
    parts = ("there is no key 'looks' for observations", "the vault has infos, seen, infos/end")
    refuses(lambda: Demonstrations.from_vault(folder, SPEC, mapping=wrong), *parts)
    parts = ("observations are missing, the vault has infos, seen", "`--map observations=KEY`")
    refuses(lambda: Demonstrations.from_vault(folder, SPEC), *parts)


def test_a_vault_by_the_command(tmp_path, capsys):
    sizes = {"observations": np.ones((1, 3, 3, 75)), "terminals": np.array([[0, 0, 1]])}
    fits, out = write(tmp_path / "fits", sizes), tmp_path / "team.safetensors"
    rest = ["--env", "smax/3m", "--out", str(out)]
    assert main(["demos", "import", str(fits), *rest]) == 0
    assert Demonstrations.load(out)[2].observations.shape == (3, 75)
    assert main(["demos", "import", str(fits.parent), *rest, "--overwrite"]) == 2
    assert "it is one of those in it: Good" in capsys.readouterr().err
    small = write(tmp_path, experience())
    assert main(["demos", "import", str(small), *rest, "--overwrite"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "observations has shape (3, 2, 2), must be [3 steps, 3 agents" in said
    assert Demonstrations.load(out)[2].observations.shape == (3, 75)


def test_vaults_that_are_malformed(tmp_path, monkeypatch):
    folder = write(tmp_path, experience(terminals=ENDS[None] * 0))
    read = Demonstrations.from_vault
    with pytest.warns(UserWarning, match="the last 5 steps"):
        refuses(lambda: read(folder, SPEC), "Good: the vault holds no whole episode; record one")
    refuses(lambda: read(folder.parent, SPEC), "it is no vault", "one of those in it: Good")
    refuses(lambda: read(folder, SPEC, mapping={"dead": "no"}), "dead=no", "use dead=zeros")
    refuses(lambda: read(folder, SPEC, mapping={"obs": "x"}), "there is no name 'obs'")
    for agents, said in (("1,0", "are no dictionary of agents"), (["a", "a"], "is there twice")):
        mapping = {"agents": agents}
        refuses(lambda mapping=mapping: read(folder, SPEC, mapping=mapping), said)
    refuses(lambda: read(tmp_path / "none", SPEC), "no such file")
    bare = write(tmp_path / "bare", experience(terminals=None, truncations=None))
    refuses(lambda: read(bare, SPEC), "terminals and truncations are missing", "no episode ends")
    blind = write(tmp_path / "blind", experience(observations=None))
    refuses(lambda: read(blind, SPEC), "observations are missing")
    fewer = "in a stream, observations (5, 2, 2); give them for the same steps and agents"
    for number, (name, array, said) in enumerate(
        (
            ("terminals", ENDS[None, :, :1], f"terminals have shape (5, 1) {fewer}"),
            ("actions", ENDS[None, :, 0], f"actions have shape (5,) {fewer}"),
            ("rewards", np.ones((1, 5, 3)), f"rewards have shape (5, 3) {fewer}"),
            ("truncations", np.stack([ENDS, ENDS]), "its arrays have 1, 2 streams"),
            ("observations", np.ones((1, 5, 2)), "observations have shape (5, 2) in a stream"),
            ("terminals", np.ones((1, 5, 2, 2)), f"terminals have shape (5, 2, 2) {fewer}"),
            ("terminals", ENDS[None] * 0.5, "step 2, agent 0 of a stream: terminals = 0.5: must"),
            ("terminals", ENDS[None] * np.nan, "agent 0 of a stream: terminals = nan: must be 0"),
            ("rewards", np.full((1, 5), np.nan), "step 0 of a stream: rewards = nan: must be a"),
            (
                "observations",
                {n: {"o": np.ones((1, 5, 2))} for n in ("a", "b")},
                "observations of agent 'a' are a dictionary of 1, must be one array",
            ),
        )
    ):
        odd = write(tmp_path / str(number), experience(**{name: array}))
        refuses(lambda odd=odd: read(odd, SPEC), said)
    metadata = folder / "metadata.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"version": "?"}))
    refuses(lambda: read(folder, SPEC), "flashbax cannot read it (TypeError", "write it again")
    monkeypatch.setitem(sys.modules, "flashbax.vault", None)
    refuses(lambda: read(bare, SPEC), "flashbax is not installed", "dm2[flashbax]")
