"""Stripe's search, stale on purpose: it sees nothing younger than an hour."""

import re

from local.stripe_emulator.refusals import invalid
from local.stripe_emulator.store import Collection, Obj
from local.stripe_emulator.world import Call

BEHIND = 3600
_CLAUSE = re.compile(r"(?:metadata\[['\"]([^'\"]+)['\"]\]|(\w+)):\s*['\"]([^'\"]*)['\"]")

_SINCE = re.compile(r"created>(\d+)")


def searched(call: Call, collection: Collection) -> Obj:
    """Equality on fields and metadata, joined by AND: `status:'open' AND metadata['bill']:'b1'`, `created>17672256`."""
    query = call.params["query"]
    since = max((int(each) for each in _SINCE.findall(query)), default=-1)
    query = _SINCE.sub("", query)
    clauses = _CLAUSE.findall(query)
    if not clauses or _CLAUSE.sub("", query).replace("AND", "").strip():
        raise invalid(f"We were unable to parse your search query (or it is not emulated): {query}", "query")
    horizon = call.now - BEHIND

    def fits(obj: Obj) -> bool:
        return all(
            (obj.get("metadata", {}).get(key) if key else obj.get(field)) == value for key, field, value in clauses
        )

    limit = call.params.get("limit", 10)
    found = [obj for obj in collection.newest_first() if since < obj["created"] <= horizon and fits(obj)]
    offset = int(call.params.get("page", "0"))
    more = len(found) > offset + limit
    return {
        "object": "search_result",
        "url": call.path,
        "has_more": more,
        "data": found[offset : offset + limit],
        "next_page": str(offset + limit) if more else None,
    }
