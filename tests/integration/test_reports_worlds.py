"""Reports of worlds of their own: what was really billed, paid, credited and moved is what they tell."""

from tests.integration.billing_fixtures import Market, market

__all__ = ["market"]


def test_a_sandboxs_subscriptions_are_told_by_its_own_clock(market: Market) -> None:
    market.sell("box", sandbox=True)
    moved = market.ask("POST", "/billing-runs/clock", {"to": "2026-04-02T01:00:00Z"}, org="box")
    assert moved.status == 200, moved.text
    market.subscribe(pub="box")
    mrr = market.ask("GET", "/reports/mrr", org="box").body
    assert (mrr["month"], mrr["totals"], mrr["as_of"]) == ("2026-04", {"usd": 4900}, "2026-04-02T01:00:00Z")
    assert market.ask("GET", "/reports/churn?month=2026-04", org="box").body["rows"][0]["won"] == 1
    assert market.ask("GET", "/reports/usage", org="box").body["month"] == "2026-04"
