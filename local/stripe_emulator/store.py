"""Everything one Stripe account holds, and the rules common to all objects: ids, lists, metadata, expansion."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import blake2b
from typing import Any

from local.stripe_emulator.idempotency import Keys
from local.stripe_emulator.refusals import invalid, missing, no_such

Obj = dict[str, Any]

KINDS = {
    "cus": "customer",
    "prod": "product",
    "in": "invoice",
    "pm": "payment_method",
    "cs": "checkout.session",
    "seti": "setup_intent",
    "pi": "payment_intent",
    "ch": "charge",
    "re": "refund",
    "du": "dispute",
    "cn": "credit_note",
    "inpay": "invoice_payment",
    "fee": "application_fee",
    "fr": "fee_refund",
    "bps": "billing_portal.session",
    "bpc": "billing_portal.configuration",
    "cbtxn": "customer_balance_transaction",
}


class Collection(dict[str, Obj]):
    """Objects of one kind in the order of their creation, also findable by the customer or invoice they belong to."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.by_owner: dict[str, list[str]] = defaultdict(list)

    def add(self, obj: Obj) -> Obj:
        """Keep a new object."""
        self[obj["id"]] = obj
        for owner in ("customer", "invoice"):
            if obj.get(owner):
                self.by_owner[obj[owner]].append(obj["id"])
        return obj

    def need(self, object_id: str, param: str = "id") -> Obj:
        """The object, deleted ones included. Raises 404 resource_missing."""
        try:
            return self[object_id]
        except KeyError:
            raise no_such(self.kind, object_id, param) from None

    def alive(self, object_id: str, param: str = "id") -> Obj:
        """The object, unless deleted. Raises 404 resource_missing."""
        obj = self.need(object_id, param)
        if obj.get("deleted"):
            raise no_such(self.kind, object_id, param)
        return obj

    def newest_first(self, owner: str | None = None) -> Iterator[Obj]:
        """All that is not deleted; of one customer or invoice when asked."""
        ids: Iterable[str] = reversed(self) if owner is None else reversed(self.by_owner.get(owner, []))
        return (obj for object_id in ids if (obj := self.get(object_id)) and not obj.get("deleted"))


@dataclass
class Account:
    """One Stripe account: the platform's own or a publisher's. Settings are public for tests to turn."""

    id: str
    details: Obj
    connected: bool = False
    scope: str = "read_write"
    tax_percentage: Decimal | None = None
    default_tax_behavior: str | None = None
    currencies: frozenset[str] | None = None
    has_portal_configuration: bool = True
    retry_days: tuple[int, ...] = ()
    keys: Keys = field(default_factory=Keys)
    customers: Collection = field(default_factory=lambda: Collection("customer"))
    products: Collection = field(default_factory=lambda: Collection("product"))
    payment_methods: Collection = field(default_factory=lambda: Collection("PaymentMethod"))
    invoices: Collection = field(default_factory=lambda: Collection("invoice"))
    invoice_lines: dict[str, list[Obj]] = field(default_factory=dict)
    invoice_fees: dict[str, int | None] = field(default_factory=dict)
    tax_behaviors: dict[str, str | None] = field(default_factory=dict)
    invoice_payments: Collection = field(default_factory=lambda: Collection("invoice_payment"))
    payment_intents: Collection = field(default_factory=lambda: Collection("payment_intent"))
    charges: Collection = field(default_factory=lambda: Collection("charge"))
    refunds: Collection = field(default_factory=lambda: Collection("refund"))
    disputes: Collection = field(default_factory=lambda: Collection("dispute"))
    credit_notes: Collection = field(default_factory=lambda: Collection("credit_note"))
    checkout_sessions: Collection = field(default_factory=lambda: Collection("checkout.session"))
    setup_intents: Collection = field(default_factory=lambda: Collection("setupintent"))
    portal_sessions: Collection = field(default_factory=lambda: Collection("billing_portal.session"))
    portal_configurations: Collection = field(default_factory=lambda: Collection("configuration"))
    balance_transactions: Collection = field(default_factory=lambda: Collection("customer_balance_transaction"))
    application_fees: Collection = field(default_factory=lambda: Collection("application_fee"))
    fee_refunds: Collection = field(default_factory=lambda: Collection("fee_refund"))
    card_outcomes: dict[str, str] = field(default_factory=dict)
    card_saving: dict[str, str] = field(default_factory=dict)

    def collection(self, prefix: str) -> Collection | None:
        """Where objects whose id starts with `prefix` live."""
        return {
            "cus": self.customers,
            "prod": self.products,
            "pm": self.payment_methods,
            "in": self.invoices,
            "inpay": self.invoice_payments,
            "pi": self.payment_intents,
            "ch": self.charges,
            "re": self.refunds,
            "du": self.disputes,
            "cn": self.credit_notes,
            "cs": self.checkout_sessions,
            "seti": self.setup_intents,
            "cbtxn": self.balance_transactions,
            "fee": self.application_fees,
            "fr": self.fee_refunds,
            "bpc": self.portal_configurations,
        }.get(prefix)

    def find(self, object_id: str) -> Obj | None:
        """Any object of this account by id alone."""
        collection = self.collection(object_id.partition("_")[0])
        return None if collection is None else collection.get(object_id)

    def charged(self) -> dict[str, int]:
        """Succeeded charges before refunds, by currency, in minor units."""
        totals: dict[str, int] = defaultdict(int)
        for charge in self.charges.values():
            if charge["status"] == "succeeded":
                totals[charge["currency"]] += charge["amount"]
        return dict(totals)


class Ids:
    """Ids that look like Stripe's and depend on the seed and on the order of creation alone."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._made = 0

    def new(self, prefix: str, length: int = 24) -> str:
        """The next id."""
        return f"{prefix}_{self.word(length)}"

    def word(self, length: int = 24) -> str:
        """The next opaque word."""
        self._made += 1
        return blake2b(f"{self._seed}:{self._made}".encode(), digest_size=32).hexdigest()[:length]


def merged_metadata(old: dict[str, str], given: dict[str, str] | str | None) -> dict[str, str]:
    """Keys merge; an empty value removes its key; an empty string removes all."""
    if given is None:
        return old
    if isinstance(given, str):
        return {}
    merged = {key: value for key, value in {**old, **given}.items() if value != ""}
    if len(merged) > 50:
        raise invalid("Metadata can have at most 50 keys", "metadata")
    for key, value in given.items():
        if len(key) > 40 or len(value) > 500 or "[" in key or "]" in key:
            raise invalid(f"Invalid metadata: key '{key[:40]}' or its value is too long or malformed", "metadata")
    return merged


def unset(params: Obj, name: str, default: Any = None) -> Any:
    """A parameter whose empty string means none."""
    value = params.get(name, default)
    return None if value == "" else value


def page(objects: Iterable[Obj], params: Obj, url: str, *, keep: Callable[[Obj], bool] | None = None) -> Obj:
    """One page of a list, newest first. Raises Refusal on a bad limit or cursor."""
    limit = params.get("limit", 10)
    if not 1 <= limit <= 100:
        bound = "greater than or equal to 1" if limit < 1 else "less than or equal to 100"
        raise invalid(f"This value must be {bound}.", "limit", "parameter_invalid_integer")
    after, before = params.get("starting_after"), params.get("ending_before")
    if after and before:
        raise invalid("You can only pass one of ending_before or starting_after.", code="parameters_exclusive")
    if before:
        return _page_before(objects, before, limit, url, keep)
    found: list[Obj] = []
    started = after is None
    for obj in objects:
        if not started:
            started = obj["id"] == after
        elif keep is None or keep(obj):
            found.append(obj)
            if len(found) > limit:
                break
    if not started:
        raise no_such("object", str(after), "starting_after")
    return {"object": "list", "url": url, "has_more": len(found) > limit, "data": found[:limit]}


def _page_before(objects: Iterable[Obj], before: str, limit: int, url: str, keep: Callable[[Obj], bool] | None) -> Obj:
    found: list[Obj] = []
    for obj in objects:
        if obj["id"] == before:
            return {"object": "list", "url": url, "has_more": len(found) > limit, "data": found[-limit:]}
        if keep is None or keep(obj):
            found.append(obj)
    raise no_such("object", before, "ending_before")


def in_range(value: int | None, wanted: Any) -> bool:
    """Stripe's time filters: an instant, or gt, gte, lt, lte."""
    if wanted is None:
        return True
    if value is None:
        return False
    if isinstance(wanted, int):
        return value == wanted
    bounds = (
        value > wanted.get("gt", value - 1),
        value >= wanted.get("gte", value),
        value < wanted.get("lt", value + 1),
        value <= wanted.get("lte", value),
    )
    return all(bounds)


def matching(params: Obj, *fields: str) -> Callable[[Obj], bool]:
    """Equality on the named fields where the request gives them, and `created`."""
    wanted = {name: params[name] for name in fields if name in params}
    created = params.get("created")
    return lambda obj: (
        all(obj.get(name) == value for name, value in wanted.items()) and in_range(obj.get("created"), created)
    )


def expanded(obj: Obj, paths: Iterable[str], resolve: Callable[[Obj, str], Any]) -> Obj:
    """A copy with ids replaced by their objects along `a.b.data.c`. `resolve(holder, field)` gives the value."""
    for path in paths:
        obj = _expand(obj, path.split("."), path, resolve)
    return obj


def _expand(obj: Obj, steps: list[str], path: str, resolve: Callable[[Obj, str], Any]) -> Obj:
    head, rest = steps[0], steps[1:]
    value = obj.get(head)
    if not isinstance(value, (dict, list)):
        value = resolve(obj, head)
        if value is None and head not in obj:
            raise invalid(f"This property cannot be expanded ({path}).", "expand")
    if rest and isinstance(value, dict):
        value = _expand(value, rest, path, resolve)
    elif rest and isinstance(value, list):
        value = [_expand(one, rest, path, resolve) for one in value]
    return {**obj, head: value}


def need(params: Obj, name: str) -> Any:
    """A parameter that Stripe needs though the SDK's type leaves it out."""
    if params.get(name) in (None, ""):
        raise missing(name)
    return params[name]
