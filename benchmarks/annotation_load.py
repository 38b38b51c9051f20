"""Many annotators at once in the annotation app, each a web socket of their own.

    python benchmarks/annotation_load.py --json runs/bench/annotation_load.json

`rlhf annotate` runs as for a team, on SQLite, with a queue for everybody. Each annotator comes in
by an invitation link, chooses, submits, waits for "Saved" and for the next item, and does so every
few seconds at times of their own. Then the ledger is compared with what was acknowledged: every
answer once, and as it was clicked. The annotators run on the same cores as the server.
"""

import argparse
import asyncio
import os
import random
import sqlite3
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from statistics import quantiles

import psutil

from annotation_app.assignment import side_of
from annotation_app.ledger.access import SYSTEM, ensure_person
from annotation_app.ledger.database import Database
from annotation_app.ledger.invitations import invite
from annotation_app.ledger.queue import create_batch
from annotation_app.responders.demo import draw_items
from benchmarks.measure import Row, report
from benchmarks.sides.streamlit_tab import PATIENCE, Tab, TabError
from data.schemas import STRENGTHS
from tests.annotation_app.server import Server, free_port

MOST_SECONDS = 0.3
"""95 of 100 clicks are answered sooner."""
LEAST_RATE = 0.95
"""Of the annotations that were to come, so many came: else the load was not what it says."""
Answers = dict[str, str]
"""Assignment and revision → side and strength."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """How many annotators, how fast, how long; times in seconds."""

    clients: int
    interval: float
    """Between two submissions of one annotator."""
    seconds: float
    """Of measuring, after everybody is in."""
    ramp: float
    """In which they come in, evenly."""

    @property
    def submissions(self) -> float:
        """That are to come while it is measured."""
        return self.clients * self.seconds / self.interval


@dataclass
class Log:
    """What the annotators saw."""

    acknowledged: Answers = field(default_factory=dict)
    saved: list[float] = field(default_factory=list)
    """Seconds from the click to "Saved"."""
    chosen: list[float] = field(default_factory=list)
    """Seconds from the click on a choice to a button that submits it."""
    errors: list[str] = field(default_factory=list)
    signed_in: int = 0
    runs: int = 0


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What the server took while it was measured."""

    processor_seconds: float
    client_seconds: float
    mebibytes: float
    load: float
    """Processes that wanted a core, on average over the last minute, of the whole machine."""


async def annotate(number: int, url: str, token: str, load: Load, log: Log, began: float) -> None:
    """One annotator's work; what goes wrong is noted, and the page opened again."""
    rng = random.Random(number)
    until = began + load.ramp + load.seconds
    await _sleep_until(began + load.ramp * number / load.clients)
    came_in = False
    while not came_in or time.monotonic() < until:
        try:
            cookie = await asyncio.to_thread(_sign_in, url, token)
            async with Tab(url, cookie) as tab:
                await tab.load()
                log.signed_in += not came_in
                came_in = True
                await _work(tab, rng, load, log, until)
        except (TabError, OSError) as error:
            log.errors.append(f"annotator {number}: {error}")
            came_in = True
            await asyncio.sleep(1.0)


async def _work(tab: Tab, rng: random.Random, load: Load, log: Log, until: float) -> None:
    """Chooses in the first half of each interval and submits in the second, at random times."""
    first = time.monotonic()
    for turn in count():
        begin = first + turn * load.interval
        if turn and begin >= until:
            return
        await _sleep_until(begin + rng.uniform(0, 0.5) * load.interval)
        item = tab.key_of("submit-")
        answer = f"{rng.choice('AB')}-{rng.choice(STRENGTHS)}"
        before = tab.runs
        chosen = await tab.click(f"{answer}-{item}", partial(_can_submit, tab, item))
        await _sleep_until(begin + rng.uniform(0.5, 1) * load.interval)
        saved = await tab.click(f"submit-{item}", partial(_says_saved, tab))
        log.acknowledged[item] = answer
        if until - load.seconds <= time.monotonic() < until:
            log.chosen.append(chosen)
            log.saved.append(saved)
            log.runs += tab.runs - before


def _can_submit(tab: Tab, item: str) -> bool:
    button = tab.button(f"submit-{item}")
    return button is not None and not button.disabled


def _says_saved(tab: Tab) -> bool:
    return "Saved" in tab.toasts()


async def _sleep_until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))


def _sign_in(url: str, token: str) -> str:
    """The cookie that the link's page gets for its token."""
    request = urllib.request.Request(f"{url}/enter", data=token.encode(), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return str(answer.headers["Set-Cookie"]).partition(";")[0]
    except urllib.error.HTTPError as error:
        raise TabError(f"not let in: {error.read().decode()}") from error


async def run_load(server: Server, tokens: list[str], load: Load) -> tuple[Log, Usage]:
    """All annotators at once."""
    log, began = Log(), time.monotonic()
    process = psutil.Process(server.pid)
    async with asyncio.TaskGroup() as group:
        for number, token in enumerate(tokens):
            group.create_task(annotate(number, server.url, token, load, log, began))
        await _sleep_until(began + load.ramp)
        before, own = process.cpu_times(), time.process_time()
        await _sleep_until(began + load.ramp + load.seconds)
        after = process.cpu_times()
        usage = Usage(
            processor_seconds=sum(after[:2]) - sum(before[:2]),
            client_seconds=time.process_time() - own,
            mebibytes=process.memory_info().rss / 2**20,
            load=os.getloadavg()[0],
        )
    return log, usage


def prepare(ledger: str, load: Load) -> list[str]:
    """A ledger with enough to do, and an invitation for each annotator."""
    enough = int(load.clients * (load.ramp + load.seconds + 2 * load.interval) / load.interval)
    database = Database(ledger)
    ensure_person(database, SYSTEM, "manager")
    items = draw_items("helpfulness", min(enough, 1000))
    overlap = -(-enough // len(items))
    create_batch(database, SYSTEM, "queue", items, domain="helpfulness", overlap=overlap)
    tokens = [invite(database, SYSTEM, f"person-{n}", "annotator") for n in range(load.clients)]
    database.close()
    return tokens


def answers_in(ledger: str) -> tuple[Counter[str], Answers, int]:
    """How often each answer is in the ledger, what it says, and how many answers contradict it."""
    connection = sqlite3.connect(ledger)
    query = "SELECT assignment_id, revision, chosen, swapped, strength FROM submissions"
    rows = connection.execute(f"{query} JOIN assignments USING (assignment_id)").fetchall()
    (conflicts,) = connection.execute("SELECT count(*) FROM conflicts").fetchone()
    connection.close()
    keys = [f"{row[0]}-{row[1]}" for row in rows]
    said = [f"{side_of(row[2], bool(row[3]))}-{row[4]}" for row in rows]
    return Counter(keys), dict(zip(keys, said, strict=True)), conflicts


def check(log: Log, ledger: str) -> list[str]:
    """What is wrong between the annotators and the ledger; empty where all is well."""
    counts, said, conflicts = answers_in(ledger)
    lost = [key for key, answer in log.acknowledged.items() if said.get(key) != answer]
    problems = [f"{len(lost)} acknowledged answers are not in the ledger as clicked"] * bool(lost)
    doubled = sum(n > 1 for n in counts.values())
    problems += [f"{doubled} answers are there twice"] * bool(doubled)
    problems += [f"{conflicts} answers contradict another"] * bool(conflicts)
    unheard = len(counts.keys() - log.acknowledged.keys())
    problems += [f"{unheard} answers were stored and never acknowledged"] * bool(unheard)
    return problems + log.errors


def rows_of(log: Log, usage: Usage, load: Load, ledger: str) -> list[Row]:
    """Against what was asked for; a ratio above 1 is better than that."""
    rate, asked = len(log.saved) / load.seconds, load.submissions / load.seconds
    p95 = percentile(log.saved, 95)
    each = usage.processor_seconds / max(1, len(log.saved))
    stored, acknowledged = len(answers_in(ledger)[0]), len(log.acknowledged)

    def row(name: str, unit: str, ours: float, peer: float, ratio: float) -> Row:
        return Row(name=name, ours=ours, peer=peer, ratio=ratio, unit=unit)

    return [
        row("95 % of clicks to Saved", "ms", 1e3 * p95, 1e3 * MOST_SECONDS, MOST_SECONDS / p95),
        row("annotations a minute", "", 60 * rate, 60 * asked, rate / asked),
        # One process, so its threads share a core.
        row("server's time for one", "ms", 1e3 * each, 1e3 / asked, 1 / (asked * each)),
        row("stored of acknowledged", "", stored, acknowledged, stored / max(1, acknowledged)),
    ]


def percentile(seconds: list[float], percent: int) -> float:
    """0 for none."""
    if len(seconds) < 2:
        return sum(seconds)
    return quantiles(seconds, n=100, method="inclusive")[percent - 1]


def describe(log: Log, usage: Usage, problems: list[str]) -> None:
    print(f"{log.signed_in} annotators came in; {len(log.acknowledged):,} answers acknowledged")
    for name, found in (("choice", log.chosen), ("Saved", log.saved)):
        middle, most = percentile(found, 50), percentile(found, 95)
        longest = max(found, default=0.0)
        print(f"click to {name}: {middle:.3f} s, 95 % {most:.3f} s, longest {longest:.3f} s")
    print(
        f"{log.runs / max(1, len(log.saved)):.1f} script runs for one annotation; server "
        f"{usage.processor_seconds:.1f} s and annotators {usage.client_seconds:.1f} s of processor "
        f"time; server {usage.mebibytes:,.0f} MiB; machine load {usage.load:.1f}"
    )
    print(f"{len(problems)} problems", *problems[:10], sep="\n  ")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--clients", type=int, default=60)
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between submissions")
    parser.add_argument("--seconds", type=float, default=60.0, help="after everybody is in")
    parser.add_argument("--ramp", type=float, default=20.0, help="seconds in which they come in")
    arguments = parser.parse_args()
    load = Load(
        clients=arguments.clients,
        interval=arguments.interval,
        seconds=arguments.seconds,
        ramp=arguments.ramp,
    )
    with tempfile.TemporaryDirectory() as name:
        ledger = f"{name}/ledger.sqlite"
        tokens = prepare(ledger, load)
        with Server(Path(name), free_port(), "--sign_in", "invitations") as server:
            log, usage = asyncio.run(run_load(server, tokens, load))
        problems = check(log, ledger)
        describe(log, usage, problems)
        rows = rows_of(log, usage, load, ledger)
    report(rows, ("streamlit", "SQLAlchemy"), threads=os.cpu_count() or 1, path=arguments.json)
    enough = len(log.saved) >= LEAST_RATE * load.submissions
    return 0 if enough and not problems and percentile(log.saved, 95) < MOST_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
