"""The only reader of the environment. Every variable here is set in `template.yaml`, and the reverse, by test."""

import os
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class Config:
    """What a deployment decides. Names of tables and queues, never secrets: those are read from SSM by name."""

    core_table: str
    usage_table: str
    inbox_table: str
    idempotency_table: str
    stripe_events_queue_url: str
    billing_queue_url: str
    stripe_key_parameter: str
    webhook_secrets_parameter: str
    stripe_client_id: str
    stripe_api_base: str
    stripe_connect_base: str
    livemode: bool
    public_base_url: str
    portal_url: str
    upgrade_url: str
    portal_return_paths: tuple[str, ...]
    claim_organization: str
    claim_plan: str
    claim_roles: str
    trial_plans: tuple[str, ...]
    billing_paused: bool
    invoices_per_second: int
    event_bus: str
    outbox_dead_letters_url: str
    exports_bucket: str


@cache
def load() -> Config:
    """Read the environment once. A missing variable is a KeyError at the first request, which the alarm sees."""
    env = os.environ
    return Config(
        core_table=env["CORE_TABLE"],
        usage_table=env["USAGE_TABLE"],
        inbox_table=env.get("INBOX_TABLE", ""),
        idempotency_table=env.get("IDEMPOTENCY_TABLE", ""),
        stripe_events_queue_url=env.get("STRIPE_EVENTS_QUEUE_URL", ""),
        billing_queue_url=env.get("BILLING_QUEUE_URL", ""),
        stripe_key_parameter=env.get("STRIPE_KEY_PARAMETER", ""),
        webhook_secrets_parameter=env.get("WEBHOOK_SECRETS_PARAMETER", ""),
        stripe_client_id=env.get("STRIPE_CLIENT_ID", ""),
        stripe_api_base=env.get("STRIPE_API_BASE", ""),
        stripe_connect_base=env.get("STRIPE_CONNECT_BASE", ""),
        livemode=env.get("LIVEMODE", "false") == "true",
        public_base_url=env.get("PUBLIC_BASE_URL", "").rstrip("/"),
        portal_url=env.get("PORTAL_URL", "").rstrip("/"),
        upgrade_url=env.get("UPGRADE_URL", ""),
        portal_return_paths=tuple(env.get("PORTAL_RETURN_PATHS", "/,/monetization").split(",")),
        claim_organization=env.get("CLAIM_ORGANIZATION", "organization"),
        claim_plan=env.get("CLAIM_PLAN", "platform_plan"),
        claim_roles=env.get("CLAIM_ROLES", "roles"),
        trial_plans=tuple(plan for plan in env.get("TRIAL_PLANS", "trial").split(",") if plan),
        billing_paused=env.get("BILLING_PAUSED", "false") == "true",
        invoices_per_second=int(env.get("INVOICES_PER_SECOND", "12")),
        event_bus=env.get("EVENT_BUS", ""),
        outbox_dead_letters_url=env.get("OUTBOX_DEAD_LETTERS_URL", ""),
        exports_bucket=env.get("EXPORTS_BUCKET", ""),
    )
