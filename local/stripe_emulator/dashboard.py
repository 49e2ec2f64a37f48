"""What people and banks do outside the API: the dashboard's buttons, and the hosted pages without a browser."""

from collections.abc import Sequence
from urllib.parse import parse_qsl, urlsplit

from local.stripe_emulator import checkout, customers, invoices, oauth, payments
from local.stripe_emulator.store import Account, Obj
from local.stripe_emulator.webhooks import Event
from local.stripe_emulator.world import World


class Dashboard(World):
    """Hand edits, each with the events that Stripe would send."""

    def connect_account(self, scope: str = "read_write", **details: str | bool) -> Account:
        """A new account that is connected already: the short cut for tests past onboarding."""
        account = self.create_account(**details)  # type: ignore[arg-type]
        oauth.connect(self, account, scope)
        return account

    def authorize(self, authorize_url: str, account_id: str | None = None) -> str:
        """Press *Authorize* (with `account_id`) or *Deny* (None); the URL the browser is sent back to."""
        params = dict(parse_qsl(urlsplit(authorize_url).query))
        problem = oauth.authorize_problem(self, params)
        if problem:
            raise ValueError(problem)
        if account_id is None:
            return oauth.redirect_to(params, error="access_denied", error_description="The user denied your request")
        scope = params.get("scope", "read_only")
        return oauth.redirect_to(params, scope=scope, code=oauth.grant(self, self.accounts[account_id], scope))

    def deauthorize(self, account_id: str) -> None:
        """The publisher disconnects the platform in the dashboard."""
        oauth.deauthorize(self, self.accounts[account_id])

    def restrict(self, account_id: str, *, charges_enabled: bool = False, currently_due: Sequence[str] = ()) -> None:
        """Stripe wants more information: charges stop (or start again)."""
        account = self.accounts[account_id]
        account.details["charges_enabled"] = charges_enabled
        account.details["capabilities"]["card_payments"] = "active" if charges_enabled else "inactive"
        account.details["requirements"].update(
            currently_due=list(currently_due), disabled_reason=None if charges_enabled else "requirements.past_due"
        )
        self.emit(account, "account.updated", account.details)
        self.emit(
            account,
            "capability.updated",
            {
                "id": "card_payments",
                "object": "capability",
                "account": account_id,
                "requested": True,
                "status": account.details["capabilities"]["card_payments"],
            },
        )

    def complete_checkout(
        self,
        account_id: str,
        session_id: str,
        card: str = "4242424242424242",
        *,
        exp_month: int = 12,
        exp_year: int = 2040,
        authenticate: bool = True,
    ) -> Obj:
        """Fill in the Checkout page. Raises Refusal when the card is declined."""
        return checkout.complete(
            self,
            self.accounts[account_id],
            session_id,
            card,
            exp_month=exp_month,
            exp_year=exp_year,
            authenticate=authenticate,
        )

    def set_card_outcome(self, account_id: str, method_id: str, outcome: str) -> None:
        """What a saved card does from now on: `succeed`, a decline code, `authentication_required`, `disputed`."""
        self.accounts[account_id].card_outcomes[method_id] = outcome

    def replace_card_number(self, account_id: str, method_id: str, exp_month: int, exp_year: int) -> None:
        """The bank issues a new card and the network tells Stripe."""
        account = self.accounts[account_id]
        method = account.payment_methods.need(method_id)
        method["card"].update(exp_month=exp_month, exp_year=exp_year)
        self.emit(account, "payment_method.automatically_updated", method)

    def detach_card(self, account_id: str, method_id: str) -> None:
        """Somebody removes a card."""
        customers.detach(self, self.accounts[account_id], method_id)

    def delete_customer(self, account_id: str, customer_id: str) -> None:
        """Somebody deletes a customer."""
        customers.remove_customer(self, self.accounts[account_id], customer_id)

    def void_invoice(self, account_id: str, invoice_id: str) -> None:
        """Somebody voids an invoice."""
        account = self.accounts[account_id]
        invoices.void(self, account, account.invoices.alive(invoice_id))

    def mark_paid(self, account_id: str, invoice_id: str) -> None:
        """Somebody was paid in cash."""
        account = self.accounts[account_id]
        invoices.settle(self, account, account.invoices.alive(invoice_id), None)

    def pay_by_hand(self, account_id: str, invoice_id: str, method_id: str | None = None) -> None:
        """The customer pays on the hosted page, passing authentication. Raises the decline."""
        account = self.accounts[account_id]
        invoices.pay(self, account, account.invoices.alive(invoice_id), method_id, authenticated=True)

    def refund_charge(self, account_id: str, charge_id: str, amount: int | None = None) -> Obj:
        """Somebody refunds a charge."""
        return payments.refund(self, self.accounts[account_id], charge_id, amount)

    def fail_refund(self, account_id: str, refund_id: str) -> Obj:
        """The bank sends a refund back."""
        return payments.fail_refund(self, self.accounts[account_id], refund_id)

    def overpay(self, account_id: str, invoice_id: str, amount: int) -> None:
        """A payment is attached to an invoice that is paid: the customer's balance takes it."""
        account = self.accounts[account_id]
        invoices.overpaid(self, account, account.invoices.alive(invoice_id), amount)

    def open_dispute(self, account_id: str, charge_id: str, amount: int | None = None, *, inquiry: bool = False) -> Obj:
        """A cardholder disputes a charge, or (`inquiry`) the bank only asks."""
        return payments.open_dispute(self, self.accounts[account_id], charge_id, amount, inquiry=inquiry)

    def close_dispute(self, account_id: str, dispute_id: str, *, won: bool) -> Obj:
        """The bank decides."""
        return payments.close_dispute(self, self.accounts[account_id], dispute_id, won=won)

    def inject_event(self, account_id: str, kind: str, obj: Obj, *, livemode: bool | None = None) -> Event:
        """Send any event; `livemode=False` on a live emulator is the test event that a live endpoint also gets."""
        return self.emit(self.accounts[account_id], kind, obj, livemode=livemode)
