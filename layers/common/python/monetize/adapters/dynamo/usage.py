"""The ledger and the live counters of usage: recorded together, sealed together, read for billing and for people.

Partition `USAGE#{sub}#{yyyy-mm}#{shard}`. A ledger entry holds `ids` (sorted, 12 bytes each), `m{n}` per meter number
(one quantity for all, or a packed column), `at` (when it came). The counter holds `{day}{meter}` quantities and
`sealed_through` (day of the month). Late entries, corrections and adjustments stand in shard 0.
"""

import zlib
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from random import random
from typing import Any, Final, Protocol

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from monetize.adapters.dynamo import keys
from monetize.adapters.dynamo.table import Client, item_of, unmet_conditions
from monetize.domain import usage
from monetize.domain.audit import AuditEntry
from monetize.domain.errors import Unavailable
from monetize.domain.usage import (
    Adjustment,
    Batch,
    Column,
    Correction,
    Counters,
    Entry,
    Group,
    LateEntry,
    Outcome,
    Rejected,
    Standing,
)

GROUPS_A_TRANSACTION: Final = 50  # two operations each, of DynamoDB's hundred
MAX_REMEMBERED: Final = 200_000
REJECTED_DAYS: Final = 30
MAX_REJECTED_BYTES: Final = 300_000  # of one item, compressed from more
MAX_REJECTED_EVENT: Final = 16_384
FIRST_WAIT: Final = 0.025
LONGEST_WAIT: Final = 1.0
NOT_SEALED: Final = "attribute_not_exists(sealed_through) OR sealed_through < :day"
ABSENT: Final = "attribute_not_exists(pk)"

_PASSING: Final = frozenset({"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"})
_BUSY: Final = frozenset(
    {
        "InternalServerError",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "ThrottlingException",
        "TransactionConflictException",
        "TransactionInProgressException",
    }
)


class Patience(Protocol):
    """How long there is to try again, and how to wait."""

    def left(self) -> float: ...
    def wait(self, seconds: float) -> None: ...


class UsageTable:
    """The Usage table."""

    def __init__(self, client: Client, name: str, core: str) -> None:
        self._client = client
        self._core = core  # the Core table, for the audit of corrections
        self._name = name
        self._expected: dict[tuple[str, date], None] = {}

    # ---- in ----

    def expect(self, days: Collection[tuple[str, date]]) -> None:
        """Note days to compact, once per container and day, before their first batch: a crash leaves one too many."""
        new = [day for day in days if day not in self._expected]
        if not new:
            return
        puts: list[dict[str, Any]] = [
            {"PutRequest": {"Item": {"pk": {"S": keys.compaction(sub)}, "sk": {"S": f"{day:%Y-%m-%d}#{sub}"}}}}
            for sub, day in new
        ]
        if len(self._expected) + len(new) > MAX_REMEMBERED:
            self._expected.clear()
        for start in range(0, len(puts), 25):
            asked: Mapping[str, Any] = {self._name: puts[start : start + 25]}
            for _ in range(5):
                try:
                    asked = self._client.batch_write_item(RequestItems=asked).get("UnprocessedItems") or {}
                except (ClientError, BotoCoreError):
                    return  # not remembered: the next batch of the day notes it
                if not asked:
                    break
            else:
                return
        self._expected.update(dict.fromkeys(new))

    def record(self, groups: Sequence[Group], now: datetime, patience: Patience) -> list[Outcome]:
        """Ledger entry and counter of each group, both or neither; up to 50 groups in one transaction."""
        outcomes: list[Outcome] = [Outcome.RETRY] * len(groups)
        at = str(int(now.timestamp()))
        waiting = deque(_transactions(groups))
        tries = 0
        while waiting:
            part = waiting.popleft()
            again, passing = self._transact([groups[at_] for at_ in part], at, [part, outcomes], now)
            if again:
                waiting.appendleft(again)
            if passing:
                tries += 1
                pause = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(tries, 10)) * (0.5 + random() / 2)
                if pause >= patience.left():
                    continue  # they stay RETRY: the sender has them
                patience.wait(pause)
                waiting.append(passing)
        return outcomes

    def _transact(
        self, groups: Sequence[Group], at: str, places: list[Any], now: datetime
    ) -> tuple[list[int], list[int]]:
        """One transaction. Answers the positions to send again at once, and those to send again after a pause."""
        part: list[int] = places[0]
        outcomes: list[Outcome] = places[1]
        ops: list[dict[str, Any]] = []
        for group in groups:
            ops.extend(self._ops(group, at))
        try:
            self._client.transact_write_items(TransactItems=ops)
        except self._client.exceptions.TransactionCanceledException as refused:
            reasons = refused.response.get("CancellationReasons", ())
        except (ClientError, BotoCoreError) as failed:
            if isinstance(failed, ClientError) and failed.response["Error"]["Code"] not in _BUSY:
                raise
            return [], part
        else:
            for position in part:
                outcomes[position] = Outcome.NEW
            return [], []
        again: list[int] = []
        passing: list[int] = []
        for number, (group, position) in enumerate(zip(groups, part, strict=True)):
            ledger, counter = reasons[2 * number], reasons[2 * number + 1]
            codes = {ledger.get("Code"), counter.get("Code")}
            if ledger.get("Code") == "ConditionalCheckFailed":
                outcomes[position] = _same(group, ledger.get("Item"))
            elif counter.get("Code") == "ConditionalCheckFailed":
                outcomes[position] = self._late(group, at, now)
            elif codes & _PASSING:
                passing.append(position)
            elif codes <= {"None", None}:
                again.append(position)
            else:
                raise RuntimeError(f"a transaction was refused for {sorted(str(code) for code in codes)}")
        return again, passing

    def _ops(self, group: Group, at: str) -> tuple[dict[str, Any], dict[str, Any]]:
        pk = {"S": _partition(group.subscription, f"{group.day:%Y-%m}", group.shard, sandbox=group.sandbox)}
        put: dict[str, Any] = {
            "TableName": self._name,
            "Item": _entry_item(pk, keys.batch(group.day, group.batch), group.content, at),
            "ConditionExpression": ABSENT,
        }
        if group.named:
            put["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
        names, values, adds = {}, {":day": {"N": str(group.day.day)}}, []
        for number, (short, quantity) in enumerate(group.content.totals().items()):
            names[f"#{number}"] = usage.counter_name(group.day.day, short)
            values[f":{number}"] = {"N": str(quantity)}
            adds.append(f"#{number} :{number}")
        return (
            {"Put": put},
            {
                "Update": {
                    "TableName": self._name,
                    "Key": {"pk": pk, "sk": _COUNTER},
                    "UpdateExpression": f"ADD {','.join(adds)}",
                    "ConditionExpression": NOT_SEALED,
                    "ExpressionAttributeNames": names,
                    "ExpressionAttributeValues": values,
                }
            },
        )

    def _late(self, group: Group, at: str, now: datetime) -> Outcome:
        """The day is sealed: keep the batch apart, in its own period, for the next bill to take."""
        del now
        pk = {"S": keys.usage(group.subscription, f"{group.day:%Y-%m}", 0)}
        try:
            self._client.put_item(
                TableName=self._name,
                Item=_entry_item(pk, keys.late(group.day, group.batch), group.content, at),
                ConditionExpression=ABSENT,
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except self._client.exceptions.ConditionalCheckFailedException as refused:
            return _same(group, refused.response.get("Item"))
        except (ClientError, BotoCoreError) as failed:
            if isinstance(failed, ClientError) and failed.response["Error"]["Code"] not in _BUSY:
                raise
            return Outcome.RETRY
        return Outcome.LATE

    def reject(self, publisher: str, batch: str, rejected: Sequence[Rejected], now: datetime) -> bool:
        """Keep refused events 30 days, many to an item; the same ones again that day overwrite themselves."""
        expires = {"N": str(int((now + timedelta(days=REJECTED_DAYS)).timestamp()))}
        try:
            for number, part in enumerate(_parts(rejected)):
                self._client.put_item(
                    TableName=self._name,
                    Item={
                        "pk": {"S": keys.rejected(publisher)},
                        "sk": {"S": f"{now:%Y-%m-%d}#{batch}#{number:04d}"},
                        "events": {"B": zlib.compress(msgspec.json.encode(part), 1)},
                        "at": {"N": str(int(now.timestamp()))},
                        "expires_at": expires,
                    },
                )
        except (ClientError, BotoCoreError):
            return False
        return True

    # ---- sealing ----

    def seal(self, subscription: str, first: date, through: date, shards: Callable[[str], int]) -> None:
        """Nothing is counted on `first`…`through` any more: every shard of every month, also where no counter is.

        `shards(month)` is the shard count. Sealing again, or less far, changes nothing.
        """
        for month in usage.months_of(first, through):
            day = min(through, usage.last_day(month)).day
            for shard in range(shards(month)):
                try:
                    self._client.update_item(
                        TableName=self._name,
                        Key={"pk": {"S": keys.usage(subscription, month, shard)}, "sk": _COUNTER},
                        UpdateExpression="SET sealed_through = :day",
                        ConditionExpression=NOT_SEALED,
                        ExpressionAttributeValues={":day": {"N": str(day)}},
                    )
                except self._client.exceptions.ConditionalCheckFailedException:
                    continue

    # ---- out ----

    def counters(
        self, subscription: str, first: date, last: date, shards: Callable[[str], int], *, sandbox: bool = False
    ) -> Counters:
        """Live totals from `first` to `last`, both included; consistent."""
        totals: dict[tuple[date, int], int] = {}
        sealed: dict[str, date | None] = {}
        for month in usage.months_of(first, last):
            year, number = int(month[:4]), int(month[5:])
            for shard in range(1 if sandbox else shards(month)):
                item = self._client.get_item(
                    TableName=self._name,
                    Key={"pk": {"S": _partition(subscription, month, shard, sandbox=sandbox)}, "sk": _COUNTER},
                    ConsistentRead=True,
                ).get("Item", {})
                through = item.get("sealed_through")
                here = date(year, number, int(through["N"])) if through else None
                sealed[month] = here if shard == 0 else _earlier(sealed[month], here)
                _add_counter(item, month, first, last, totals)
        return Counters(totals, sealed)

    def entries(
        self, subscription: str, first: date, last: date, shards: Callable[[str], int], *, sandbox: bool = False
    ) -> Iterator[Entry]:
        """Every ledger entry of those days, shard by shard."""
        for month in usage.months_of(first, last):
            for shard in range(1 if sandbox else shards(month)):
                pk = _partition(subscription, month, shard, sandbox=sandbox)
                for item in self._between(pk, "BATCH", first, last):
                    yield _entry(item, shard)

    def late_entries(self, subscription: str, first: date, last: date) -> tuple[LateEntry, ...]:
        """Everything that came after sealing for those days, taken by a bill or not, in the order of `ref`."""
        return tuple(
            _late_entry(item)
            for month in usage.months_of(first, last)
            for item in self._between(keys.usage(subscription, month, 0), "LATE", first, last)
        )

    def note_taken(self, subscription: str, refs: Iterable[str], bill: str) -> None:
        """Note at late entries which bill they are frozen in, for who reads the ledger; the bill's lines decide."""
        for ref in refs:
            with suppress(self._client.exceptions.ConditionalCheckFailedException):
                self._client.update_item(
                    TableName=self._name,
                    Key={"pk": {"S": keys.usage(subscription, _day_of(ref).strftime("%Y-%m"), 0)}, "sk": {"S": ref}},
                    UpdateExpression="SET bill = :bill",
                    ConditionExpression="attribute_exists(pk)",
                    ExpressionAttributeValues={":bill": {"S": bill}},
                )

    def corrections(self, subscription: str, first: date, last: date) -> tuple[Correction, ...]:
        """Corrections that were made while their day was open."""
        return tuple(
            _correction(item)
            for month in usage.months_of(first, last)
            for item in self._between(keys.usage(subscription, month, 0), "CORRECT", first, last)
        )

    def adjustments(self, subscription: str, first: date, last: date) -> tuple[Adjustment, ...]:
        """What exact counting took out so far."""
        return tuple(
            _adjustment(item)
            for month in usage.months_of(first, last)
            for item in self._between(keys.usage(subscription, month, 0), "ADJUST", first, last)
        )

    def standing(self, subscription: str, first: date, last: date, shards: Callable[[str], int], keep: int) -> Standing:
        """All that counts on those days, for one reading of a month that they hold whole.

        Entries are held up to `keep` bytes of event ids.
        """
        adjustments: list[Adjustment] = []
        entries: list[Entry] | None = []
        corrections: list[Correction] = []
        totals: dict[tuple[date, int], int] = {}
        size = 0
        for month in usage.months_of(first, last):
            for shard in range(shards(month)):
                for item in self._all_of(keys.usage(subscription, month, shard), month, first, last):
                    kind = item["sk"]["S"].partition("#")[0]
                    if kind == "BATCH" and entries is not None:
                        entries.append(_entry(item, shard))
                        size += len(entries[-1].content.ids)
                        if size > keep:
                            entries = None
                    elif kind == "ADJUST":
                        adjustments.append(_adjustment(item))
                    elif kind == "CORRECT":
                        corrections.append(_correction(item))
                    elif kind == "COUNTER":
                        _add_counter(item, month, first, last, totals)
        return Standing(tuple(adjustments), None if entries is None else tuple(entries), tuple(corrections), totals)

    def _all_of(self, pk: str, month: str, first: date, last: date) -> Iterator[dict[str, Any]]:
        """Of one partition: adjustments, entries and corrections of those days, and its counter last."""
        if first.isoformat() <= f"{month}-01" and usage.last_day(month) <= last:
            # They lie in this order: what a whole month holds is one query, and late entries come after it.
            ends = {":pk": {"S": pk}, ":low": {"S": "ADJUST#"}, ":high": _COUNTER}
            yield from self._pages(self._range(pk, "ADJUST", first, last) | {"ExpressionAttributeValues": ends})
            return
        for kind in ("ADJUST", "BATCH", "CORRECT"):
            yield from self._between(pk, kind, first, last)
        key = {"pk": {"S": pk}, "sk": _COUNTER}
        item = self._client.get_item(TableName=self._name, Key=key, ConsistentRead=True).get("Item")
        if item is not None:
            yield item

    def adjust(self, subscription: str, adjustment: Adjustment) -> bool:
        """The adjustment and the counter, both or neither; False when that number is not the day's next any more."""
        day = adjustment.day
        pk = {"S": keys.usage(subscription, f"{day:%Y-%m}", 0)}
        item: dict[str, Any] = {
            "pk": pk,
            "sk": {"S": keys.adjust(day, adjustment.number)},
            "at": {"N": str(int(adjustment.received_at.timestamp()))},
            "examined": {"N": str(adjustment.examined)},
            **{f"m{short}": {"N": str(quantity)} for short, quantity in adjustment.quantities.items()},
        }
        if adjustment.batches:
            item["batches"] = {"SS": list(adjustment.batches)}
        return self._write_with_counter(pk, item, day, adjustment.quantities, sealed_too=True) is None

    def recount(self, subscription: str, first: date, last: date, shards: Callable[[str], int]) -> int:
        """Make the counters of sealed days what the ledger says: how many quantities were others.

        Unavailable `busy` when somebody wrote meanwhile: what was read is not true any more.
        """
        changed = 0
        for month in usage.months_of(first, last):
            for shard in range(shards(month)):
                pk = keys.usage(subscription, month, shard)
                ledger: dict[tuple[date, int], int] = {}
                counted: dict[tuple[date, int], int] = {}
                for item in self._all_of(pk, month, first, last):
                    if item["sk"] == _COUNTER:
                        _add_counter(item, month, first, last, counted)
                        continue
                    batch = item["sk"]["S"].startswith("BATCH#")
                    for short, quantity in (_content(item).totals() if batch else _quantities(item)).items():
                        place = (_day_of(item["sk"]["S"]), short)
                        ledger[place] = ledger.get(place, 0) + quantity
                wrong = [key for key in {**ledger, **counted} if ledger.get(key, 0) != counted.get(key, 0)]
                for start in range(0, len(wrong), MOST_RECOUNTED):
                    self._set_counter(pk, wrong[start : start + MOST_RECOUNTED], ledger, counted)
                changed += len(wrong)
        return changed

    def _set_counter(
        self,
        pk: str,
        places: Sequence[tuple[date, int]],
        ledger: Mapping[tuple[date, int], int],
        counted: Mapping[tuple[date, int], int],
    ) -> None:
        names = {f"#{at}": usage.counter_name(day.day, short) for at, (day, short) in enumerate(places)}
        values = {f":{at}": {"N": str(ledger.get(place, 0))} for at, place in enumerate(places)}
        conditions = []
        for at, place in enumerate(places):
            if place in counted:
                values[f":was{at}"] = {"N": str(counted[place])}
            conditions.append(f"#{at} = :was{at}" if place in counted else f"attribute_not_exists(#{at})")
        try:
            self._client.update_item(
                TableName=self._name,
                Key={"pk": {"S": pk}, "sk": _COUNTER},
                UpdateExpression="SET " + ",".join(f"#{at} = :{at}" for at in range(len(places))),
                ConditionExpression=" AND ".join(conditions),
                ExpressionAttributeNames=names,
                ExpressionAttributeValues=values,
            )
        except self._client.exceptions.ConditionalCheckFailedException as refused:
            raise Unavailable("busy", "This subscription is written to by many. Send it again.") from refused

    def claim_correction(self, publisher: str, key: str, content: str) -> bool:
        """Take an Idempotency-Key for a correction, for ever; False when another content has it."""
        digest = blake2b(content.encode(), digest_size=16).hexdigest()
        try:
            self._client.put_item(
                TableName=self._name,
                Item={
                    "pk": {"S": keys.correction_key(publisher, key)},
                    "sk": {"S": "KEY"},
                    "content": {"S": digest},
                },
                ConditionExpression="attribute_not_exists(pk) OR content = :content",
                ExpressionAttributeValues={":content": {"S": digest}},
            )
        except self._client.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def correct(self, subscription: str, correction: Correction, audit: AuditEntry | None = None) -> str:
        """Store a correction under its own name for ever.

        `counted` in the open day, `late` when the day is sealed (it waits for the next bill), `repeated` when this
        very correction was stored before, `reused` when another one was.
        """
        day = correction.day
        pk = {"S": keys.usage(subscription, f"{day:%Y-%m}", 0)}
        item: dict[str, Any] = {
            "pk": pk,
            "sk": {"S": keys.correction(day, correction.id)},
            "at": {"N": str(int(correction.received_at.timestamp()))},
            "reason": {"S": correction.reason},
            "author": {"S": correction.author},
            **{f"m{short}": {"N": str(quantity)} for short, quantity in correction.quantities.items()},
        }
        late = {"S": f"{keys.late(day, 'correction')}-{correction.id}"}
        for sk in (item["sk"], late):
            # Sealing may have come between a first try and its repetition: both places are looked at.
            was = self._client.get_item(TableName=self._name, Key={"pk": pk, "sk": sk}, ConsistentRead=True).get("Item")
            if was is not None:
                return "repeated" if _alike(was, item) else "reused"
        told = [] if audit is None else [{"Put": {"TableName": self._core, "Item": item_of(audit, 1)}}]
        refused = self._write_with_counter(pk, item, day, correction.quantities, sealed_too=False, further=told)
        if refused is None:
            return "counted"
        if refused == "exists":
            return self.correct(subscription, correction)
        put = {"Put": {"TableName": self._name, "Item": {**item, "sk": late}, "ConditionExpression": ABSENT}}
        try:
            self._client.transact_write_items(TransactItems=[put, *told])
        except self._client.exceptions.TransactionCanceledException as lost:
            if 0 not in unmet_conditions(lost):
                raise Unavailable("busy", "This subscription is written to by many. Send it again.") from lost
            return self.correct(subscription, correction)
        return "late"

    def _write_with_counter(
        self,
        pk: dict[str, str],
        item: dict[str, Any],
        day: date,
        quantities: Mapping[int, int],
        *,
        sealed_too: bool,
        further: Sequence[dict[str, Any]] = (),
    ) -> str | None:
        """None when written; `exists` or `sealed` when not."""
        names = {f"#{short}": usage.counter_name(day.day, short) for short in quantities}
        values = {f":{short}": {"N": str(quantity)} for short, quantity in quantities.items()}
        update: dict[str, Any] = {
            "TableName": self._name,
            "Key": {"pk": pk, "sk": _COUNTER},
            "UpdateExpression": "ADD " + ",".join(f"#{short} :{short}" for short in quantities),
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": values,
        }
        if not sealed_too:
            update["ConditionExpression"] = NOT_SEALED
            values[":day"] = {"N": str(day.day)}
        try:
            self._client.transact_write_items(
                TransactItems=[
                    {"Put": {"TableName": self._name, "Item": item, "ConditionExpression": ABSENT}},
                    {"Update": update},
                    *further,
                ]
            )
        except self._client.exceptions.TransactionCanceledException as refused:
            codes = [reason.get("Code") for reason in refused.response.get("CancellationReasons", ())]
            if codes[0] == "ConditionalCheckFailed":
                return "exists"
            if codes[1] == "ConditionalCheckFailed":
                return "sealed"
            if set(codes) & _PASSING:
                raise Unavailable("busy", "This subscription is written to by many. Send it again.") from refused
            raise
        return None

    def batches(
        self, subscription: str, day: date, shard: int, *, after: str | None, limit: int
    ) -> tuple[tuple[tuple[Entry, datetime], ...], str | None]:
        """Some ledger entries of one day and shard, and the batch to go on after."""
        pk = keys.usage(subscription, f"{day:%Y-%m}", shard)
        request = self._range(pk, "BATCH", day, day) | {"Limit": limit}
        if after is not None:
            request["ExclusiveStartKey"] = {"pk": {"S": pk}, "sk": {"S": keys.batch(day, after)}}
        answer = self._client.query(**request)
        last = answer.get("LastEvaluatedKey")
        found = tuple((_entry(item, shard), _at(item)) for item in answer["Items"])
        return found, last["sk"]["S"].split("#", 2)[2] if last else None

    def rejected(
        self, publisher: str, now: datetime, *, after: str | None, limit: int
    ) -> tuple[tuple[tuple[str, list[dict[str, Any]], datetime], ...], str | None]:
        """Some of a publisher's rejected events, newest days first: (lot, events, when), and what is next."""
        request: dict[str, Any] = {
            "TableName": self._name,
            "KeyConditionExpression": "pk = :pk",
            "ExpressionAttributeValues": {":pk": {"S": keys.rejected(publisher)}},
            "ScanIndexForward": False,
            "ConsistentRead": True,
            "Limit": limit,
        }
        if after is not None:
            request["ExclusiveStartKey"] = {"pk": {"S": keys.rejected(publisher)}, "sk": {"S": after}}
        answer = self._client.query(**request)
        last = answer.get("LastEvaluatedKey")
        # The table forgets what expired within days, not at once.
        kept = [item for item in answer["Items"] if int(item["expires_at"]["N"]) > now.timestamp()]
        return tuple(_lot(item) for item in kept), last["sk"]["S"] if last else None

    def rejected_lot(self, publisher: str, lot: str) -> list[dict[str, Any]] | None:
        """One lot of rejected events."""
        item = self._client.get_item(
            TableName=self._name, Key={"pk": {"S": keys.rejected(publisher)}, "sk": {"S": lot}}, ConsistentRead=True
        ).get("Item")
        return None if item is None else _lot(item)[1]

    def forget_rejected(self, publisher: str, lot: str) -> None:
        """The lot was resubmitted: what was refused again stands in a lot of its own."""
        self._client.delete_item(TableName=self._name, Key={"pk": {"S": keys.rejected(publisher)}, "sk": {"S": lot}})

    # ---- compaction ----

    def to_compact(self, partition: int, through: date, limit: int) -> tuple[tuple[str, date], ...]:
        """The head of one of 64 to-do lists: (subscription, day) up to that day."""
        answer = self._client.query(
            TableName=self._name,
            KeyConditionExpression="pk = :pk AND sk < :sk",
            ExpressionAttributeValues={
                ":pk": {"S": f"COMPACT#{partition:02d}"},
                ":sk": {"S": f"{through + timedelta(days=1):%Y-%m-%d}"},
            },
            Limit=limit,
        )
        return tuple(
            (item["sk"]["S"].partition("#")[2], date.fromisoformat(item["sk"]["S"][:10])) for item in answer["Items"]
        )

    def compacted(self, subscription: str, day: date) -> None:
        """That day of that subscription needs no more compaction (until something else comes for it)."""
        self._client.delete_item(
            TableName=self._name,
            Key={"pk": {"S": keys.compaction(subscription)}, "sk": {"S": f"{day:%Y-%m-%d}#{subscription}"}},
        )

    def _range(self, pk: str, kind: str, first: date, last: date) -> dict[str, Any]:
        return {
            "TableName": self._name,
            "KeyConditionExpression": "pk = :pk AND sk BETWEEN :low AND :high",
            "ExpressionAttributeValues": {
                ":pk": {"S": pk},
                ":low": {"S": f"{kind}#{first:%Y-%m-%d}#"},
                ":high": {"S": f"{kind}#{last:%Y-%m-%d}$"},  # "$" follows "#"
            },
            "ConsistentRead": True,
        }

    def _between(self, pk: str, kind: str, first: date, last: date) -> Iterator[dict[str, Any]]:
        yield from self._pages(self._range(pk, kind, first, last))

    def _pages(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        while True:
            answer = self._client.query(**request)
            yield from answer["Items"]
            if "LastEvaluatedKey" not in answer:
                return
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]


_COUNTER: Final = {"S": "COUNTER"}
MOST_RECOUNTED: Final = 50  # quantities of one write: an expression has its limits


def _transactions(groups: Sequence[Group]) -> Iterator[list[int]]:
    """Positions by transaction: at most 50, and never two of one counter (two days), which DynamoDB refuses."""
    layers: list[list[int]] = []
    seen: dict[tuple[str, bool, int, int, int], int] = {}
    for position, group in enumerate(groups):
        counter = (group.subscription, group.sandbox, group.day.year, group.day.month, group.shard)
        layer = seen[counter] = seen.get(counter, -1) + 1
        if layer == len(layers):
            layers.append([])
        layers[layer].append(position)
    for layer_ in layers:
        for start in range(0, len(layer_), GROUPS_A_TRANSACTION):
            yield layer_[start : start + GROUPS_A_TRANSACTION]


def _partition(subscription: str, month: str, shard: int, *, sandbox: bool) -> str:
    return keys.sandbox_usage(subscription, month) if sandbox else keys.usage(subscription, month, shard)


def _earlier(one: date | None, other: date | None) -> date | None:
    return None if one is None or other is None else min(one, other)


def _entry_item(pk: dict[str, str], sk: str, content: Batch, at: str) -> dict[str, Any]:
    item: dict[str, Any] = {"pk": pk, "sk": {"S": sk}, "ids": {"B": content.ids}, "at": {"N": at}}
    for short, column in content.columns.items():
        item[f"m{short}"] = {"N": str(column)} if isinstance(column, int) else {"B": column}
    return item


def _content(item: Mapping[str, Any]) -> Batch:
    columns: dict[int, Column] = {}
    for name, value in item.items():
        if name[0] == "m" and name[1:].isdigit():
            columns[int(name[1:])] = int(value["N"]) if "N" in value else bytes(value["B"])
    return Batch(bytes(item["ids"]["B"]), columns)


def _same(group: Group, stored: Mapping[str, Any] | None) -> Outcome:
    """A batch named by its content is itself; one named by its sender is compared."""
    if not group.named or stored is None or _content(stored) == group.content:
        return Outcome.DUPLICATE
    return Outcome.REUSED


def _add_counter(
    item: Mapping[str, Any], month: str, first: date, last: date, totals: dict[tuple[date, int], int]
) -> None:
    """Add one counter's days from `first` to `last`."""
    year, number = int(month[:4]), int(month[5:])
    for name, value in item.items():
        key = usage.counter_key(name)
        if key is None:
            continue
        day = date(year, number, key[0])
        if first <= day <= last:
            place = (day, key[1])
            totals[place] = totals.get(place, 0) + int(value["N"])


def _adjustment(item: Mapping[str, Any]) -> Adjustment:
    return Adjustment(
        _day_of(item["sk"]["S"]),
        int(item["sk"]["S"].rpartition("#")[2]),
        _quantities(item),
        tuple(item["batches"]["SS"]) if "batches" in item else (),
        int(item["examined"]["N"]),
        _at(item),
    )


def _correction(item: Mapping[str, Any]) -> Correction:
    return Correction(
        item["sk"]["S"].split("#", 2)[2],
        _day_of(item["sk"]["S"]),
        _quantities(item),
        item["reason"]["S"],
        item["author"]["S"],
        _at(item),
    )


def _day_of(sk: str) -> date:
    return date.fromisoformat(sk.split("#", 2)[1])


def _at(item: Mapping[str, Any]) -> datetime:
    return datetime.fromtimestamp(int(item["at"]["N"]), UTC)


def _entry(item: Mapping[str, Any], shard: int) -> Entry:
    kind, day, batch = item["sk"]["S"].split("#", 2)
    return Entry(date.fromisoformat(day), batch, _content(item), shard, kind == "LATE")


def _quantities(item: Mapping[str, Any]) -> dict[int, int]:
    return {int(name[1:]): int(value["N"]) for name, value in item.items() if name[0] == "m" and name[1:].isdigit()}


def _late_entry(item: Mapping[str, Any]) -> LateEntry:
    ref = item["sk"]["S"]
    taken_by = item.get("bill", {}).get("S", "")
    if "ids" not in item:
        return LateEntry(
            ref, _day_of(ref), _quantities(item), _at(item), taken_by, None, item["reason"]["S"], item["author"]["S"]
        )
    entry = _entry(item, 0)
    return LateEntry(ref, entry.day, entry.content.totals(), _at(item), taken_by, entry)


def _alike(was: Mapping[str, Any], item: Mapping[str, Any]) -> bool:
    return _quantities(was) == _quantities(item) and was["reason"] == item["reason"]


def _parts(rejected: Sequence[Rejected]) -> Iterator[list[dict[str, object]]]:
    """Lots that fit an item even if nothing in them compresses."""
    part: list[dict[str, object]] = []
    size = 0
    for each in rejected:
        kept = each.event if len(each.event) <= MAX_REJECTED_EVENT else b""
        text = b64encode(kept).decode()
        weight = len(text) + len(each.id) * 4 + 100
        if part and size + weight > MAX_REJECTED_BYTES:
            yield part
            part, size = [], 0
        part.append({"index": each.index, "id": each.id, "code": each.code, "event": text})
        size += weight
    if part:
        yield part


def _lot(item: Mapping[str, Any]) -> tuple[str, list[dict[str, Any]], datetime]:
    events = msgspec.json.decode(zlib.decompress(bytes(item["events"]["B"])), type=list[dict[str, Any]])
    for event in events:
        event["event"] = b64decode(event["event"])
    return item["sk"]["S"], events, _at(item)
