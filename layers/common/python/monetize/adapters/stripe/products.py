"""A plan as a product on the publisher's Stripe account: one per plan and tax code, under an id of ours."""

from typing import Any

import stripe

from monetize.adapters.stripe.client import options, told_as_ours
from monetize.domain.errors import Invalid, NotFound, ProviderRefused


class StripeProducts:
    """Makes a product once, whatever crashes or repeats: its id follows from the plan and the tax code.

    The id is the idempotency key, for ever. Stripe's own keys are pruned after a day, and would replay a stored 500.
    """

    def __init__(self, client: stripe.StripeClient) -> None:
        self._client = client

    def ensure(self, account: str, publisher: str, plan: str, name: str, tax_code: str | None) -> str:
        """The product's id, made if there is none, named as the plan is. Invalid `unknown_tax_code`.

        A tax code is the product's, and subscribers of an older version keep theirs: so another code, another product.
        """
        product = product_id(plan, tax_code)
        try:
            with told_as_ours():
                found = self._client.v1.products.retrieve(product, None, options(account))
        except NotFound:
            return self._create(account, publisher, plan, name, tax_code)
        if found.to_dict().get("deleted"):
            return self._create(account, publisher, plan, name, tax_code)
        if found.name != name or not found.active:
            with told_as_ours():
                self._client.v1.products.update(product, {"name": name, "active": True}, options(account))
        return product

    def _create(self, account: str, publisher: str, plan: str, name: str, tax_code: str | None) -> str:
        product = product_id(plan, tax_code)
        request: Any = {"id": product, "name": name, "metadata": {"publisher": publisher, "plan": plan}}
        if tax_code is not None:
            request["tax_code"] = tax_code
        try:
            with told_as_ours():
                self._client.v1.products.create(request, options(account))
        except ProviderRefused as refused:
            if refused.members.get("provider_code") == "resource_already_exists":
                return product  # somebody next to us made it between the look and the making
            if refused.members.get("param") == "tax_code":
                raise Invalid("unknown_tax_code", f"Stripe knows no tax code {tax_code!r}.") from refused
            raise
        return product


def product_id(plan: str, tax_code: str | None) -> str:
    """The product's id at Stripe, the same on every account the publisher ever connects."""
    return f"apim_{plan}" if tax_code is None else f"apim_{plan}_{tax_code}"
