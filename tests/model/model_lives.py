"""Runs the machine."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis.stateful import run_state_machine_as_test
from model_disks import Disk
from model_machine import Machine
from model_worlds import World


def live(
    world: World,
    oracle: Callable[[], Disk],
    *,
    lives: int,
    steps: int,
    restarts: int,
    random: bool = False,
) -> None:
    """So many lives of so many steps on one drive; the same ones each time unless `random`.

    Not shrunk: when uploads land differs from run to run, and the story that a failure tells is short enough.
    """
    run_state_machine_as_test(
        lambda: Machine(world, oracle(), restarts=restarts),
        settings=settings(
            max_examples=lives,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            derandomize=not random,
            phases=[Phase.generate],
            verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
        ),
    )
