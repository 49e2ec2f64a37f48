"""Stripe as far as this project uses it, on one machine: see README.md for what it is and is not."""

from local.stripe_emulator.core import RateLimits, RequestRecord, Response, StripeEmulator
from local.stripe_emulator.faults import ConnectionBroken, Fault
from local.stripe_emulator.transport import EmulatorHTTPClient, Server, client_for, serve
from local.stripe_emulator.webhooks import Delivery

__all__ = [
    "ConnectionBroken",
    "Delivery",
    "EmulatorHTTPClient",
    "Fault",
    "RateLimits",
    "RequestRecord",
    "Response",
    "Server",
    "StripeEmulator",
    "client_for",
    "serve",
]
