import dm2

dm2.set_up_process()

import ctypes  # noqa: E402
import dataclasses  # noqa: E402
import gc  # noqa: E402
import hashlib  # noqa: E402
import os  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

from dm2.errors import InputError  # noqa: E402
from dm2.run.programs import programs_for  # noqa: E402

SMALL: dict[str, Any] = {
    "num_envs": 8,
    "rollout_steps": 16,
    "eval_every": 256,
    "eval_episodes": 4,
    "checkpoint_every": 256,
}


QUICKLY_COMPILED = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
"""XLA compiles in 0.4 of the time what then runs more slowly."""


def pytest_configure(config: pytest.Config) -> None:
    """All processes of a run, and the next run, share what they compile: the tests' type checks
    need JAX before dm2 could see to that. The bound is what makes JAX lock the folder."""
    folder = str(config.cache.mkdir("programs"))  # pyright: ignore[reportOptionalMemberAccess]
    kept = {"dir": folder, "max_size": 2**31}
    for name, value in kept.items():
        jax.config.update(f"jax_compilation_cache_{name}", value)
        os.environ[f"JAX_COMPILATION_CACHE_{name.upper()}"] = str(value)
    shortest = "jax_persistent_cache_min_compile_time_secs"
    jax.config.update(shortest, 0.1)
    os.environ[shortest.upper()] = "0.1"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # as dm2 would set it
    if config.option.markexpr == "not learning":  # most of the time goes into compiling
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICKLY_COMPILED}"


SLOWEST = (
    "training methods readme studies cli qmix smac decentralisation packing process record"
    " environments inputs battle jaxmarl bench rmappo export"
)
"""Files of tests, the slowest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest files first, so that the processes that share them out end together."""
    ranks = {f"test_{name}.py": rank for rank, name in enumerate(SLOWEST.split())}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


def hashes(folder: Path) -> dict[Path, str]:
    """The contents of all files in a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refuses(call: Any, *parts: str) -> None:
    """`call` raises InputError whose message, on one line, has all the parts."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def resumed_alike(config: Any, steps: int, folder: Path) -> bool:
    """Whether a run that is stopped after `steps` and goes on ends in the same bits as one that is
    not stopped."""
    from dm2 import resume, train

    whole = train(config, folder / "whole", quiet=True)
    half = train(dataclasses.replace(config, steps=steps), folder / "half", quiet=True)
    half = resume(half, config.steps, quiet=True)
    ends = [run.checkpoint_path(run.steps()[-1]) / "state.safetensors" for run in (whole, half)]
    assert ends[0].parent.name == ends[1].parent.name
    return ends[0].read_bytes() == ends[1].read_bytes()


@pytest.fixture
def unchecked_types(monkeypatch):
    """Types are not checked at run time, as in a user's process: dm2's own checks answer."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(autouse=True, scope="module")
def bounded_memory():
    """The programs of a module's tests go with it, and their memory back to the kernel. Kept, they
    would grow to 6 GB, and exhaust the process's memory maps (65530 on Linux)."""
    yield
    programs_for.cache_clear()
    jax.clear_caches()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """A few iterations of IPPO on a short battle: the run that other tests look at."""
    from dm2 import IPPO, PPO, Config, train

    config = Config(
        IPPO(PPO(hidden=8, epochs=1, minibatches=2)),
        "smax/3m?limit=12",
        steps=512,
        checkpoint_steps=(200,),
        **SMALL,
    )
    return train(config, tmp_path_factory.mktemp("runs") / "ippo", quiet=True)


@pytest.fixture(scope="session")
def small_demos(small_run, tmp_path_factory):
    """Demonstrations of that run's team."""
    from dm2 import record

    path = tmp_path_factory.mktemp("demos") / "team.safetensors"
    record(small_run, episodes=6).save(path)
    return path
