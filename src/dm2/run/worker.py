"""A training process beside others. Nothing here imports JAX at the top: JAX counts the cores when
it is imported, and this process is given its share of them first."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

__all__ = ["work"]


def work(
    cores: Sequence[int], tasks: Sequence[tuple[dict[str, Any], str]], quiet: bool, line: Connection
) -> None:
    """Trains the tasks one after another, each a config as a dictionary and a directory.

    It stops, with a checkpoint, when the process that started it ends. An error goes back through
    `line`.
    """
    os.setpgrp()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    os.environ["TTY_COMPATIBLE"] = "0"  # rich: lines, not bars that overwrite one another
    from dm2.run.process import plain_warnings, set_up_process

    set_up_process()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()
    try:
        from dm2.config import Config
        from dm2.run.sweep import train_all

        with plain_warnings():
            train_all([(Config.from_dict(values), path) for values, path in tasks], quiet)
    except (Exception, KeyboardInterrupt) as error:
        line.send(error)
        raise SystemExit(1) from None
