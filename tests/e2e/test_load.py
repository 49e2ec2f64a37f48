"""The load that `make load` puts on the system, for a moment: it adds up, and it says so when something does not."""

import pytest

from local import load

# A crash of ours holds its key for thirty seconds, which nobody wants to wait for here: Stripe alone fails.
BRIEFLY = ["--clients", "4", "--seconds", "1.5", "--faults", "0"]


def test_under_load_with_faults_nothing_is_lost_and_nothing_made_twice(capsys: pytest.CaptureFixture[str]) -> None:
    assert load.main(BRIEFLY) == 0, capsys.readouterr().out
    assert "nothing lost, nothing twice" in capsys.readouterr().out


@pytest.mark.parametrize("many", [1, -1])
def test_an_event_that_was_lost_or_counted_twice_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], many: int
) -> None:
    settle = load.settle

    def miscounted(*args: object, **kwargs: object) -> list[str]:
        stage, tally = args[2], args[3]
        assert isinstance(stage, load.Stage)
        assert isinstance(tally, load.Tally)
        tally.accepted[stage.subscriptions[0]] += many
        return settle(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(load, "settle", miscounted)
    assert load.main(BRIEFLY) == 1
    assert "WRONG: " in capsys.readouterr().out


def test_a_client_that_does_not_end_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(load.Client, "is_alive", lambda _: True)
    assert load.main(BRIEFLY) == 1
    assert "came to no end" in capsys.readouterr().out
