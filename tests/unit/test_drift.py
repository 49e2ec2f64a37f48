"""A report counts every finding, lists so many, and sums the money that nobody repaired."""

from datetime import UTC, datetime

from monetize.domain.drift import AMOUNT, MOST_FINDINGS, PROPOSED, REPAIRED, Finding, Report, added

AT = datetime(2026, 3, 1, tzinfo=UTC)


def finding(outcome: str, money: int) -> Finding:
    return Finding(kind=AMOUNT, subject="inv_1", detail="", outcome=outcome, currency="usd", money=money)


def test_money_that_was_repaired_is_at_stake_no_more() -> None:
    report = added(added(Report(publisher="acme", started_at=AT), finding(REPAIRED, 900)), finding(PROPOSED, 100))
    assert (report.money, report.money_findings) == ((("usd", 100),), 1)
    assert report.counts == (("amount:proposed", 1), ("amount:repaired", 1))


def test_all_findings_are_counted_and_the_first_are_listed() -> None:
    report = Report(publisher="acme", started_at=AT)
    for _ in range(MOST_FINDINGS + 3):
        report = added(report, finding(PROPOSED, 1))
    assert (len(report.findings), report.money_findings) == (MOST_FINDINGS, MOST_FINDINGS + 3)
    assert report.money == (("usd", MOST_FINDINGS + 3),)
