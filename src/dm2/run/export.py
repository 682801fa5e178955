"""Exporting one agent of a run's team, for where there is neither the team nor JAX."""

import importlib.util
import json
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np
import safetensors.numpy

from dm2.agent.actor import Actor
from dm2.deployment import file as layout
from dm2.deployment.graph import as_onnx
from dm2.errors import InputError, Whole, as_whole, check_flags, check_setting
from dm2.files import check_target, write_atomically
from dm2.methods.base import Separable
from dm2.run.directory import RunDirectory
from dm2.run.team import TrainedTeam, load_team
from dm2.version import __version__

__all__ = ["ExportFormat", "export"]

ExportFormat = Literal["safetensors", "onnx"]


def export(
    run: RunDirectory | str | Path,
    *,
    agent: Whole,
    out: str | Path,
    at: Whole | None = None,
    format: ExportFormat = "safetensors",
    overwrite: bool = False,
) -> Path:
    """Writes all that one agent of a run's team needs to act by itself. `dm2.Agent.load` reads it.

    A method whose agents share a network gives that network and the agent's number; every other
    gives the agent's own and nothing of its teammates.

    Args:
        run: The run or its directory.
        agent: The agent's number in the team, from 0.
        out: The file, which is written wholly or not at all. Its name ends in the format's.
        at: A checkpoint's step, or one of `checkpoint_steps`; the newest by default.
        format: `safetensors`, laid out as `dm2.deployment.file` says, or `onnx`, as
            `dm2.deployment.graph` says (needs `pip install 'dm2[onnx]'`).
        overwrite: Whether a file that is there may be replaced.

    Returns:
        The path of the file.

    Raises:
        InputError: If there is no such run, checkpoint or agent, its team diverged, its method does
            not let agents be taken out, `out` cannot be written or is there, or ONNX is missing.
        OSError: If the disk fails.
    """
    check_setting(format in get_args(ExportFormat), "format", format, "must be safetensors or onnx")
    check_flags(overwrite=overwrite)
    path = check_target("out", out, (f".{format}",))
    remedy = "exists; choose another file, or say overwrite"
    check_setting(overwrite or not path.exists(), "out", str(path), remedy)
    encode = _encoder(format)
    team = load_team(run, at)
    number = as_whole("agent", agent, 0, team.programs.env.spec.num_agents - 1)
    actor = jax.device_get(_actor_of(team, number))
    arrays = _arrays(actor)
    description = _describe(team, number, actor, arrays)
    description["sha256"] = layout.digest(description, arrays)
    write_atomically(path, encode(description, arrays))
    return path


def _encoder(format: ExportFormat) -> Any:
    """What makes a file's bytes of an agent. Raises InputError if ONNX is missing."""
    if format == "safetensors":
        return lambda description, arrays: safetensors.numpy.save(
            arrays, {"dm2": json.dumps(description)}
        )
    if importlib.util.find_spec("onnx") is None:
        raise InputError("format = 'onnx': needs onnx: pip install 'dm2[onnx]'")
    return as_onnx


def _actor_of(team: TrainedTeam, agent: int) -> Actor:
    method = team.programs.method
    if not isinstance(method, Separable):
        problem = f"{team.run.path}: agents of {team.run.config.method.name} cannot be taken out"
        raise InputError(f"{problem}; give their method the function actor_of (Separable)")
    return method.actor_of(team.state, agent)


def _arrays(actor: Actor) -> layout.Arrays:
    """The actor's numbers by the names that they have in the file."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(actor.params["params"])
    arrays = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf, order="C")
        for path, leaf in leaves
    }
    if actor.moments is not None:
        arrays["moments/mean"] = np.asarray(actor.moments.mean)
        arrays["moments/variance"] = np.asarray(actor.moments.variance)
    return arrays


def _describe(team: TrainedTeam, agent: int, actor: Actor, arrays: layout.Arrays) -> dict[str, Any]:
    """The agent's description, as `dm2.deployment.file` lays it out, but for its sha256."""
    spec, config, inputs = team.programs.env.spec, team.run.config, actor.inputs
    learns_values = actor.epsilon is not None
    return {
        "format": layout.FORMAT,
        "version": layout.VERSION,
        "dm2_version": __version__,
        "method": config.method.name,
        "seed": config.seed,
        "step": team.step,
        "environment": spec.name,
        "environment_version": spec.version,
        "agent": agent,
        "observation_size": spec.observation_size,
        "actions": list(spec.action_names or map("action {}".format, range(spec.num_actions))),
        "hidden": len(arrays["gru_bias"]),
        "dense_layers": sum(name.startswith("dense_") for name in actor.params["params"]),
        "running": inputs.running,
        "layer": inputs.layer,
        "last_action": inputs.last_action,
        "agents": inputs.agents,
        "outputs": "values" if learns_values else "logits",
        "greedy": "argmax",
        "sampling": "epsilon-greedy" if learns_values else "softmax",
        "epsilon": float(actor.epsilon) if actor.epsilon is not None else None,
    }
