"""Customers, their cards and balances, and products."""

from collections.abc import Iterator
from typing import Any

from local.stripe_emulator import cards
from local.stripe_emulator.refusals import Refusal, invalid, no_such
from local.stripe_emulator.search import searched
from local.stripe_emulator.store import Account, Obj, matching, merged_metadata, need, page, unset
from local.stripe_emulator.world import Call, World, deleted, route

_TEXTS = ("name", "email", "description", "phone", "address", "shipping", "business_name", "individual_name")


@route("POST", "/v1/customers")
def create_customer(call: Call) -> Obj:
    """A customer; with `payment_method`, that card is attached."""
    world, params = call.world, call.params
    new_id = world.ids.new("cus", 14)
    customer: Obj = {
        "id": new_id,
        "object": "customer",
        "created": call.now,
        "livemode": world.livemode,
        "metadata": {},
        "balance": 0,
        "invoice_credit_balance": {},
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "discount": None,
        "invoice_prefix": world.ids.word(8).upper(),
        "next_invoice_sequence": 1,
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "preferred_locales": [],
        "tax_exempt": "none",
        **dict.fromkeys(_TEXTS),
    }
    _assign(call, customer)
    call.account.customers.add(customer)
    if "payment_method" in params:
        try:
            attach(call.world, call.account, params["payment_method"], new_id)
        except Refusal:
            del call.account.customers[new_id]
            raise
    call.emit("customer.created", customer)
    return customer


@route("GET", "/v1/customers/{}")
def retrieve_customer(call: Call) -> Obj:
    """A deleted one answers `deleted: true`, not 404."""
    return call.account.customers.need(call.ids[0])


@route("POST", "/v1/customers/{}")
def update_customer(call: Call) -> Obj:
    """Change what is given."""
    customer = call.account.customers.alive(call.ids[0])
    before = {name: customer[name] for name in call.params if name in customer}
    _assign(call, customer)
    call.emit("customer.updated", customer, before)
    return customer


@route("DELETE", "/v1/customers/{}")
def delete_customer(call: Call) -> Obj:
    """For good; its cards are detached."""
    return remove_customer(call.world, call.account, call.ids[0])


@route("GET", "/v1/customers")
def list_customers(call: Call) -> Obj:
    """Filter by e-mail and creation."""
    return page(call.account.customers.newest_first(), call.params, call.path, keep=matching(call.params, "email"))


@route("GET", "/v1/customers/search")
def search_customers(call: Call) -> Obj:
    """Up to an hour behind."""
    return searched(call, call.account.customers)


@route("GET", "/v1/customers/{}/balance_transactions")
def list_balance(call: Call) -> Obj:
    """What moved a customer's balance."""
    call.account.customers.need(call.ids[0], "customer")
    return page(call.account.balance_transactions.newest_first(call.ids[0]), call.params, call.path)


@route("POST", "/v1/customers/{}/balance_transactions")
def create_balance(call: Call) -> Obj:
    """An adjustment: negative is credit."""
    call.account.customers.alive(call.ids[0], "customer")
    return move_balance(
        call.world, call.account, call.ids[0], call.params["currency"], call.params["amount"], "adjustment"
    )


def remove_customer(world: World, account: Account, customer_id: str) -> Obj:
    """Delete a customer."""
    customer = account.customers.alive(customer_id)
    for method in list(account.payment_methods.newest_first(customer_id)):
        if method["customer"] == customer_id:
            detach(world, account, method["id"])
    stub = deleted(customer, account.customers)
    world.emit(account, "customer.deleted", customer)
    return stub


def balance_of(customer: Obj, currency: str) -> int:
    """Positive: owed to the account. Negative: credit. Minor units."""
    return int(customer.get("invoice_credit_balance", {}).get(currency, 0))


def move_balance(
    world: World, account: Account, customer_id: str, currency: str, amount: int, kind: str, **refs: Any
) -> Obj:
    """Add to a customer's balance in one currency."""
    customer = account.customers.need(customer_id)
    ending = balance_of(customer, currency) + amount
    if not customer.get("deleted"):
        customer["currency"] = customer["currency"] or currency
        customer["invoice_credit_balance"][currency] = ending
        if customer["currency"] == currency:
            customer["balance"] = ending
    return account.balance_transactions.add(
        {
            "id": world.ids.new("cbtxn"),
            "object": "customer_balance_transaction",
            "amount": amount,
            "created": world.now,
            "currency": currency,
            "customer": customer_id,
            "ending_balance": ending,
            "livemode": world.livemode,
            "metadata": {},
            "type": kind,
            "credit_note": None,
            "invoice": None,
            **refs,
        }
    )


def _assign(call: Call, customer: Obj) -> None:
    params = call.params
    settings = dict(customer["invoice_settings"])
    for name, value in (params.get("invoice_settings") or {}).items():
        settings[name] = None if value == "" else value
    default = settings.get("default_payment_method")
    if default and default != customer["invoice_settings"]["default_payment_method"]:
        method = call.account.payment_methods.need(default, "invoice_settings[default_payment_method]")
        if method["customer"] != customer["id"]:
            raise invalid(
                "The customer does not have a payment method with the ID "
                f"{default}. The payment method must be attached to the customer.",
                "invoice_settings[default_payment_method]",
            )
    metadata = merged_metadata(customer["metadata"], params.get("metadata"))
    customer.update(metadata=metadata, invoice_settings=settings)
    for name in (*_TEXTS, "tax_exempt", "preferred_locales", "invoice_prefix", "next_invoice_sequence"):
        if name in params:
            customer[name] = unset(params, name)


# --- payment methods ---


@route("POST", "/v1/payment_methods")
def create_payment_method(call: Call) -> Obj:
    """A card by its test number; it declines when attached, as Stripe's do."""
    details = need(call.params, "card")
    return new_card(
        call.world,
        call.account,
        cards.card(need(details, "number")),
        details.get("exp_month", 12),
        details.get("exp_year", 2040),
        call.params.get("metadata"),
    )


@route("GET", "/v1/payment_methods/{}")
def retrieve_payment_method(call: Call) -> Obj:
    """Detached ones too."""
    return call.account.payment_methods.need(call.ids[0])


@route("POST", "/v1/payment_methods/{}")
def update_payment_method(call: Call) -> Obj:
    """Expiry, billing details, metadata."""
    method = call.account.payment_methods.need(call.ids[0])
    if method["customer"] is None:
        raise invalid("You must attach this PaymentMethod to a customer before you can update it.")
    method["metadata"] = merged_metadata(method["metadata"], call.params.get("metadata"))
    method["billing_details"].update(call.params.get("billing_details") or {})
    changed = call.params.get("card") or {}
    method["card"].update({name: changed[name] for name in ("exp_month", "exp_year") if name in changed})
    call.emit("payment_method.updated", method)
    return method


@route("POST", "/v1/payment_methods/{}/attach")
def attach_payment_method(call: Call) -> Obj:
    """To one customer, once."""
    return attach(call.world, call.account, call.ids[0], need(call.params, "customer"))


@route("POST", "/v1/payment_methods/{}/detach")
def detach_payment_method(call: Call) -> Obj:
    """For good: it cannot be attached again."""
    return detach(call.world, call.account, call.ids[0])


@route("GET", "/v1/payment_methods")
def list_payment_methods(call: Call) -> Obj:
    """Of one customer."""
    return page(
        _attached(call, need(call.params, "customer")), call.params, call.path, keep=matching(call.params, "type")
    )


@route("GET", "/v1/customers/{}/payment_methods")
def list_customer_payment_methods(call: Call) -> Obj:
    """Of one customer."""
    return page(_attached(call, call.ids[0]), call.params, call.path, keep=matching(call.params, "type"))


@route("GET", "/v1/customers/{}/payment_methods/{}")
def retrieve_customer_payment_method(call: Call) -> Obj:
    """Of one customer alone."""
    method = call.account.payment_methods.need(call.ids[1], "payment_method")
    if method["customer"] != call.ids[0]:
        raise no_such("PaymentMethod", call.ids[1], "payment_method")
    return method


def _attached(call: Call, customer_id: str) -> Iterator[Obj]:
    call.account.customers.alive(customer_id, "customer")
    methods = call.account.payment_methods.newest_first(customer_id)
    return (method for method in methods if method["customer"] == customer_id)


def new_card(
    world: World, account: Account, card: cards.Card, exp_month: int, exp_year: int, metadata: Any = None
) -> Obj:
    """A payment method that belongs to nobody yet."""
    new_id = world.ids.new("pm")
    account.card_outcomes[new_id] = card.charging
    account.card_saving[new_id] = card.saving
    return account.payment_methods.add(
        {
            "id": new_id,
            "object": "payment_method",
            "type": "card",
            "created": world.now,
            "customer": None,
            "livemode": world.livemode,
            "metadata": merged_metadata({}, metadata),
            "allow_redisplay": "always",
            "billing_details": {"address": None, "email": None, "name": None, "phone": None, "tax_id": None},
            "card": {
                "brand": card.brand,
                "display_brand": card.brand,
                "country": card.country,
                "exp_month": exp_month,
                "exp_year": exp_year,
                "fingerprint": f"fp{card.number[::-1]}",
                "funding": card.funding,
                "last4": card.last4,
                "checks": {"cvc_check": "pass"},
                "wallet": None,
                "three_d_secure_usage": {"supported": True},
                "networks": {"available": [card.brand], "preferred": None},
            },
        }
    )


def attach(world: World, account: Account, method_id: str, customer_id: str, *, authenticated: bool = False) -> Obj:
    """Attach a card. Raises the card's own decline, and 400 for one that was used up."""
    customer = account.customers.alive(customer_id, "customer")
    if method_id in cards.NAMED:
        method_id = new_card(world, account, cards.card(cards.NAMED[method_id]), 12, 2040)["id"]
    method = account.payment_methods.need(method_id, "payment_method")
    if method["customer"] == customer_id:
        return method
    if method["customer"] is not None or method_id not in account.card_saving:
        raise invalid("This PaymentMethod was previously used or detached from a Customer, and may not be used again.")
    saving = account.card_saving[method_id]
    if saving in cards.DECLINES and not (saving == cards.AUTHENTICATION and authenticated):
        if saving != cards.AUTHENTICATION:
            raise cards.decline(saving)
        account.card_outcomes[method_id] = cards.AUTHENTICATION  # never set up, so every charge asks again
    del account.card_saving[method_id]
    method["customer"] = customer["id"]
    account.payment_methods.by_owner[customer_id].append(method_id)
    world.emit(account, "payment_method.attached", method)
    return method


def detach(world: World, account: Account, method_id: str) -> Obj:
    """Take a card away from its customer, and from its defaults."""
    method = account.payment_methods.need(method_id, "payment_method")
    owner = method["customer"]
    if owner is None:
        raise invalid("The payment method you provided is not attached to a customer so detachment is impossible.")
    method["customer"] = None
    account.payment_methods.by_owner[owner].remove(method_id)
    customer = account.customers[owner]
    if not customer.get("deleted") and customer["invoice_settings"]["default_payment_method"] == method_id:
        customer["invoice_settings"]["default_payment_method"] = None
        world.emit(account, "customer.updated", customer)
    world.emit(account, "payment_method.detached", method, previous={"customer": owner})
    return method


# --- products ---


@route("POST", "/v1/products")
def create_product(call: Call) -> Obj:
    """The id may be the caller's."""
    params = call.params
    new_id = params.get("id") or call.world.ids.new("prod", 14)
    if new_id in call.account.products and not call.account.products[new_id].get("deleted"):
        raise invalid("Product already exists.", "id", "resource_already_exists")
    product: Obj = {
        "id": new_id,
        "object": "product",
        "active": params.get("active", True),
        "created": call.now,
        "updated": call.now,
        "livemode": call.world.livemode,
        "name": params["name"],
        "type": "service",
        "default_price": None,
        "description": unset(params, "description"),
        "images": params.get("images", []),
        "marketing_features": [],
        "metadata": merged_metadata({}, params.get("metadata")),
        "package_dimensions": None,
        "shippable": None,
        "statement_descriptor": params.get("statement_descriptor"),
        "tax_code": unset(params, "tax_code"),
        "unit_label": unset(params, "unit_label"),
        "url": None,
    }
    call.account.products.add(product)
    call.emit("product.created", product)
    return product


@route("GET", "/v1/products/{}")
def retrieve_product(call: Call) -> Obj:
    """A deleted one is gone."""
    return call.account.products.alive(call.ids[0])


@route("POST", "/v1/products/{}")
def update_product(call: Call) -> Obj:
    """Change what is given."""
    product = call.account.products.alive(call.ids[0])
    product["metadata"] = merged_metadata(product["metadata"], call.params.get("metadata"))
    for name in ("active", "name", "description", "tax_code", "unit_label", "images", "statement_descriptor"):
        if name in call.params:
            product[name] = unset(call.params, name)
    product["updated"] = call.now
    call.emit("product.updated", product)
    return product


@route("DELETE", "/v1/products/{}")
def delete_product(call: Call) -> Obj:
    """For good."""
    product = call.account.products.alive(call.ids[0])
    stub = deleted(product, call.account.products)
    call.emit("product.deleted", product)
    return stub


@route("GET", "/v1/products")
def list_products(call: Call) -> Obj:
    """Filter by activity, ids and creation."""
    wanted, fits = call.params.get("ids"), matching(call.params, "active")
    return page(
        call.account.products.newest_first(),
        call.params,
        call.path,
        keep=lambda obj: fits(obj) and (wanted is None or obj["id"] in wanted),
    )
