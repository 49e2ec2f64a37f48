"""Refunds, credit notes and a dispute of one payment, in every order, heard of in any order: all is given back once."""

import random
from collections.abc import Callable
from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest

from local.stripe_emulator.refusals import Refusal as StripeRefusal
from monetize import wiring
from monetize.domain.errors import Conflict, Refusal
from monetize.domain.invoices import Invoice
from monetize.services import reconciling
from monetize.services.invoice_actions import Request, act
from monetize.services.subscription_access import Person
from tests.integration.payment_fixtures import START, Shop, shop

__all__ = ["shop"]

ANN = Person("ann", "acme")
PAID = 4900


class Story:
    """One paid invoice, what is done to it, and what was really given back, as each doer was answered."""

    def __init__(self, shop: Shop, number: int, chance: random.Random) -> None:
        self.shop, self.chance = shop, chance
        self.made = shop.sent(charge=True, edge=START + timedelta(days=31 * number))
        shop.settle()
        self.charge = shop.charge_of(self.made)
        self.refunded = self.credited = self.charged_back = self.balance = 0
        self.dispute: dict[str, Any] | None = None
        self.decided = False

    @property
    def given(self) -> int:
        return self.refunded + self.balance + self.charged_back

    def ask(self, what: str, key: str, amount: int | None = None, to: str = "") -> int:
        asked = Request(what=what, key=key, amount=amount, to=to)
        try:
            return act(ANN, self.made.id, asked, self.shop.now, wiring.payments()).action.amount
        except Refusal:
            return 0

    def refund(self) -> None:
        self.refunded += self.ask("refund", "a", 700)

    def refund_by_hand(self) -> None:
        try:
            self.refunded += self.shop.stripe.refund_charge(self.shop.account, self.charge, 500)["amount"]
        except StripeRefusal:
            return

    def credit_to_balance(self) -> None:
        done = self.ask("credit", "a", 900, "balance")
        self.credited, self.balance = self.credited + done, self.balance + done

    def credit_to_card(self) -> None:
        done = self.ask("credit", "b", 300, "card")
        self.credited, self.refunded = self.credited + done, self.refunded + done

    def dispute_and_lose(self) -> None:
        """The cardholder disputes what is left of the charge; some time later the bank decides."""
        if self.dispute is None:
            left = self.shop.stripe.accounts[self.shop.account].charges[self.charge]
            amount = left["amount"] - left["amount_refunded"] - self.balance
            self.dispute = self.shop.stripe.open_dispute(self.shop.account, self.charge, amount)
            self.charged_back = amount
            return
        self.shop.stripe.close_dispute(self.shop.account, self.dispute["id"], won=False)
        self.decided = True

    def all_that_is_left(self) -> None:
        done = self.ask("credit", "rest", to="balance")
        self.credited, self.balance = self.credited + done, self.balance + done
        self.refunded += self.ask("refund", "rest")


STEPS: tuple[Callable[[Story], None], ...] = (
    Story.refund,
    Story.refund_by_hand,
    Story.credit_to_balance,
    Story.credit_to_card,
    Story.dispute_and_lose,
    Story.dispute_and_lose,
)


@pytest.mark.parametrize("seed", range(3))
def test_what_was_paid_is_given_back_once_in_every_order_of_what_happens_and_of_what_is_heard(
    shop: Shop, seed: int
) -> None:
    chance = random.Random(seed)
    orders = sorted(set(permutations(STEPS)), key=lambda steps: [each.__name__ for each in steps])
    for number, steps in enumerate(chance.sample(orders, 25)):
        story, before = Story(shop, number, chance), set(shop.stripe.webhooks.events)
        for step in (*steps, Story.all_that_is_left):
            step(story)
            assert story.given <= PAID, [each.__name__ for each in steps]
            hear_some(shop, before, chance)
            holds(shop.invoice(story.made))
        hear_all(shop, before, chance)
        invoice = shop.invoice(story.made)
        holds(invoice)
        assert (invoice.refunded, invoice.credited, invoice.disputed) == (story.refunded, story.credited, "lost")
        assert invoice.status == "paid"
        assert_told_once(shop, invoice)
        spend_balance(shop)
    report = reconciling.reconcile("acme", shop.now, lambda: True, wiring.reconciling())
    assert report.clean, report.findings


def spend_balance(shop: Shop) -> None:
    """What is on the customer's balance would be taken off the next story's invoice."""
    balance = shop.stripe.accounts[shop.account].customers[shop.customer]["balance"]
    if balance:
        shop.client.v1.customers.balance_transactions.create(
            shop.customer, {"amount": -balance, "currency": "usd"}, shop.options
        )


def holds(invoice: Invoice) -> None:
    """What was given back, whatever of it was heard of so far, is never more than what was paid."""
    otherwise = invoice.credited - invoice.credited_to_card
    assert invoice.amount_paid == PAID
    assert invoice.amount_paid - invoice.refunded - otherwise >= 0


def _new(shop: Shop, before: set[str]) -> list[Any]:
    while shop.stripe.webhooks.due(shop.now):
        pass
    return [each for name, each in shop.stripe.webhooks.events.items() if name not in before]


def hear_some(shop: Shop, before: set[str], chance: random.Random) -> None:
    """Some of what happened so far is heard of now, some of it not for the first time."""
    events = _new(shop, before)
    for each in chance.sample(events, min(len(events), chance.randint(0, 2))):
        shop.stripe.webhooks.redeliver(each, shop.now)
    shop.settle()


def hear_all(shop: Shop, before: set[str], chance: random.Random) -> None:
    events = _new(shop, before)
    chance.shuffle(events)
    for each in events:
        shop.stripe.webhooks.redeliver(each, shop.now)
    shop.settle()


def assert_told_once(shop: Shop, invoice: Invoice) -> None:
    """The events that went out add up to what happened."""
    told = [each.detail for each in shop.system.outbox() if each.detail["entity"]["id"] == invoice.id]
    assert len({each["id"] for each in told}) == len(told)
    moved = {
        kind: sum(int(each["data"]["detail"]) for each in told if each["type"] == kind)
        for kind in ("payment.refunded", "invoice.credited")
    }
    assert moved == {"payment.refunded": invoice.refunded, "invoice.credited": invoice.credited}
    kinds = [each["type"] for each in told]
    assert kinds.count("payment.disputed") <= 1
    assert kinds.count("payment.dispute_lost") == kinds.count("payment.succeeded") == kinds.count("invoice.paid") == 1


@pytest.mark.parametrize(
    ("inquiry", "won", "left"), [(False, None, 0), (False, False, 0), (False, True, PAID), (True, None, PAID)]
)
def test_what_the_bank_took_is_not_given_back_again_unless_the_dispute_is_won(
    shop: Shop, inquiry: bool, won: bool | None, left: int
) -> None:
    story = Story(shop, 0, random.Random(0))
    dispute = shop.stripe.open_dispute(shop.account, story.charge, inquiry=inquiry)
    if won is not None:
        shop.stripe.close_dispute(shop.account, dispute["id"], won=won)
    if not left:
        with pytest.raises(Conflict, match="above_refundable"):  # ours to refuse, whatever Stripe would say
            act(ANN, story.made.id, Request(what="refund", key="one", amount=1), shop.now, wiring.payments())
    assert story.ask("credit", "all", to="balance") == left
    assert shop.invoice(story.made).charged_back == PAID - left


def test_a_note_about_money_that_moved_outside_can_be_written_for_what_the_bank_took(shop: Shop) -> None:
    story = Story(shop, 0, random.Random(0))
    dispute = shop.stripe.open_dispute(shop.account, story.charge)
    shop.stripe.close_dispute(shop.account, dispute["id"], won=False)
    assert story.ask("credit", "for the books", to="outside") == PAID
