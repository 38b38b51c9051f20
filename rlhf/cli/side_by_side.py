"""Stages that do not need one another, each in a process of its own on its share of the cores.

On two cores of a Xeon a reward model of a million parameters takes in 6,200 tokens a second with
both of them and 4,700 with one, while another stage has the other one.
"""

import atexit
import os
import signal
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, forkserver, get_context, parent_process
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from threading import Thread

import torch

from data.errors import ConfigError, UserError
from rlhf.actors.placement import usable_cores
from rlhf.cli.main import command_module, main
from rlhf.cli.stages import is_finished, placement_of, run_stages
from rlhf.run import console, progress, reopen_console

MOST_PROCESSES = 8
"""At once unless a config asks for more."""
PATIENCE = 30.0
"""Seconds that an interrupted stage may take to end."""


class StageFailed(UserError):
    """A stage ended before it was finished; says why, as far as its log tells."""


@dataclass(frozen=True)
class _Running:
    process: ForkServerProcess
    cores: Collection[int]
    since: float


def check_processes(processes: int) -> None:
    """For a config's `__post_init__`.

    Raises:
        ConfigError: more than this machine can run at once.
    """
    if processes > 1 and not _can_choose_cores():
        raise ConfigError(
            f"processes is {processes}; this system does not let a process choose its cores, so "
            "that stages would be in one another's way; leave it out, or say 1"
        )
    cores = usable_cores()
    if processes > cores:
        raise ConfigError(
            f"processes is {processes}; each needs a core, and this machine lends {cores}; choose "
            f"{cores} or fewer"
        )


def run_side_by_side(
    out: Path, stages: Mapping[str, Sequence[str]], processes: int | None = None
) -> None:
    """Runs the stages that are not finished, each as soon as what it reads is finished.

    A stage reads another if a word of its command is a path in the other's directory. What it
    prints goes to a file beside its directory: seed-0/reward.log.

    Args:
        out: where the directory of each stage goes.
        stages: directory → the words of the command that fills it, but for its --out.
        processes: at once; None for one per core, at most `MOST_PROCESSES`. One runs them in this
            process, which then holds their directories until it ends.

    To be called in the main thread, where Python handles signals.

    Raises:
        StageFailed: one did not reach its end; the others are interrupted.
    """
    shares = _shares_of_cores(processes)
    if len(shares) == 1:
        run_stages(out, stages, placement_of(1))
        return
    waiting = [name for name in stages if not is_finished(out / name)]
    running: dict[str, _Running] = {}
    done = len(stages) - len(waiting)
    if waiting:
        _start_server(stages.values())
    with progress("stages", len(stages), done) as advance, _interrupted_on_the_way_out(running):
        while waiting or running:
            for name in ready_stages(out, stages, waiting, running)[: len(shares) - len(running)]:
                waiting.remove(name)
                taken = [stage.cores for stage in running.values()]
                cores = next(share for share in shares if share not in taken)
                running[name] = _start(out / name, stages[name], cores)
            if not running:
                raise AssertionError(f"these stages wait for one another: {', '.join(waiting)}")
            advance(0, ", ".join(running))
            for name in _wait_for_one(running):
                _check_finished(out / name, running[name].process)
                seconds = time.monotonic() - running.pop(name).since
                console.print(f"{name}: {seconds:.0f} s", highlight=False)
                advance(1, ", ".join(running))


def ready_stages(
    out: Path,
    stages: Mapping[str, Sequence[str]],
    waiting: Sequence[str],
    running: Collection[str],
) -> list[str]:
    """Those that read nothing unfinished.

    Args:
        out: of `run_side_by_side`.
        stages: of `run_side_by_side`, finished ones too.
        waiting: names of those that have not begun, in order.
        running: of those that have.
    """
    unfinished = [out / name for name in (*waiting, *running)]

    def reads(name: str, other: Path) -> bool:
        return any(Path(word).is_relative_to(other) for word in stages[name])

    return [name for name in waiting if not any(reads(name, other) for other in unfinished)]


def _can_choose_cores() -> bool:
    """Else a stage would take all of them for its own, as `usable_cores` counts them."""
    return hasattr(os, "sched_setaffinity")


def _shares_of_cores(processes: int | None) -> list[list[int]]:
    """A list of cores for each process, all of one length: sums depend on the number of threads."""
    if not _can_choose_cores():
        return [[]]
    cores = sorted(os.sched_getaffinity(0))
    number = min(len(cores), MOST_PROCESSES) if processes is None else processes
    return [cores[first::number][: len(cores) // number] for first in range(number)]


def _start_server(commands: Collection[Sequence[str]]) -> None:
    """The process from which the stages are forked.

    It has imported what their commands need and computed nothing: a process that has computed has
    threads, which do not survive a fork. Neither it nor they hear Ctrl-C, which this process does.
    """
    modules = {command_module(words) for words in commands}
    get_context("forkserver").set_forkserver_preload(sorted({*modules, __name__}))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)


def _start(directory: Path, words: Sequence[str], cores: Collection[int]) -> _Running:
    directory.parent.mkdir(parents=True, exist_ok=True)
    _log_of(directory).unlink(missing_ok=True)  # of an earlier session
    command = [*words, "--out", str(directory), "--debug"]  # a log has room for traces
    process = get_context("forkserver").Process(
        target=_work, args=(command, cores, _log_of(directory)), daemon=True
    )
    process.start()
    return _Running(process, cores, time.monotonic())


def _work(words: Sequence[str], cores: Collection[int], log: Path) -> None:
    """In the new process: the command, alone on its cores, its output in the log."""
    Thread(target=_end_with_parent, daemon=True).start()
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    reopen_console()
    try:
        sys.exit(main(list(words)))
    finally:
        atexit._run_exitfuncs()  # multiprocessing does not before Python 3.13


def _end_with_parent() -> None:
    """At once where the parent was killed: who starts it again finds nobody in its place.

    The kernel's death signal (rlhf/actors/process.py) would wait for the server, which lives as
    long as a stage does.
    """
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _wait_for_one(running: Mapping[str, _Running]) -> list[str]:
    """The stages that have ended, as soon as there is one."""
    ended = connection.wait([stage.process.sentinel for stage in running.values()])
    return [name for name, stage in running.items() if stage.process.sentinel in ended]


def _check_finished(directory: Path, process: ForkServerProcess) -> None:
    process.join()
    code, log = process.exitcode, _log_of(directory)
    if code == 0 and is_finished(directory):
        return
    if code == -signal.SIGKILL:
        why = "it was killed, perhaps for want of memory: fewer --processes take less"
    elif code is not None and code < 0:
        why = f"it was ended by {signal.Signals(-code).name}"
    else:
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        why = lines[-1] if lines else f"it ended with code {code} and said nothing"
    raise StageFailed(
        f"{str(directory)!r} did not finish: {why}. Its output is in {str(log)!r}; mend the cause "
        "and run the same command again"
    )


@contextmanager
def _interrupted_on_the_way_out(running: Mapping[str, _Running]) -> Iterator[None]:
    """Where the block is left early, stages that still run keep what they have, and end."""
    try:
        yield
    finally:
        for stage in running.values():
            stage.process.terminate()
        deadline = time.monotonic() + PATIENCE
        for stage in running.values():
            stage.process.join(max(0.0, deadline - time.monotonic()))
            stage.process.kill()
            stage.process.join()


def _log_of(directory: Path) -> Path:
    return directory.with_name(directory.name + ".log")
