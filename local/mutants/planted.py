"""The planted faults: where, which text becomes which, what it breaks, and who has to notice.

A killer is a share of the simulator (`two 0-149`, `crash month 0-2`) or tests (`pytest tests/unit/test_money.py -k …`).
"""

# ruff: noqa: E501 # quoted code stands as it stands in its file

from collections.abc import Mapping
from dataclasses import dataclass

LAYER = "layers/common/python/monetize"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault. The old text stands exactly once in its file."""

    name: str
    file: str
    old: str
    new: str
    breaks: str
    killers: tuple[str, ...]


def _(file: str, name: str, old: str, new: str, breaks: str, *killers: str) -> Mutant:
    elsewhere = file.startswith(("functions/", "template.yaml"))
    return Mutant(name, file if elsewhere else f"{LAYER}/{file}", old, new, breaks, killers)


UNIT, WITH, SIMULATION = "pytest tests/unit/", "pytest tests/integration/", "pytest tests/simulation/"
ABUSE = "pytest tests/abuse/"

PLANTED = (
    # --- the bill ---
    _(
        "services/billing.py",
        "draft_not_stored_before_use",
        """    bill = ports.store.save(
        replace(bill, status=states.BILL.move(bill.status, "draft"), invoice=made, account=wanted.account)
    )
    if before is not None and before.status != "draft":
        return bill, before
    return bill, ports.invoices.add_lines(wanted, made, lines)""",
        """    held = ports.invoices.add_lines(wanted, made, lines)
    held = ports.invoices.finalize(wanted.account, held.id, bill.id, bill.attempt)
    bill = ports.store.save(
        replace(bill, status=states.BILL.move(bill.status, "draft"), invoice=made, account=wanted.account)
    )
    return bill, held""",
        "any draft is finalized, not only the stored one",
        "two 0-399",
        "all 0-149",
    ),
    _(
        "services/billing.py",
        "done_before_recorded",
        """    ports.store.record_invoice(record(bill, held, publisher, now))
    if held.status == "open" and held.collection == "send_invoice":
        ports.invoices.send(wanted.account, held.id, bill.id)  # nothing comes back to a bill that says it is sent
    sent = replace(bill, status=states.BILL.move(bill.status, "send"), sent_at=now, next_at=None)
    ports.store.save(sent)
""",
        """    if held.status == "open" and held.collection == "send_invoice":
        ports.invoices.send(wanted.account, held.id, bill.id)
    sent = replace(bill, status=states.BILL.move(bill.status, "send"), sent_at=now, next_at=None)
    ports.store.save(sent)
    ports.store.record_invoice(record(bill, held, publisher, now))
""",
        "sent is said before the invoice is on record: a crash between loses it",
        "crash month 0-1",
    ),
    _(
        "services/billing.py",
        "off_the_list_when_claimed",
        "            next_at=at + LEASE,\n            created_at=at,",
        "            next_at=None,\n            created_at=at,",
        "a claimed bill is not in the to-do list: a crash leaves it for ever",
        "crash month 0-1",
    ),
    _(
        "services/billing.py",
        "redraft_keeps_the_attempt",
        "invoice=None, attempt=bill.attempt + 1)",
        "invoice=None, attempt=bill.attempt)",
        "the next attempt's draft comes under the last one's key: the deleted one again",
        "crash month 0-1",
        "all 0-99",
    ),
    _(
        "services/billing.py",
        "no_look_before_creating_late",
        "if bill.belated or at - bill.created_at > KEY_LIFE else None",
        "if bill.belated else None",
        "a draft whose key Stripe forgot is made a second time",
        SIMULATION + "test_worlds.py -k forgot",
    ),
    _(
        "services/billing.py",
        "finalized_invoice_not_looked_for",
        "    return min(sent or drafts, key=",
        "    return min(drafts, key=",
        "after a restore a bill gets a second invoice beside the one that was paid",
        WITH + "test_restore.py -k too_early",
    ),
    _(
        "services/billing.py",
        "total_not_compared",
        """        if found:
            raise Parked("total_differs")""",
        """        if found and bill.lines < 0:
            raise Parked("total_differs")""",
        "a draft that somebody changed is finalized",
        WITH + "test_billing.py -k differs",
    ),
    _(
        "services/billing.py",
        "billed_before_the_grace",
        "        if edge is None or bill_due_at(moved, edge, grace) > at:",
        "        if edge is None or bill_due_at(moved, edge, 0) > at:",
        "usage within the grace comes too late",
        SIMULATION + "test_worlds.py -k grace",
    ),
    _(
        "services/billing.py",
        "any_worker_goes_on",
        """    except PreconditionFailed:
        return Worked("elsewhere", bill.id)  # another worker moved it: it is theirs""",
        """    except PreconditionFailed:
        return park(bill, "elsewhere", ports)""",
        "two workers on one bill park it",
        "two 0-399",
    ),
    _(
        "adapters/dynamo/billing.py",
        "claim_without_the_bill_s_condition",
        """            self.subscriptions.save(was, moved, also=(put(bill),))""",
        """            op = put(bill)
            del op.body["ConditionExpression"]
            self.subscriptions.save(replace(was, rev=self.subscription(was.id).rev), moved, also=(op,))""",
        "a bill is claimed again over the one that is there",
        "two 0-149",
    ),
    _(
        "adapters/dynamo/billing.py",
        "frozen_lines_are_overwritten",
        """        try:
            self.table.write(put(lines))
        except Lost:
            stored = self.lines""",
        """        try:
            op = put(lines)
            op.body.pop("ConditionExpression")
            self.table.write(op)
        except Lost:
            stored = self.lines""",
        "who rates last decides what was billed",
        WITH + "test_billing.py -k rated_first",
    ),
    _(
        "adapters/dynamo/billing.py",
        "counted_numbers_are_not_looked_for",
        "if here[0].issuperset(ids) and here[1].issuperset(numbers):",
        "if here[0].issuperset(ids):",
        "what a new meter counted is left out of the bill by a worker that remembers the others",
        WITH + "test_billing.py -k remembered",
    ),
    _(
        "adapters/dynamo/billing.py",
        "due_this_second_is_not_due",
        '":until": {"S": keys.instant(now) + "$"},  # after "now#…": what is due this very second is due',
        '":until": {"S": keys.instant(now)},',
        "what is due this very second waits for another tick",
        SIMULATION + "test_worlds.py -k very_second",
    ),
    _(
        "adapters/dynamo/table.py",
        "writes_without_the_revision",
        '        body["ConditionExpression"] = "rev = :was"\n        body["ExpressionAttributeValues"] = {":was": {"N": str(entity.rev)}}\n    return Op("Put", body)',
        '        pass\n    return Op("Put", body)',
        "the last writer wins",
        "two 0-99",
    ),
    _(
        "adapters/dynamo/table.py",
        "creates_over_what_is_there",
        '        body["ConditionExpression"] = "attribute_not_exists(pk)"\n    else:',
        "        pass\n    else:",
        "creating replaces",
        "two 0-149",
    ),
    _(
        "adapters/dynamo/table.py",
        "conflicts_count_as_conditions",
        'if reason.get("Code") == "ConditionalCheckFailed")',
        'if reason.get("Code") != "None")',
        "a passing conflict is taken for a lost race",
        SIMULATION + "test_worlds.py -k conflict",
    ),
    _(
        "adapters/dynamo/pace.py",
        "no_pace",
        'ConditionExpression="attribute_not_exists(#free) OR #free <= :now"',
        'ConditionExpression="attribute_not_exists(#free) OR #free <= :next"',
        "two bills of one account in the same instant both go at once",
        SIMULATION + "test_worlds.py -k pace",
    ),
    _(
        "services/running.py",
        "leased_before_enqueued",
        """    since = ports.todo.leased_up_to(shard, now, scope)
""",
        """    since = ports.todo.leased_up_to(shard, now, scope)
    ports.todo.lease(shard, now, now + LEASE * 1000 if since is None else None, scope)
""",
        "a crash between lease and queue loses what was due",
        "crash run 0-1",
    ),
    # --- keys and calls ---
    _(
        "adapters/stripe/invoices.py",
        "random_key_for_the_draft",
        'f"{wanted.bill}:{wanted.attempt}:create"',
        "f\"{wanted.bill}:{wanted.attempt}:create:{__import__('random').random()}\"",
        "a repeated request makes another draft",
        "crash month 0-1",
    ),
    _(
        "adapters/stripe/invoices.py",
        "one_key_for_all_drafts",
        'f"{wanted.bill}:{wanted.attempt}:create"',
        'f"{wanted.bill[:4]}:{wanted.attempt}:create"',
        "two subscriptions share a draft",
        WITH + "test_invoice_settings.py -k share_a_key",
    ),
    _(
        "adapters/stripe/invoices.py",
        "advances_by_itself",
        '"auto_advance": False,\n            "collection_method"',
        '"auto_advance": True,\n            "collection_method"',
        "Stripe finalizes drafts that we did not compare",
        SIMULATION + "test_worlds.py -k advance",
    ),
    _(
        "adapters/stripe/invoices.py",
        "takes_what_lies_around",
        '"pending_invoice_items_behavior": "exclude"',
        '"pending_invoice_items_behavior": "include"',
        "somebody's pending items come onto the invoice",
        SIMULATION + "test_worlds.py -k advance",
    ),
    _(
        "adapters/stripe/client.py",
        "key_not_sent",
        """    if key:
        chosen["idempotency_key"] = key""",
        """    if not key:
        chosen["idempotency_key"] = str(key)""",
        "no request is repeatable",
        "crash month 0-1",
    ),
    _(
        "adapters/stripe/client.py",
        "account_not_named",
        '        chosen["stripe_account"] = account',
        '        chosen["stripe_account"] = account if len(account) < 9 else ""',
        "calls go to the platform's own account",
        "two 0-9",
        WITH + "test_billing.py",
    ),
    # --- usage ---
    _(
        "adapters/dynamo/usage.py",
        "seal_skipped",
        'UpdateExpression="SET sealed_through = :day",',
        'UpdateExpression="SET sealed_before = :day",',
        "usage is counted after it was billed",
        "two 0-149",
    ),
    _(
        "adapters/dynamo/usage.py",
        "sealed_day_still_open",
        'NOT_SEALED: Final = "attribute_not_exists(sealed_through) OR sealed_through < :day"',
        'NOT_SEALED: Final = "attribute_not_exists(sealed_through) OR sealed_through <= :day"',
        "the last day of a period stays open after the seal",
        "two 0-299",
        "crash late 0-2",
    ),
    _(
        "adapters/dynamo/usage.py",
        "batch_not_unique",
        """            "Item": _entry_item(pk, keys.batch(group.day, group.batch), group.content, at),
            "ConditionExpression": ABSENT,""",
        """            "Item": _entry_item(pk, keys.batch(group.day, group.batch), group.content, at),
            "ConditionExpression": "attribute_not_exists(nothing)",""",
        "a resent batch is counted again",
        "crash ingest 0-1",
    ),
    _(
        "adapters/dynamo/usage.py",
        "late_batch_overwrites",
        """                Item=_entry_item(pk, keys.late(group.day, group.batch), group.content, at),
                ConditionExpression=ABSENT,""",
        """                Item=_entry_item(pk, keys.late(group.day, group.batch), group.content, at),
                ConditionExpression="attribute_not_exists(nothing)",""",
        "a late batch resent after it was billed is billed again",
        SIMULATION + "test_worlds.py -k resent",
    ),
    _(
        "services/rating_bills.py",
        "late_taken_twice",
        "        mine = {ref: day for ref, day in known.items() if all(ref not in each.late for each in before)}",
        "        mine = dict(known)",
        "two bills take one late entry",
        WITH + "test_billing.py -k late",
        "two 0-99",
    ),
    _(
        "adapters/dynamo/usage.py",
        "retry_said_accepted",
        "outcomes: list[Outcome] = [Outcome.RETRY] * len(groups)",
        "outcomes: list[Outcome] = [Outcome.NEW] * len(groups)",
        "what was not stored is answered with success",
        "all 0-99",
        WITH + "test_usage_ingest.py",
    ),
    _(
        "adapters/dynamo/usage.py",
        "shards_after_the_first_not_sealed",
        "            for shard in range(shards(month)):\n                try:",
        "            for shard in range(1):\n                try:",
        "a hot subscription's other shards count on after the seal",
        WITH + "test_usage_totals.py",
    ),
    _(
        "services/counting.py",
        "settled_by_halves",
        "        delta = -exact.removed.get((day, short), 0) - done[day, short]",
        "        delta = -exact.removed.get((day, short), 0)",
        "what was taken out once is taken out again",
        "crash compact 0-2",
        WITH + "test_usage_totals.py",
    ),
    _(
        "services/counting.py",
        "ledger_not_compared",
        "        if _nonzero(ledger) != totals:",
        "        if len(ledger) < 0:",
        "a counter that lost something is billed",
        WITH + "test_usage_totals.py -k ledger",
    ),
    _(
        "domain/usage.py",
        "duplicates_counted",
        "        places.sort(key=lambda place: place[0])\n        _, day, batch, counted = places[0]\n        for _, other_day, other_batch, quantities in places[1:]:",
        "        places.sort(key=lambda place: place[0])\n        _, day, batch, counted = places[0]\n        for _, other_day, other_batch, quantities in places[2:]:",
        "an event in two batches is billed twice",
        "two 0-149",
    ),
    _(
        "domain/usage.py",
        "arrival_order_wins",
        "    ranks = {name: rank for rank, name in enumerate(sorted(names))}",
        "    ranks = {name: rank for rank, name in enumerate(sorted(names, reverse=True))}",
        "which of two meanings counts depends on arrival, and late ones win",
        UNIT + "test_usage_packing.py",
        WITH + "test_usage_totals.py",
    ),
    _(
        "domain/usage.py",
        "ids_joined_without_length",
        'f"{len(source)} {source}"',
        'f"{source}"',
        "two events that read alike are one",
        UNIT + "test_usage_packing.py",
    ),
    _(
        "domain/usage.py",
        "batch_named_without_quantities",
        "    for short, column in sorted(content.columns.items()):\n        encoded",
        "    for short, column in sorted(content.columns.items())[:0]:\n        encoded",
        "a batch with the same ids and other quantities is taken for a repetition",
        UNIT + "test_usage_packing.py",
        WITH + "test_usage_totals.py",
        WITH + "test_usage_ingest.py",
    ),
    _(
        "services/metering.py",
        "foreign_subject_taken",
        "if found is None or found.publisher != metering.publisher:",
        "if found is None:",
        "a gateway reports usage of another publisher's subscription",
        WITH + "test_usage_ingest.py -k one_bad_event",
    ),
    _(
        "services/metering.py",
        "day_of_the_sender_s_zone",
        "        if time.tzinfo is not UTC:\n            try:",
        "        if time.tzinfo is None:\n            try:",
        "an event near midnight is counted on another day",
        WITH + "test_usage_ingest.py -k zone",
    ),
    # --- rating ---
    _(
        "domain/money.py",
        "float_money",
        "    return int(exact.quantize(_ONE, context=_ROUNDING))",
        "    return round(float(exact))",
        "halves to even, and large amounts lose their cents",
        UNIT + "test_money.py",
        "two 0-99",
    ),
    _(
        "domain/money.py",
        "half_down",
        "    half_up = (2 * abs(numerator) + denominator) // (2 * denominator)",
        "    half_up = (2 * abs(numerator) + denominator - 1) // (2 * denominator)",
        "halves are rounded down",
        UNIT + "test_money.py",
    ),
    _(
        "domain/periods.py",
        "edge_at_itself",
        "    return edge if edge > at else _edge(index + months, anchor)",
        "    return edge if edge >= at else _edge(index + months, anchor)",
        "a period that begins at an edge is empty",
        UNIT + "test_periods.py",
    ),
    _(
        "domain/periods.py",
        "last_day_of_the_next_period",
        "    day, last = period.start.date(), (period.end - _INSTANT).date()",
        "    day, last = period.start.date(), period.end.date()",
        "a period's days hold the first day of the next one",
        UNIT + "test_periods.py",
    ),
    _(
        "domain/pricing/package.py",
        "whole_packages_only",
        "    return -(-quantity // size)",
        "    return quantity // size",
        "a started package is free",
        "two 0-99",
    ),
    _(
        "domain/pricing/graduated.py",
        "tier_reached_too_late",
        "        if quantity <= floor:",
        "        if quantity < floor:",
        "a tier's flat amount is due although no unit reached it",
        "two 0-499",
        UNIT + "test_pricing.py",
    ),
    _(
        "domain/pricing/volume.py",
        "last_unit_in_the_next_tier",
        "        if tier.up_to is None or quantity <= tier.up_to:",
        "        if tier.up_to is None or quantity < tier.up_to:",
        "the last unit of a tier is priced by the next one",
        UNIT + "test_pricing.py",
    ),
    _(
        "domain/pricing/allowance.py",
        "allowance_rounded_down",
        "    return -(-quantity * part_seconds // whole_seconds)",
        "    return quantity * part_seconds // whole_seconds",
        "a prorated allowance is rounded against the subscriber",
        "two 0-99",
    ),
    _(
        "services/rating_bills.py",
        "carry_forgotten",
        "                carried=(*(before[-1].carried if before else ()), *again),",
        "                carried=again,",
        "credit that was carried is never given",
        SIMULATION + "test_worlds.py -k carried",
    ),
    _(
        "services/rating_bills.py",
        "given_back_and_taken",
        "                carried=(*(before[-1].carried if before else ()), *again),",
        "                carried=(*((*before[-1].carried, *before[-1].returned) if before else ()), *again),",
        "what was given back comes off a later bill as well",
        WITH + "test_left_over.py -k comes_after_all",
    ),
    _(
        "services/rating_bills.py",
        "kept_for_no_bill",
        "            returned=tuple(each for each in rated.carried if (each.tax_behavior, each.tax_code) not in takers),",
        "            returned=(),",
        "what no later bill can take is never given back",
        WITH + "test_left_over.py -k becomes_free",
    ),
    _(
        "services/invoice_actions.py",
        "allotted_by_two",
        "        ports.store.save(around.invoice, bill=read, action=action, entries=(entry,))",
        "        ports.store.save(around.invoice, action=action, entries=(entry,))",
        "two who see different invoices give the same credit back twice",
        WITH + "test_left_over.py -k two_who",
    ),
    _(
        "domain/invoices.py",
        "note_without_tax",
        "        return net + prorate(net, self.tax, self.base, self.multiple_of)",
        "        return net",
        "a credit note keeps the tax",
        WITH + "test_left_over.py -k tax_on_top",
    ),
    _(
        "services/rating_bills.py",
        "late_usage_forgotten",
        "        mine = {ref: day for ref, day in known.items() if all(ref not in each.late for each in before)}",
        "        mine = {ref: day for ref, day in known.items() if any(ref in each.late for each in before)}",
        "late usage is never billed",
        WITH + "test_billing.py -k late",
        "two 0-99",
    ),
    _(
        "services/rating_bills.py",
        "earlier_late_usage_forgotten",
        "                segment=parts.segment(stretch, self._ahead_into(subscription, before, stretch), known),",
        "                segment=parts.segment(stretch, self._ahead_into(subscription, before, stretch), mine),",
        "a period corrected a second time loses its first correction",
        SIMULATION + "test_worlds.py -k third",
    ),
    _(
        "services/rating_bills.py",
        "unsealed",
        "            sealed = self.usage.seal(subscription, min(days), max(days), bill.created_at)",
        "            sealed = self.usage.seal(subscription, min(days), min(days), bill.created_at)",
        "only the first day of the period is sealed",
        "two 0-149",
    ),
    _(
        "domain/subscriptions.py",
        "bill_due_without_grace",
        "    return edge + timedelta(hours=grace_hours) if metered else edge",
        "    return edge",
        "metered periods are billed before their grace is over",
        UNIT + "test_subscription_dates.py",
    ),
    _(
        "adapters/dynamo/subscriptions.py",
        "guard_not_checked",
        "guards = [claim(keys.guard(application.id, api), subscription.id) for api in subscription.apis]",
        "guards = [claim(keys.guard(subscription.id, api), subscription.id) for api in subscription.apis]",
        "two live subscriptions of one application and API",
        WITH + "test_subscribing_orders.py",
    ),
    # --- payments and events ---
    _(
        "services/payments.py",
        "event_done_before_its_effect",
        "    _store(around, after, Written(event=(event, outcome)), ports)\n    return outcome",
        "    ports.store.save(event=(event, outcome))\n    _store(around, after, Written(), ports)\n    return outcome",
        "an event is done although its effect was not stored",
        SIMULATION + "test_worlds.py -k done_only",
    ),
    _(
        "adapters/dynamo/inbox.py",
        "done_again",
        '"ConditionExpression": "attribute_exists(pk) AND #state <> :done",',
        '"ConditionExpression": "attribute_exists(pk) OR #state <> :done",',
        "an event has its effect twice",
        WITH + "test_webhook_receive.py",
        WITH + "test_apply_payments.py",
    ),
    _(
        "services/receiving.py",
        "enqueued_only_when_new",
        '    if not ports.inbox.put_if_absent(envelope.notice, now):\n        return "known"\n',
        '    ports.inbox.put_if_absent(envelope.notice, now)\n    if ports.inbox.get(envelope.notice.id)[0].created != now:\n        return "known"\n',
        "an event that was stored and not enqueued is never applied",
        WITH + "test_webhook_receive.py",
        "crash checkout 0-1",
    ),
    _(
        "domain/stripe_events.py",
        "any_secret_will_do",
        "        if any(hmac.compare_digest(expected, each) for each in signatures):",
        "        if any(len(expected) == len(each) for each in signatures):",
        "anybody's signature is good",
        WITH + "test_webhook_receive.py",
    ),
    _(
        "domain/stripe_events.py",
        "old_signatures_taken",
        "    if age > TOLERANCE or -age > FUTURE_TOLERANCE:",
        "    if -age > FUTURE_TOLERANCE:",
        "a recorded webhook can be replayed",
        WITH + "test_webhook_receive.py",
    ),
    _(
        "services/applying.py",
        "another_account_s_invoice",
        "    if ours.stripe_id != notice.object or ours.account != notice.account:",
        "    if ours.stripe_id != notice.object and ours.account != notice.account:",
        "an event of one account changes an invoice of another",
        WITH + "test_webhook_receive.py",
    ),
    _(
        "domain/dunning.py",
        "step_back",
        '    if found.status == "draft" or invoice.status in _ENDS:',
        '    if found.status == "draft":',
        "a paid invoice can be owed again",
        SIMULATION + "test_worlds.py -k owed",
        WITH + "test_payment_life.py",
        WITH + "test_webhook_receive.py",
        WITH + "test_apply_payments.py",
        WITH + "test_reconciliation.py",
    ),
    # --- tenants, people, keys ---
    _(
        "services/onboarding.py",
        "anybody_s_completion",
        "    if pending.user != person.user or not hmac.compare_digest(pending.token_sha256, sha256(completion)):",
        "    if not hmac.compare_digest(pending.token_sha256, sha256(completion)):",
        "another user of the organization confirms a connection",
        WITH + "test_onboarding.py",
    ),
    _(
        "adapters/dynamo/publishers.py",
        "state_used_twice",
        '                ConditionExpression="attribute_exists(pk)",\n                ReturnValues="ALL_OLD",',
        '                ReturnValues="ALL_OLD",',
        "a state that was used answers with an error of ours",
        WITH + "test_onboarding.py",
    ),
    _(
        "adapters/dynamo/publishers.py",
        "account_of_two_publishers",
        'guard.body["ConditionExpression"] = "attribute_not_exists(pk) OR #owner = :owner"',
        'guard.body["ConditionExpression"] = "attribute_not_exists(pk) OR #owner = :owner OR #owner <> :owner"',
        "two organizations hold one Stripe account",
        WITH + "test_onboarding.py",
    ),
    _(
        "services/onboarding.py",
        "lets_go_of_what_is_held",
        "    if ports.publishers.holder_of(account) is None:\n        ports.provider.deauthorize(account)",
        "    ports.provider.deauthorize(account)",
        "an abandoned link deauthorizes another publisher's account",
        WITH + "test_onboarding.py",
    ),
    _(
        "services/subscription_access.py",
        "key_not_scoped",
        'return sha256(f"{person.organization}\\n{person.user}\\n{route}\\n{key}".encode()).hexdigest()',
        'return sha256(f"{route}\\n{key}".encode()).hexdigest()',
        "tenant B's request with tenant A's key answers tenant A's subscription",
        WITH + "test_subscribing_orders.py",
        WITH + "test_subscribing_changes.py",
        WITH + "test_subscribing_routes.py",
    ),
    _(
        "services/subscription_access.py",
        "foreign_subscription_visible",
        "    if subscription is None or person.organization not in (subscription.publisher, subscription.subscriber):\n        raise NotFound",
        "    if subscription is None:\n        raise NotFound",
        "anybody reads and changes anybody's subscription",
        WITH + "test_subscribing_changes.py -k stranger",
        WITH + "test_subscribing_routes.py",
    ),
    _(
        "domain/entitlements.py",
        "foreign_gateway_asks",
        "    if not key.usable(now) or it.publisher != rules.publisher:",
        "    if not key.usable(now):",
        "a gateway learns about another publisher's keys",
        WITH + "test_entitlements.py",
    ),
    _(
        "domain/entitlements.py",
        "access_outlives_the_grace",
        "        if now >= (it.suspend_at or it.past_due_since + timedelta(days=grace)):",
        "        if now > (it.suspend_at or it.past_due_since + timedelta(days=grace)) + timedelta(days=1):",
        "access outlives the grace",
        WITH + "test_entitlements.py",
        WITH + "test_payment_life.py",
    ),
    _(
        "services/entitling.py",
        "quota_one_too_many",
        "each.hard and each.used >= each.limit]",
        "each.hard and each.used > each.limit]",
        "a hard quota lets one call too many through",
        WITH + "test_entitlements.py",
    ),
    _(
        "domain/states.py",
        "sent_bills_can_be_redrafted",
        '        "sent": {"pay": "paid", "void": "void", "write_off": "uncollectible"},',
        '        "sent": {"pay": "paid", "void": "void", "write_off": "uncollectible", "redraft": "rated"},',
        "a bill that was sent can be billed again",
        UNIT + "test_subscription_states.py",
        WITH + "test_runs.py",
    ),
    # --- runs: leases, pages ---
    _(
        "services/running.py",
        "ticks_renew_the_lease",
        "now + LEASE if since is None else None, scope",
        "now + LEASE, scope",
        "with a tick every hour a lease never ends: a message that was lost is never sent again",
        WITH + "test_leases.py",
    ),
    _(
        "services/running.py",
        "leased_although_the_queue_refused",
        "        if lost:\n            raise Unavailable(",
        "        if len(lost) > len(page):\n            raise Unavailable(",
        "what the queue did not take is leased as if it had",
        WITH + "test_leases.py",
    ),
    _(
        "adapters/dynamo/billing.py",
        "first_page_of_what_is_due",
        """            if "LastEvaluatedKey" not in answer:
                return""",
        """            if "LastEvaluatedKey" not in answer or since is None:
                return""",
        "what is due beyond the first page is leased and not enqueued",
        WITH + "test_paging.py",
    ),
    _(
        "adapters/dynamo/usage.py",
        "first_page_of_the_ledger",
        """            yield from answer["Items"]
            if "LastEvaluatedKey" not in answer:""",
        """            yield from answer["Items"]
            if "LastEvaluatedKey" not in answer or answer["Items"]:""",
        "entries of the ledger beyond the first page are not counted",
        WITH + "test_paging.py",
    ),
    _(
        "adapters/stripe/invoices.py",
        "ten_lines_are_enough",
        "        if held.line_count_complete:",
        "        if held.line_count_complete or held.lines:",
        "of a draft of more than ten lines the total alone is compared",
        WITH + "test_paging.py",
    ),
    # --- what a version says, for ever ---
    _(
        "services/rating_bills.py",
        "latest_version_bills",
        "self._versions.get((plan, number)) or self._rater.store.plan_version(plan, number)",
        "self._rater.store.plan_version(plan, number + 1) or self._rater.store.plan_version(plan, number)",
        "a subscription pays the version that was published after it began",
        WITH + "test_subscription_life.py -k version",
    ),
    _(
        "adapters/dynamo/catalog.py",
        "published_version_replaced",
        "        self._write([put(plan), put(version), ",
        '        over = put(version)\n        del over.body["ConditionExpression"]\n        self._write([put(plan), over, ',
        "a plan whose head is older than its versions rewrites one that subscriptions pay",
        WITH + "test_plans_routes.py -k never_replaced",
    ),
    _(
        "domain/periods.py",
        "anchor_does_not_come_back",
        "min(anchor.day, last)",
        "min(anchor.day, 28)",
        "who began on the 31st is billed on the 28th for ever",
        UNIT + "test_periods.py",
    ),
    _(
        "domain/periods.py",
        "anchor_runs_over",
        "    return datetime(year, month + 1, min(anchor.day, last), tzinfo=UTC)",
        "    over = timedelta(days=max(0, anchor.day - last))\n    return datetime(year, month + 1, min(anchor.day, last), tzinfo=UTC) + over",
        "who began on the 31st is billed on 3 March for February",
        UNIT + "test_periods.py",
    ),
    # --- who may read what, and what is told ---
    _(
        "template.yaml",
        "webhook_reads_the_stripe_key",
        ':parameter${WebhookSecretsParameter}"',
        ':parameter${StripeKeyParameter}"',
        "who takes webhooks reads the platform's key",
        UNIT + "test_template.py -k stripe_key",
    ),
    _(
        "template.yaml",
        "webhook_reads_every_secret",
        ':parameter${WebhookSecretsParameter}"',
        ':parameter/*"',
        "who takes webhooks reads every parameter, the platform's key among them",
        UNIT + "test_template.py -k star",
    ),
    _(
        "functions/record_usage/app.py",
        "refusals_log_their_request",
        'logger.warning("usage refused", extra={"code": refusal.code})',
        'logger.warning("usage refused", extra={"code": refusal.code, "headers": event["headers"]})',
        "a gateway's key, or what was tried as one, is in the log",
        ABUSE + "test_canaries.py -k told",
    ),
    _(
        "adapters/stripe/client.py",
        "the_sdk_says_what_stripe_said",
        'logging.getLogger("stripe").setLevel(logging.WARNING)',
        'logging.getLogger("stripe").setLevel(logging.INFO)',
        "what Stripe answers, links and mail addresses included, is in the log",
        ABUSE + "test_canaries.py -k told",
    ),
    _(
        "services/issuing.py",
        "keys_are_kept",
        'hint=f"{PREFIXES[environment]}…{text[-4:]}"',
        "hint=text",
        "a key that is shown once is stored, and shown in every list",
        ABUSE + "test_canaries.py -k told",
    ),
    _(
        "http/plain.py",
        "refusals_are_no_problems",
        'CONTENT_TYPE = "application/problem+json"',
        'CONTENT_TYPE = "application/json"',
        "a client cannot tell our refusals from others",
        WITH + "test_usage_ingest.py -k cannot_be_read",
        ABUSE + "test_contract.py -k POST",
    ),
    _(
        "http/gateway.py",
        "anybody_reports_usage",
        "    if _ROLES.isdisjoint(",
        "    if not roles and _ROLES.isdisjoint(",
        "a subscriber reports usage in the name of its organization",
        WITH + "test_usage_ingest.py -k role",
        ABUSE + "test_tenants.py -k without_a_role",
    ),
    _(
        "http/caller.py",
        "any_role_will_do",
        "        if self.roles.isdisjoint(roles):",
        "        if not self.roles:",
        "any word in a token's roles opens every route",
        ABUSE + "test_tenants.py -k without_a_role",
    ),
    _(
        "functions/record_usage/app.py",
        "anybody_corrects",
        "        who = resolver.who(app, PUBLISHER_ADMIN)\n        order",
        "        who = resolver.caller.of(app)\n        order",
        "one route asks for no role",
        ABUSE + "test_tenants.py -k without_a_role",
    ),
    _(
        "services/receiving.py",
        "live_takes_test_events",
        "    if envelope.livemode != ports.livemode:",
        "    if envelope.livemode and not ports.livemode:",
        "a live deployment takes test events",
        WITH + "test_webhook_receive.py -k mode",
    ),
    # --- once, for ever ---
    _(
        "services/changing.py",
        "topped_up_at_each_request",
        "    natural = sha256(key.encode()).hexdigest()",
        '    natural = sha256(f"{key} {now}".encode()).hexdigest()',
        "a top-up sent again is given again",
        WITH + "test_subscribing_changes.py -k top_up",
    ),
    _(
        "adapters/dynamo/usage.py",
        "correction_key_not_held_to_its_content",
        'ConditionExpression="attribute_not_exists(pk) OR content = :content"',
        'ConditionExpression="attribute_not_exists(pk) OR attribute_exists(pk) OR content = :content"',
        "another correction under a key that was used",
        WITH + "test_usage_totals.py -k correct",
        WITH + "test_subscription_life.py -k correct",
    ),
    _(
        "services/counting.py",
        "corrected_at_each_request",
        'blake2b(f"{order.publisher}\\n{order.key}"',
        'blake2b(f"{order.publisher}\\n{order.key}\\n{now}"',
        "a correction sent again counts again",
        WITH + "test_usage_totals.py -k name_for_ever",
    ),
    _(
        "services/invoice_actions.py",
        "refund_again_after_a_day",
        "    if action is not None and (made := _made_before(",
        "    if action is not None and action.tries and (made := _made_before(",
        "a credit or refund sent again when Stripe has forgotten its key is given again",
        WITH + "test_payment_life.py -k 'credit or refund'",
    ),
    _(
        "services/invoice_actions.py",
        "acted_at_each_request",
        "else person, asked.what, asked.key)",
        'else person, asked.what, f"{asked.key} {now}")',
        "a refund sent again is given again",
        WITH + "test_payment_life.py -k 'credit or refund'",
    ),
    _(
        "domain/subscriptions.py",
        "once_is_for_ever",
        "return tuple(each for each in subscription.discounts if each.used_by is None)",
        "return subscription.discounts",
        "a discount given once comes off every bill",
        WITH + "test_discounts.py",
    ),
    _(
        "services/payments.py",
        "heard_by_arrival_order",
        "    after = brought_up(around.invoice, found, around.terms, around.at)\n    outcome = ",
        "    around = around_of(invoice_id, now, ports)\n    after = brought_up(around.invoice, found, around.terms, around.at)\n    outcome = ",
        "of two readings of one invoice the older one is stored",
        WITH + "test_apply_payments.py -k overtaken",
    ),
    _(
        "functions/apply_stripe_event/app.py",
        "a_second_wait_for_stripe_is_poison",
        "        _wait(record, event, tries + 1)",
        "        tries or _wait(record, event, tries + 1)",
        "an event that waits for Stripe a second time is dropped",
        WITH + "test_webhook_receive.py -k hour",
    ),
    # --- usage at its edges ---
    _(
        "services/metering.py",
        "instant_of_the_end_is_taken",
        "time >= window.last_instant",
        "time > window.last_instant",
        "an event at the very end of a subscription is accepted and in no period",
        WITH + "test_usage_ingest.py -k instant_a_subscription",
    ),
    _(
        "functions/record_usage/app.py",
        "success_for_a_part",
        "    if taken.retry:",
        "    if taken.retry and not taken.accepted:",
        "a batch that was stored in part is answered with success",
        WITH + "test_usage_ingest.py -k part",
    ),
)

# Which faults break each invariant of the design, by its number: every one has some, and they must not outlive it.
INVARIANTS: Mapping[int, tuple[str, ...]] = {
    1: ("claim_without_the_bill_s_condition", "draft_not_stored_before_use", "heard_by_arrival_order"),
    2: ("late_usage_forgotten", "first_page_of_the_ledger", "once_is_for_ever"),
    3: ("retry_said_accepted", "batch_not_unique", "success_for_a_part"),
    4: ("latest_version_bills", "published_version_replaced"),
    5: ("float_money", "half_down"),
    6: ("anchor_does_not_come_back", "anchor_runs_over", "edge_at_itself", "day_of_the_sender_s_zone"),
    7: ("foreign_subject_taken", "foreign_subscription_visible", "key_not_scoped"),
    8: ("webhook_reads_the_stripe_key", "webhook_reads_every_secret"),
    9: ("refusals_log_their_request", "the_sdk_says_what_stripe_said", "keys_are_kept"),
    10: ("topped_up_at_each_request", "corrected_at_each_request", "acted_at_each_request", "refund_again_after_a_day"),
    11: ("sent_bills_can_be_redrafted", "step_back"),
    12: ("refusals_are_no_problems", "anybody_reports_usage", "any_role_will_do", "anybody_corrects"),
}
