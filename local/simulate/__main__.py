"""Run worlds, or replay one.

python -m local.simulate run --seeds 0-99        every crash point and every kind of world of these seeds
python -m local.simulate ci                      the share of CI: all crash points of 50 seeds, 20,000 pairs
python -m local.simulate long --worlds 1000000   goes on where the report says it stopped
python -m local.simulate replay two 17           one world again, with its story
python -m local.simulate replay crash month 17 12
"""

import argparse
import gc
import json
import os
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAYER = ROOT / "layers" / "common" / "python"
if str(LAYER) not in sys.path:
    sys.path.insert(0, str(LAYER))

from local.simulate import scenarios  # noqa: E402 # needs the layer on the path
from local.simulate.scenarios import Result  # noqa: E402

KINDS = ("crash", "two", "three", "all")
CHUNK = 250
REPORTED = 20  # chunks between two reports of a long run
COLLECT_EVERY = 100
SHOWN = 20
# A share in which one of these never came by has not tried what it says.
SOMETIMES = (
    "Billing_bill_elsewhere",
    "Billing_subscription_waiting",
    "another draft",
    "bill empty",
    "bill parked",
    "credit carried",
    "credit returned",
    "dead letter",
    "invoice payment_failed",
    "late usage taken",
    "paid by hand",
    "payment past_due",
    "redriven",
    "subscription ended",
    "subscription paused",
)
CI_SHARE = {"two": 20_000, "three": 500, "all": 500}  # worlds
CI_CRASHES = 50  # seeds of every flow
REPORT = ROOT / ".local" / "simulation.json"


@dataclass(frozen=True, slots=True)
class Part:
    """Work for one process: worlds `[first, last)` of a kind, or every crash point of one flow and these seeds."""

    kind: str
    first: int
    last: int
    flow: str = ""


@dataclass(slots=True)
class Tally:
    """What came of some worlds."""

    worlds: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    met: Counter[str] = field(default_factory=Counter)
    schedules: set[bytes] = field(default_factory=set)
    doors: int = 0
    crashes: int = 0
    faults: int = 0
    failures: list[tuple[str, list[str]]] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Count another one in."""
        self.worlds += other.worlds
        self.points += other.points
        self.met += other.met
        self.schedules |= other.schedules
        self.doors += other.doors
        self.crashes += other.crashes
        self.faults += other.faults
        self.failures += other.failures


def run_part(part: Part, most_failures: int = SHOWN) -> Tally:
    """One process's share; it stops early when enough has gone wrong."""
    tally = Tally()
    gc.disable()
    gc.collect()
    gc.freeze()  # what the process holds for good is not looked through again
    for number, (command, result) in enumerate(_worlds(part, tally)):
        tally.worlds[part.kind] += 1
        tally.doors += result.doors
        tally.met += result.met
        tally.crashes += result.crashes
        tally.faults += result.faults
        if result.schedule and part.kind != "crash":
            tally.schedules.add(result.schedule)
        if result.found:
            tally.failures.append((command, result.found))
            if len(tally.failures) >= most_failures:
                break
        if number % COLLECT_EVERY == 0:
            gc.collect()
    return tally


def _worlds(part: Part, tally: Tally) -> Iterator[tuple[str, Result]]:
    for seed in range(part.first, part.last):
        if part.kind == "crash":
            flow = scenarios.BY_NAME[part.flow]
            points = scenarios.crash_points(flow, seed)
            tally.points[part.flow] += points
            for at in range(1, points + 1):
                yield f"crash {part.flow} {seed} {at}", _held(lambda at=at: scenarios.crash(flow, seed, at), seed)  # type: ignore[misc] # noqa: B023 # called at once
        else:
            yield f"{part.kind} {seed}", _held(lambda: one(part.kind, seed), seed)  # noqa: B023 # called at once


def _held(run: Callable[[], Result], seed: int) -> Result:
    """A world that cannot even be run to its end is a finding too."""
    try:
        return run()
    except Exception as error:  # noqa: BLE001 # told with its seed, which replays it
        return Result("", seed, [f"the world ended in {error!r}"])


def one(kind: str, seed: int, *, keep: bool = False) -> Result:
    """One world of a kind."""
    if kind == "all":
        return scenarios.everything(seed, keep=keep)
    return scenarios.together(seed, {"two": 2, "three": 3}[kind], keep=keep)


def parts(kinds: Iterable[str], first: int, last: int) -> Iterator[Part]:
    """The work of these seeds, in shares that two processes finish about together."""
    for kind in kinds:
        name, _, only = kind.partition(":")
        if name == "crash":
            for flow in (each for each in scenarios.FLOWS if only in ("", each.name)):
                for seed in range(first, last, 5):
                    yield Part(name, seed, min(last, seed + 5), flow.name)
            continue
        for seed in range(first, last, CHUNK):
            yield Part(kind, seed, min(last, seed + CHUNK))


def go(work: Sequence[Part], processes: int, *, most_failures: int = SHOWN) -> Tally:
    """All of it; stops early when enough has gone wrong."""
    tally = Tally()
    if processes == 1:
        for part in work:
            tally.add(run_part(part, most_failures))
            if len(tally.failures) >= most_failures:
                break
        return tally
    with get_context("fork").Pool(processes) as pool:
        for done in pool.imap_unordered(run_part, work):
            tally.add(done)
            if len(tally.failures) >= most_failures:
                pool.terminate()
                break
    return tally


def told(tally: Tally, seconds: float) -> str:
    """The figures, and the command that replays each failure."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in tally.worlds.items())
    lines = [
        f"worlds          {sum(tally.worlds.values()):,} ({kinds})",
        f"crash points    {sum(tally.points.values()):,}",
        f"interleavings   {len(tally.schedules):,} different",
        f"calls passed    {tally.doors:,}, {tally.crashes:,} crashes and {tally.faults:,} faults among them",
        f"came by         {', '.join(f'{name} {count:,}' for name, count in sorted(tally.met.items()))}",
        f"seconds         {seconds:.0f}",
        f"failures        {len(tally.failures)}",
    ]
    for command, found in tally.failures[:SHOWN]:
        lines.append(f"  python -m local.simulate replay {command}")
        lines += [f"      {sentence}" for sentence in found[:5]]
    return "\n".join(lines)


def replay(words: Sequence[str]) -> int:
    """One world again, told door by door."""
    if words[0] == "crash":
        flow = scenarios.BY_NAME[words[1]]
        result = scenarios.crash(flow, int(words[2]), int(words[3]), keep=True)
    else:
        result = one(words[0], int(words[1]), keep=True)
    print("\n".join(result.story))
    print(f"\n{result.kind}, seed {result.seed}: {len(result.found)} invariants broken")
    print("\n".join(f"  {sentence}" for sentence in result.found))
    return 1 if result.found else 0


def commit() -> str:
    """Which state of the code was tried."""
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603


def long(worlds: int, processes: int, report: Path, first: int) -> int:
    """Worlds of two, three and everything in turn, from where the report stopped; written after every share."""
    known = json.loads(report.read_text()) if report.exists() else {}
    at = int(known.get("next", first))
    beside = report.with_suffix(".schedules")  # which interleavings were met, so that each is counted once for ever
    met = {each for (each,) in struct.iter_unpack("8s", beside.read_bytes())} if known else set()
    figures = Counter[str](known.get("figures", {}))
    failures: list[object] = known.get("failures", [])
    report.parent.mkdir(parents=True, exist_ok=True)
    while at < first + worlds:
        began = time.monotonic()
        upto = min(first + worlds, at + REPORTED * CHUNK)
        work = [
            Part(("two", "two", "three", "all")[number % 4], seed, min(upto, seed + CHUNK))
            for number, seed in enumerate(range(at, upto, CHUNK))
        ]
        tally = go(work, processes, most_failures=1000)
        figures.update({f"worlds {kind}": count for kind, count in tally.worlds.items()})
        figures.update(
            {
                "calls": tally.doors,
                "crashes": tally.crashes,
                "faults": tally.faults,
                "seconds": round(time.monotonic() - began),
            }
        )
        met |= tally.schedules
        figures["interleavings"] = len(met)
        failures += [{"replay": command, "found": found} for command, found in tally.failures]
        at = upto
        commits = sorted({commit(), *known.get("commits", ())})
        known = {"from": first, "next": at, "commits": commits, "figures": dict(figures), "failures": failures}
        _keep(beside, b"".join(sorted(met)))  # first: what is met again is counted once, what is forgotten is not
        _keep(report, json.dumps(known, indent=1).encode())
        print(f"{at - first:,} of {worlds:,} worlds, {len(met):,} interleavings, {len(failures)} failures", flush=True)
    return 1 if failures else 0


def _keep(path: Path, content: bytes) -> None:
    """Whole or not at all: a run may be stopped at any moment."""
    new = path.with_name(path.name + ".new")
    new.write_bytes(content)
    new.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m local.simulate")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--seeds", default="0-49")
    run.add_argument("--kinds", default=",".join(KINDS))
    run.add_argument("--most-failures", type=int, default=SHOWN)
    ci = commands.add_parser("ci")
    endless = commands.add_parser("long")
    endless.add_argument("--worlds", type=int, default=1_000_000)
    endless.add_argument("--first", type=int, default=1_000_000)
    endless.add_argument("--report", type=Path, default=REPORT)
    for each in (run, ci, endless):
        each.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    again = commands.add_parser("replay")
    again.add_argument("world", nargs="+")
    asked = parser.parse_args(arguments)
    if asked.command == "replay":
        return replay(asked.world)
    if asked.command == "long":
        return long(asked.worlds, asked.processes, asked.report, asked.first)
    began = time.monotonic()
    if asked.command == "ci":
        work = [part for flow in scenarios.FLOWS for part in parts((f"crash:{flow.name}",), 0, CI_CRASHES)]
        work += [part for kind, worlds in CI_SHARE.items() for part in parts((kind,), 0, worlds)]
    else:
        low, _, high = asked.seeds.partition("-")
        work = list(parts(asked.kinds.split(","), int(low), int(high or low) + 1))
    tally = go(work, asked.processes, most_failures=getattr(asked, "most_failures", SHOWN))
    print(told(tally, time.monotonic() - began))
    never = [name for name in SOMETIMES if asked.command == "ci" and not tally.met[name]]
    if never:
        print(f"never came by   {', '.join(never)}")
    return 1 if tally.failures or never else 0


if __name__ == "__main__":
    sys.exit(main())
