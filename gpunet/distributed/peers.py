"""What a rank says of itself each second, and how it finds rank 0, to which it says that."""

from __future__ import annotations

import json
import queue
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

LONGEST = 1 << 12
"""Bytes of a word, and more."""
REACHED = 15.0
"""Seconds in which a rank must have found rank 0."""
SIOCGIFADDR = 0x8915
"""Linux's request for the address of a network interface."""


@dataclass
class Place:
    """Where a rank is."""

    host: str
    at: str = "its start"
    """The step, for messages."""
    waiting: float | None = None
    """Since when it has been waiting in a collective call, by its own clock; None while it works."""
    calls: int = 0
    """How many collective calls it has made."""
    what: str = ""
    """The last of them."""
    left: bool = False
    """Whether its program has ended."""

    def word(self) -> dict[str, Any]:
        """What it says of itself each second."""
        waits = None if self.waiting is None else monotonic() - self.waiting
        call = f"{self.what}, its call {self.calls}"
        return {"host": self.host, "at": self.at, "waits": waits, "call": call, "left": self.left}


@dataclass(eq=False)
class Peer:
    """The other end of a connection."""

    socket: socket.socket
    rank: int = -1
    """-1 until it has said so."""
    heard: float = field(default_factory=monotonic)
    word: dict[str, Any] = field(default_factory=lambda: Place("?").word())
    unread: bytes = b""
    left: float = inf
    """When it said that its program has ended."""

    def read(self) -> list[dict[str, Any]] | None:
        """The words that have come; None where the connection has been closed."""
        try:
            got = self.socket.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            got = b""
        if not got:
            return None
        self.heard = monotonic()
        *lines, self.unread = (self.unread + got).split(b"\n")
        if len(self.unread) > LONGEST:  # of a stranger
            return None
        return [json.loads(line) for line in lines]

    def say(self, **word: Any) -> None:
        """Send a word; nothing happens where the other end cannot take it."""
        with suppress(OSError):
            self.socket.sendall(json.dumps(word).encode() + b"\n")

    def describe(self) -> str:
        """Who it is, and where it was last seen."""
        return f"rank {self.rank} on {self.word['host']}, last seen at {self.word['at']}"


def own_hosts() -> list[str]:
    """The name of this machine, and the addresses of its interfaces: where no DNS knows it, others have these alone."""
    found = []
    with suppress(ImportError, OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        from fcntl import ioctl  # which Windows has not

        for _, interface in socket.if_nameindex():
            with suppress(OSError):  # it has no address
                answer = ioctl(any_socket, SIOCGIFADDR, interface.encode().ljust(40, b"\0"))
                found.append(socket.inet_ntoa(answer[20:24]))
    with suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            digits, _, _, scope, *_ = line.split()
            if scope == "00":  # it is known beyond one link
                found.append(str(IPv6Address(bytes.fromhex(digits))))
    return [socket.gethostname(), *(each for each in found if not ip_address(each).is_loopback)]


def find(hosts: list[str], port: int, word: dict[str, Any]) -> Peer:
    """Connect to rank 0 by the first of its machine's names and addresses where it answers.

    They are tried side by side: some may lead to other machines, or nowhere, and a DNS may be silent.

    Args:
        word: what this rank says of itself.
    Raises:
        ConnectionError: rank 0 does not answer at any; it says what happened there.
    """
    end, errors, tries = monotonic() + REACHED, dict.fromkeys(hosts, "no answer"), _Tries()
    near = ["127.0.0.1"] if hosts[0] == socket.gethostname() else []
    tried = [*near, *hosts]
    for host in tried:
        threading.Thread(target=tries.connect, args=(host, port), daemon=True).start()
    try:
        while tried and (left := end - monotonic()) > 0:
            with suppress(queue.Empty):
                host, found = tries.done.get(timeout=left)
                tried.remove(host)
                peer = found if isinstance(found, Exception) else _greet(found, word, (end - monotonic()) / 2)
                if isinstance(peer, Peer):
                    return peer
                errors[host] = str(peer)
    finally:
        tries.close()
    raise ConnectionError(", ".join(f"{host}: {errors[host]}" for host in hosts))


class _Tries:
    """Connections that threads try to make."""

    def __init__(self) -> None:
        self.done: queue.Queue[tuple[str, socket.socket | Exception]] = queue.Queue()
        self._lock, self._wanted = threading.Lock(), True

    def connect(self, host: str, port: int) -> None:
        """Try to connect, and put what that gave into `done`."""
        found: socket.socket | Exception
        try:
            found = socket.create_connection((host, port), timeout=REACHED)
        except (OSError, UnicodeError) as error:
            found = error
        with self._lock:
            if self._wanted:
                self.done.put((host, found))
            elif isinstance(found, socket.socket):
                found.close()

    def close(self) -> None:
        """Close the connections that nobody has taken, and those that are still to come."""
        with self._lock:
            self._wanted = False
            while not self.done.empty():
                found = self.done.get()[1]
                if isinstance(found, socket.socket):
                    found.close()


def _greet(connection: socket.socket, word: dict[str, Any], seconds: float) -> Peer | Exception:
    """Say who this is -> rank 0, which then knows this rank before anything can fail; or why it is not rank 0."""
    peer = Peer(connection, 0)
    try:
        connection.settimeout(max(seconds, 0.1))
        peer.say(**word)
        while not (words := peer.read()):
            if words is None:
                raise ConnectionError("what listens there is not rank 0, or it does not answer")
        peer.word = {**words[-1], "left": bool(words[-1]["left"])}
        connection.setblocking(False)
    except (OSError, ValueError, TypeError, KeyError) as error:  # of a stranger
        connection.close()
        return error
    return peer
