"""The importer as a command of its own, against a running system."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from local import demo, import_access_log, story
from local.clock import Clock
from local.story import Offer, World
from local.system import Ports, System

DATA = Path(__file__).parent / "data" / "access.log"


@pytest.fixture
def sold() -> Iterator[tuple[World, Offer]]:
    """A system on loopback on the log's first day, with the demo's offer."""
    with System(clock=Clock(datetime(2015, 5, 17, tzinfo=UTC)), ports=Ports()) as system:
        system.schedules.at_most_every = demo.TICKS
        system.start()
        world = World(system.url, system.stripe_url)
        publisher = world.as_user("ann", "acme", "publisher_admin")
        story.connect_stripe(world, publisher, "Acme")
        try:
            yield world, story.publish_offer(publisher, "acme", "Site", demo.log_plan(), demo.log_meters())
        finally:
            world.http.close()


def test_a_log_imported_twice_counts_once(
    sold: tuple[World, Offer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world, offer = sold
    subscriber = world.as_user("bob", "globex", "subscriber")
    entries = import_access_log.load(DATA, import_access_log.Imported())
    busiest = "66.249.73.135"
    made = story.subscribe(world, subscriber, offer, "App", offer.free_tier, "bob@globex.example")
    known = tmp_path / "subscriptions.csv"
    known.write_text(f"{busiest},{made['id']}\n")
    world.run_until(datetime(2015, 5, 19, tzinfo=UTC))
    theirs = [entry.status for entry in entries if entry.client == busiest]
    counted = sum(200 <= status <= 399 for status in theirs)  # the others count nothing, so nothing is remembered
    command = [str(DATA), "--url", world.api, "--key", offer.gateway_key, "--subscriptions", str(known)]
    assert import_access_log.main(command) == 1  # the other clients have no subscription, and it says so
    first = capsys.readouterr().out
    assert f"{len(theirs)} events accepted, 0 known before" in first
    assert "clients without a subscription" in first
    assert import_access_log.main(command) == 1
    assert f"{len(theirs) - counted} events accepted, {counted} known before" in capsys.readouterr().out


def test_a_wrong_key_is_told_and_nothing_is_sent(
    sold: tuple[World, Offer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world, _ = sold
    known = tmp_path / "subscriptions.csv"
    known.write_text("66.249.73.135,sub_1\n")
    command = [str(DATA), "--url", world.api, "--key", "gk_nobody", "--subscriptions", str(known)]
    assert import_access_log.main(command) == 2
    assert "unknown_gateway_key" in capsys.readouterr().err
