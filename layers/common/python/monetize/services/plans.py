"""Plans: draft, publish, version, archive, price a quantity, and move subscriptions from version to version."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Protocol

from monetize.domain import rating, states
from monetize.domain.audit import AuditEntry
from monetize.domain.catalog import Listing, Move, Unmoved
from monetize.domain.errors import Conflict, Invalid, Refusal, Unavailable
from monetize.domain.meters import Meter
from monetize.domain.offering import Estimate, MoveRequest, PlanDraft, Question
from monetize.domain.periods import Anchor, midnight, period_from
from monetize.domain.plans import Plan, PlanTerms, PlanVersion, validate_terms
from monetize.domain.publishers import Publisher
from monetize.services.catalog import Act, Ids, missing, same_revision

PAGE = 100
MOST_VERSIONS = 9999  # their numbers sort as text of four digits
STEP = 25  # subscriptions moved by one message
MOST_FAILURES_SHOWN = 100


class Store(Protocol):
    """What is stored of plans."""

    def publisher(self, publisher: str) -> Publisher | None: ...
    def plan(self, publisher: str, plan: str) -> Plan | None: ...
    def plans(self, publisher: str, after: str | None, limit: int) -> Listing[Plan]: ...
    def version(self, plan: str, number: int) -> PlanVersion | None: ...
    def versions(self, plan: str, after: str | None, limit: int) -> Listing[PlanVersion]: ...
    def meters_by_id(self, publisher: str, wanted: Iterable[str]) -> dict[str, Meter]: ...
    def add_plan(self, plan: Plan, entry: AuditEntry) -> Plan: ...
    def save_plan(self, was: Plan, plan: Plan, entry: AuditEntry) -> Plan: ...
    def delete_plan(self, plan: Plan, entry: AuditEntry) -> None: ...
    def publish(self, plan: Plan, version: PlanVersion, meters: Sequence[Meter], entry: AuditEntry) -> Plan: ...
    def tiers_of_plan(self, publisher: str, plan: str) -> int: ...
    def subscriptions_on(
        self, plan: str, version: int | None, after: str | None, limit: int
    ) -> Listing[tuple[str, int]]: ...
    def start_move(self, move: Move, entry: AuditEntry) -> bool: ...
    def running_move(self, plan: str, version: int) -> Move | None: ...
    def move(self, plan: str, move: str) -> Move | None: ...
    def moves(self, plan: str, after: str | None, limit: int) -> Listing[Move]: ...
    def save_move(self, move: Move) -> Move | None: ...


class Products(Protocol):
    """A plan at the payment provider: what every line of its invoices is for."""

    def ensure(self, account: str, publisher: str, plan: str, name: str, tax_code: str | None) -> str: ...


class Queue(Protocol):
    """Messages to our own workers."""

    def send(self, message: dict[str, object], *, delay_seconds: int = 0, group: str | None = None) -> None: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """What plans work with. `products` and `queue` are made when first needed: most requests need neither."""

    store: Store
    ids: Ids
    products: Callable[[], Products]
    queue: Callable[[], Queue]


# ---- drafts


def create_plan(act: Act, draft: PlanDraft, ports: Ports) -> Plan:
    """A new plan with the draft of its first version. Invalid with the first problem's code; Conflict `name_taken`."""
    _check(act.publisher, draft.terms, ports)
    plan = Plan(
        id=ports.ids.new("plan", act.at),
        publisher=act.publisher,
        name=draft.name,
        description=draft.description,
        status="draft",
        created_at=act.at,
        updated_at=act.at,
        draft=draft.terms,
    )
    return ports.store.add_plan(plan, act.entry(ports.ids, "plan.created", plan.id, None, {"name": plan.name}))


def read_plan(publisher: str, plan_id: str, ports: Ports) -> Plan:
    """One plan. NotFound."""
    plan = ports.store.plan(publisher, plan_id)
    if plan is None:
        raise missing("plan")
    return plan


def edit_plan(act: Act, plan_id: str, expected: int, draft: PlanDraft, ports: Ports) -> Plan:
    """Change the draft. Conflict `no_draft`, `name_fixed`, `currency_fixed`, `plan_archived`."""
    was = read_plan(act.publisher, plan_id, ports)
    same_revision(was.rev, expected)
    _not_archived(was)
    if was.draft is None:
        raise Conflict("no_draft", "A published version never changes: begin a new version.")
    if was.latest and was.name != draft.name:
        raise Conflict("name_fixed", "The name of a published plan never changes.")
    _same_currency(was, draft.terms, ports)
    _check(act.publisher, draft.terms, ports)
    plan = replace(was, name=draft.name, description=draft.description, draft=draft.terms, updated_at=act.at)
    entry = act.entry(ports.ids, "plan.edited", plan.id, {"name": was.name}, {"name": plan.name})
    return ports.store.save_plan(was, plan, entry)


def begin_version(act: Act, plan_id: str, terms: PlanTerms | None, ports: Ports) -> Plan:
    """A draft of the next version, from `terms` or the latest version's. Conflict `draft_exists`, `too_many_versions`,
    `plan_archived`, `currency_fixed`.
    """
    was = read_plan(act.publisher, plan_id, ports)
    _not_archived(was)
    if was.draft is not None:
        raise Conflict("draft_exists", "There is a draft already: edit or publish it.")
    if was.latest >= MOST_VERSIONS:
        raise Conflict("too_many_versions", f"A plan has at most {MOST_VERSIONS} versions: make another plan.")
    if terms is None:
        terms = read_version(act.publisher, plan_id, was.latest, ports).terms
    _same_currency(was, terms, ports)
    _check(act.publisher, terms, ports)
    plan = replace(was, draft=terms, updated_at=act.at)
    entry = act.entry(ports.ids, "plan.version_begun", plan.id, None, {"version": str(was.latest + 1)})
    return ports.store.save_plan(was, plan, entry)


def delete_plan(act: Act, plan_id: str, ports: Ports) -> None:
    """Delete a plan that was never published: Conflict `plan_published`, `plan_in_use` (a tier names it)."""
    plan = read_plan(act.publisher, plan_id, ports)
    if plan.latest:
        raise Conflict("plan_published", "A plan that was published is archived, not deleted.")
    if ports.store.tiers_of_plan(act.publisher, plan.id):
        raise Conflict("plan_in_use", "A tier names this plan.")
    ports.store.delete_plan(plan, act.entry(ports.ids, "plan.deleted", plan.id, {"name": plan.name}, None))


def archive_plan(act: Act, plan_id: str, ports: Ports) -> Plan:
    """No new subscriptions, for ever; those there are keep their version. Again changes nothing."""
    was = read_plan(act.publisher, plan_id, ports)
    if was.status == "archived":
        return was
    states.PLAN.move(was.status, "archive")
    plan = replace(was, status="archived", draft=None, updated_at=act.at)
    entry = act.entry(ports.ids, "plan.archived", plan.id, {"status": was.status}, {"status": "archived"})
    return ports.store.save_plan(was, plan, entry)


def _check(publisher: str, terms: PlanTerms, ports: Ports) -> None:
    validate_terms(terms, ports.store.meters_by_id(publisher, meters_named(terms)).keys())


def meters_named(terms: PlanTerms) -> set[str]:
    """Ids of the meters that charges and quotas count with."""
    charged = {charge.meter for charge in terms.charges if charge.meter is not None}
    return charged | {quota.meter for quota in terms.quotas}


def _not_archived(plan: Plan) -> None:
    if plan.status == "archived":
        raise Conflict("plan_archived", "An archived plan never changes.")


def _same_currency(plan: Plan, terms: PlanTerms, ports: Ports) -> None:
    # Subscriptions move from version to version, and a customer's invoices stay in one currency.
    if plan.latest and read_version(plan.publisher, plan.id, plan.latest, ports).terms.currency != terms.currency:
        raise Conflict("currency_fixed", "Every version of a plan has the first one's currency: make another plan.")


# ---- versions


def publish(act: Act, plan_id: str, ports: Ports) -> PlanVersion:
    """Publish the draft: an immutable version. Conflict `no_draft`, `publisher_not_enabled`, `plan_archived`,
    `tax_behavior_required`.

    The Stripe product comes first, under an id of ours that follows from the plan: whoever comes after a crash finds
    it instead of making another. An account that Stripe restricts may still publish: only subscribing needs charges.
    """
    was = read_plan(act.publisher, plan_id, ports)
    _not_archived(was)
    if was.draft is None:
        raise Conflict("no_draft", "There is no draft to publish.")
    status = states.PLAN.move(was.status, "publish")
    publisher = ports.store.publisher(act.publisher)
    if publisher is None or publisher.status != "enabled" or publisher.stripe is None or not _linked(publisher):
        raise Conflict("publisher_not_enabled", "Connect Stripe and enable monetization first.")
    if publisher.settings.automatic_tax and was.draft.tax_behavior == "unspecified":
        raise Conflict("tax_behavior_required", "Automatic tax needs to know whether prices include tax.")
    meters = ports.store.meters_by_id(act.publisher, meters_named(was.draft))
    validate_terms(was.draft, meters.keys())
    product = ports.products().ensure(publisher.stripe.account, was.publisher, was.id, was.name, was.draft.tax_code)
    version = PlanVersion(
        plan=was.id,
        publisher=was.publisher,
        number=was.latest + 1,
        name=was.name,
        terms=was.draft,
        published_at=act.at,
        stripe_product=product,
    )
    plan = replace(was, status="published", latest=version.number, draft=None, updated_at=act.at)
    assert status == plan.status  # noqa: S101 the machine and the type agree
    newly_used = [replace(meter, used=True) for meter in meters.values() if not meter.used]
    entry = act.entry(ports.ids, "plan.published", plan.id, None, {"version": str(version.number)})
    ports.store.publish(plan, version, newly_used, entry)
    return version


def products_on(publisher: str, account: str, ports: Ports) -> int:
    """Make what every published version is sold as on a newly connected account; how many products there are.

    For a publisher that connects another account: product ids follow from the plans, so versions need no change.
    Safe to repeat.
    """
    made: set[str] = set()
    for plan in _every(partial(ports.store.plans, publisher, limit=PAGE)):
        versions = _every(partial(ports.store.versions, plan.id, limit=PAGE))
        for tax_code in {version.terms.tax_code for version in versions}:
            made.add(ports.products().ensure(account, publisher, plan.id, plan.name, tax_code))
    return len(made)


def _every[T](page: Callable[..., Listing[T]]) -> Iterator[T]:
    after: str | None = None
    while True:
        found, after = page(after=after)
        yield from found
        if after is None:
            return


def _linked(publisher: Publisher) -> bool:
    return publisher.stripe is not None and publisher.stripe.deauthorized_at is None


def read_version(publisher: str, plan_id: str, number: int, ports: Ports) -> PlanVersion:
    """One published version. NotFound."""
    version = ports.store.version(plan_id, number)
    if version is None or version.publisher != publisher:
        raise missing("version")
    return version


def list_versions(publisher: str, plan_id: str, after: str | None, limit: int, ports: Ports) -> Listing[PlanVersion]:
    """Published versions, oldest first. NotFound for somebody else's plan."""
    read_plan(publisher, plan_id, ports)
    return ports.store.versions(plan_id, after, limit)


def terms_of(publisher: str, plan_id: str, number: int | None, ports: Ports) -> PlanTerms:
    """The terms of a version, or without a number the draft's, or else the latest version's. NotFound."""
    plan = read_plan(publisher, plan_id, ports)
    if plan.draft is not None and number in (None, plan.latest + 1):
        return plan.draft
    return read_version(publisher, plan_id, plan.latest if number is None else number, ports).terms


# ---- what a quantity costs


def preview(publisher: str, plan_id: str, question: Question, now: datetime, ports: Ports) -> Estimate:
    """Price a month of usage under a draft or a version; nothing is stored.

    The month begins at `period_start`, or else with the first day of the earliest usage's month, or of this one.
    Invalid `unknown_meter`, `meter_not_priced`, `day_outside_period`; NotFound.
    """
    terms = terms_of(publisher, plan_id, question.version, ports)
    priced = meters_named(terms)
    meters = ports.store.meters_by_id(publisher, priced | question.usage.keys())
    for named in question.usage:
        if named not in meters:
            raise Invalid("unknown_meter", f"There is no meter {named!r}.")
        if named not in priced:
            raise Invalid("meter_not_priced", f"The plan has no price for {meters[named].name}.", meter=named)
    days = {day for by_day in question.usage.values() for day in by_day}
    start = question.period_start or min(days, default=now.date()).replace(day=1)
    period = period_from(midnight(start), Anchor(start.month, start.day))
    outside = [day for day in days if not period.holds(midnight(day))]
    if outside:
        until = f"{period.end:%Y-%m-%d}"
        raise Invalid("day_outside_period", f"{min(outside)} is not from {start} until before {until}.")
    units = {meter.id: meter.unit for meter in meters.values()}
    return Estimate(terms, period, rating.preview(terms, question.usage, period, units))


# ---- who is on which version, and moving them


def who_is_on(
    publisher: str, plan_id: str, version: int | None, after: str | None, limit: int, ports: Ports
) -> Listing[tuple[str, int]]:
    """Subscriptions with the version they pay by. NotFound for somebody else's plan."""
    read_plan(publisher, plan_id, ports)
    return ports.store.subscriptions_on(plan_id, version, after, limit)


def start_move(act: Act, plan_id: str, request: MoveRequest, ports: Ports) -> Move:
    """Move everybody in the background. Asking again while it runs wakes it up, and never makes a second one.

    NotFound `no_such_version`; Conflict `same_version`, `plan_archived`, `move_running` (another one).
    """
    plan = read_plan(act.publisher, plan_id, ports)
    _not_archived(plan)
    if request.from_version == request.to_version:
        raise Conflict("same_version", "They are on that version already.")
    for number in (request.from_version, request.to_version):
        read_version(act.publisher, plan_id, number, ports)
    move = Move(
        id=ports.ids.new("move", act.at),
        publisher=act.publisher,
        plan=plan.id,
        from_version=request.from_version,
        to_version=request.to_version,
        when=request.when,
        actor=act.user,
        created_at=act.at,
        updated_at=act.at,
    )
    after = {"from": str(request.from_version), "to": str(request.to_version), "when": request.when}
    if ports.store.start_move(move, act.entry(ports.ids, "plan.move_started", plan.id, None, after)):
        move = replace(move, rev=1)
    else:
        running = ports.store.running_move(plan.id, request.from_version)
        if running is None:
            raise Unavailable("move_just_ended", "The move before this one just ended: ask again.", retry_after=1)
        if (running.to_version, running.when) != (request.to_version, request.when):
            raise Conflict("move_running", "Another move of these subscriptions is running.", move=running.id)
        move = running
    _wake(move, ports)
    return move


def read_move(publisher: str, plan_id: str, move_id: str, ports: Ports) -> Move:
    """One move and how far it got. NotFound."""
    move = ports.store.move(plan_id, move_id)
    if move is None or move.publisher != publisher:
        raise missing("move")
    return move


def list_moves(publisher: str, plan_id: str, after: str | None, limit: int, ports: Ports) -> Listing[Move]:
    """Moves of a plan, oldest first. NotFound for somebody else's plan."""
    read_plan(publisher, plan_id, ports)
    return ports.store.moves(plan_id, after, limit)


# Moves one subscription: (subscription, plan, version, when, now). Twice is once; Refusal when it cannot be moved.
type ChangeVersion = Callable[[str, str, int, str, datetime], None]


def run_move_step(plan_id: str, move_id: str, now: datetime, change_version: ChangeVersion, ports: Ports) -> bool:
    """Move the next few subscriptions and ask for the next step; True when everybody was seen.

    Safe to run twice, late, or next to itself: a change made twice is made once, and only one of two steps from the
    same place records its progress and asks for the next. What is refused is recorded with its code and passed over;
    anything else is raised, so the message comes back and the step begins again where it began.
    """
    move = ports.store.move(plan_id, move_id)
    if move is None or move.status != "running":
        return True
    page, rest = ports.store.subscriptions_on(plan_id, move.from_version, move.after, STEP)
    moved, failures = 0, []
    for subscription, _ in page:
        try:
            change_version(subscription, plan_id, move.to_version, move.when, now)
        except Unavailable:
            raise
        except Refusal as refused:
            failures.append(Unmoved(subscription=subscription, code=refused.code))
        else:
            moved += 1
    done = rest is None
    saved = ports.store.save_move(
        replace(
            move,
            status=states.MOVE.move(move.status, "finish" if done else "step"),
            moved=move.moved + moved,
            failed=move.failed + len(failures),
            failures=(*move.failures, *failures)[:MOST_FAILURES_SHOWN],
            after=rest or move.after,
            updated_at=now,
            finished_at=now if done else None,
        )
    )
    if saved is not None and not done:
        _wake(saved, ports)
    return done


def _wake(move: Move, ports: Ports) -> None:
    ports.queue().send({"kind": "move", "plan": move.plan, "id": move.id}, group=move.publisher)
