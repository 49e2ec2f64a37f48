"""How a function in a container reaches what listens on this machine's loopback.

A container's loopback is its own. Docker Desktop forwards `host.docker.internal` to this machine's; Docker on Linux
gives containers the address of its bridge, where nothing of ours listens. There a relay does, for as long as it is
asked to: from the bridge's address to loopback. The bridge is this machine's own; still, any container can reach it.
"""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from ipaddress import ip_network
from threading import Thread
from typing import Self

LOOPBACK = "127.0.0.1"
DESKTOP_HOST = "host.docker.internal"
AT_ONCE = 65_536
ANSWER_SECONDS = 10
CLOSING_SECONDS = 1


class NoDockerError(RuntimeError):
    """No Docker engine answers here; the message says what is missing."""


def docker_host() -> str:
    """What a container calls this machine. NoDockerError when no engine answers."""
    if shutil.which("docker") is None:
        raise NoDockerError("there is no docker command on this machine")
    command = ["docker", "network", "inspect", "bridge"]
    try:
        found = subprocess.run(  # noqa: S603 # a constant, and whatever docker the PATH has
            command, capture_output=True, text=True, check=False, timeout=ANSWER_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise NoDockerError("the Docker engine does not answer") from None
    if found.returncode:
        raise NoDockerError("the Docker engine does not answer: is it running, and may this user talk to it?")
    if sys.platform != "linux":
        return DESKTOP_HOST
    # Docker Desktop on Linux has its bridge in a machine of its own.
    return next((gateway for gateway in bridge_gateways(found.stdout) if _is_ours(gateway)), DESKTOP_HOST)


def bridge_gateways(inspected: str) -> list[str]:
    """The addresses of Docker's bridge, from what `docker network inspect` printed. IPv4 only, as the relay."""
    found = []
    for config in json.loads(inspected)[0]["IPAM"]["Config"]:
        network = ip_network(config["Subnet"])
        # An engine that has run nothing yet names no gateway; it takes the first address then.
        if network.version == 4:
            found.append(config.get("Gateway") or str(network[1]))
    return found


def _is_ours(address: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


class Relay:
    """Takes connections on (host, port) to a port of loopback, until closed. OSError when the port is taken."""

    def __init__(self, host: str, port: int, target: int) -> None:
        self._target = target
        self._listener = socket.create_server((host, port))
        self._serving: list[Thread] = []
        self.port: int = self._listener.getsockname()[1]
        Thread(target=self._accept, name=f"relay to {target}", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            serving = Thread(target=self._serve, args=(caller,), daemon=True)
            serving.start()
            self._serving = [*(each for each in self._serving if each.is_alive()), serving]

    def _serve(self, caller: socket.socket) -> None:
        with caller, contextlib.suppress(OSError), socket.create_connection((LOOPBACK, self._target)) as called:
            back = Thread(target=_copy, args=(called, caller), daemon=True)
            back.start()
            _copy(caller, called)
            back.join()

    def close(self) -> None:
        """Take no more connections; those that are open end with their callers, or are left to."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._serving:
            each.join(CLOSING_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Until one side ends; the end is passed on."""
    with contextlib.suppress(OSError):
        while chunk := source.recv(AT_ONCE):
            target.sendall(chunk)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def reachable(urls: Iterable[str]) -> Iterator[str]:
    """While inside, containers reach these loopback addresses under the host that is given.

    NoDockerError when no engine answers; OSError when a port is taken on the bridge.
    """
    host = docker_host()
    with contextlib.ExitStack() as relays:
        if host != DESKTOP_HOST:
            for url in urls:
                port = int(url.rsplit(":", 1)[1])
                relays.enter_context(Relay(host, port, port))
        yield host
