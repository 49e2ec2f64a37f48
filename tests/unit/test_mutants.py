"""Planted faults stand where they are said to stand, and a killer that comes to no end killed nothing."""

import re
import shlex
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import pytest

from local.mutants import __main__ as mutants
from local.mutants.planted import INVARIANTS, PLANTED, Mutant

FAULT = Mutant("fault", "code.py", "1 < 2", "1 <= 2", "nothing", ("pytest tests/a.py", "pytest tests/b.py"))


def test_every_planted_fault_stands_once_in_its_file_and_makes_code() -> None:
    assert mutants.missing(PLANTED) == []


def test_every_fault_has_a_name_of_its_own_and_killers_that_exist() -> None:
    assert [name for name, times in Counter(each.name for each in PLANTED).items() if times > 1] == []
    assert [each.name for each in PLANTED if not each.killers or each.old == each.new] == []
    named = {
        word for each in PLANTED for killer in each.killers for word in shlex.split(killer) if word.endswith(".py")
    }
    assert {each for each in named if not (mutants.ROOT / each).is_file()} == set()


def test_every_invariant_of_the_design_has_a_fault_that_breaks_it() -> None:
    assert set(INVARIANTS) == set(range(1, 13))
    assert {name for names in INVARIANTS.values() for name in names} <= {each.name for each in PLANTED}
    assert all(INVARIANTS.values())


def test_faults_stand_in_handlers_and_in_the_template_too() -> None:
    homes = {re.split(r"[/.]", each.file)[0] for each in PLANTED}
    assert homes == {"functions", "layers", "template"}


@pytest.mark.parametrize(("old", "said"), [("3 < 4", "stands 0 times"), ("<", "stands 2 times"), ("1 < 2", "read")])
def test_a_fault_without_a_place_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, said: str) -> None:
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    (tmp_path / "code.py").write_text("a = 1 < 2\nb = 5 < 6\n")
    (found,) = mutants.missing([Mutant("fault", "code.py", old, "(", "nothing", ())])
    assert said in found


def answers(monkeypatch: pytest.MonkeyPatch, by_killer: dict[str, Any]) -> None:
    """Let each killer end with an exit status and its output; an exception is raised."""

    def run(asked: list[str], **_: Any) -> Any:
        status = by_killer[asked[-1]]
        if isinstance(status, Exception):
            raise status
        return subprocess.CompletedProcess(asked, status[0], status[1], "")

    monkeypatch.setattr(subprocess, "run", run)


TIME_OUT = subprocess.TimeoutExpired("pytest", 240)


@pytest.mark.parametrize(
    ("second", "killer", "trouble"),
    [
        ((0, ""), "", "came to no end"),
        ((1, "ERROR tests/b.py\n"), "", "came to no end"),
        ((2, "broken"), "", "broken"),
    ],
)
def test_a_killer_that_comes_to_no_end_is_an_error_and_no_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: Any, killer: str, trouble: str
) -> None:
    (tmp_path / "code.py").write_text("a = 1 < 2\n")
    answers(monkeypatch, {"tests/a.py": TIME_OUT, "tests/b.py": second})
    verdict = mutants.attempt(FAULT, tmp_path, mutants.Sound())
    assert verdict.killer == killer
    assert trouble in verdict.trouble
    assert (tmp_path / "code.py").read_text() == "a = 1 < 2\n"


def test_a_killer_that_fails_on_sound_code_kills_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code.py").write_text("a = 1 < 2\n")
    failing = (1, "FAILED tests/a.py::test_a\n")
    answers(monkeypatch, {"tests/a.py": failing, "tests/b.py": failing})
    assert mutants.attempt(FAULT, tmp_path, mutants.Sound()).killer == ""


def test_anything_but_a_kill_fails_the_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def none(_: Path) -> Path:
        return Path()

    said: dict[str, mutants.Verdict] = {
        "killed": mutants.Verdict(FAULT, "pytest tests/a.py", "test_a", 1.0),
        "LIVES": mutants.Verdict(FAULT, "", "", 1.0),
        "ERROR": mutants.Verdict(FAULT, "", "", 1.0, "came to no end"),
    }
    monkeypatch.setattr(mutants, "PLANTED", (FAULT,))
    monkeypatch.setattr(mutants, "missing", lambda _: [])
    monkeypatch.setattr(mutants, "_copy", none)
    for word, verdict in said.items():
        monkeypatch.setattr(mutants, "attempt", lambda *_, verdict=verdict: verdict)
        assert mutants.main(["--beside", "1"]) == (0 if word == "killed" else 1)
        assert capsys.readouterr().out.startswith(word)


def test_checking_alone_plants_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(*_: Any) -> NoReturn:
        raise AssertionError

    monkeypatch.setattr(mutants, "attempt", planted)
    assert mutants.main(["--check"]) == 0
