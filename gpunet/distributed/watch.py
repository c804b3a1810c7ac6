"""Watches the ranks of a run: one that is gone, or hangs, ends all of them.

Without that, the others would wait in their next collective call for ever. A thread of each rank
keeps a connection to rank 0 and says each second where its rank is; rank 0's thread answers. A
connection that closes without a word is a rank that has died; one that falls silent is a process
that was stopped, or whose machine is gone.
"""

from __future__ import annotations

import hmac
import json
import os
import queue
import secrets
import selectors
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from math import inf
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NoReturn

BEAT = 1.0
"""Seconds between two words of a rank."""
SILENT = 18.0
"""Seconds without a word after which a rank counts as hanging."""
ENDED = "has ended its program while others wait for it"
LEFT = 8.0
"""Seconds that a rank waits for one whose program has ended; one that ends all ranks says so itself meanwhile."""
LONGEST = 1 << 12
"""Bytes of a word, and more."""
REACHED = 15.0
"""Seconds in which a rank must have found rank 0."""
SIOCGIFADDR = 0x8915
"""Linux's request for the address of a network interface."""
PATIENCE = "GPUNET_RANK_PATIENCE"
"""The environment variable with the seconds that ranks may wait for one that works; 1800 if it is not set.
0 switches the watch off."""


def patience() -> float:
    """What `PATIENCE` says."""
    return float(os.environ.get(PATIENCE, 1800))


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


class Watch:
    """The thread of a rank that watches, and is watched.

    Args:
        place: of this rank; others write it.
        abort: ends all ranks, with a reason.
    Attributes:
        checks: called at each beat, from this thread; one that says something ends all ranks.
    """

    def __init__(self, place: Place, abort: Callable[[str], NoReturn]) -> None:
        self._place, self._abort = place, abort
        self._peers: list[Peer] = []
        self.checks: list[Callable[[], str]] = []
        self._woke, self._spoke, self._process = monotonic(), 0.0, os.getpid()

    def leave(self) -> None:
        """Say that this rank's program has ended, so that its end is no death."""
        if os.getpid() != self._process:  # a child's, after a fork
            return
        self._place.left = True
        for peer in list(self._peers):
            peer.say(**self._place.word())

    def _start(self) -> None:
        threading.Thread(target=self._run, name="gpunet-watch", daemon=True).start()

    def _run(self) -> None:
        while True:
            now = monotonic()
            if now - self._woke > 5 * BEAT:  # this process was stopped itself, and has heard nobody meanwhile
                for peer in self._peers:
                    peer.heard = now
            self._woke = now
            if not self._turn():
                return

    def _turn(self) -> bool:
        """Hear and speak for one beat -> whether there is anybody to watch."""
        raise NotImplementedError

    def _speak(self) -> None:
        """Say where this rank is, once for each beat; abort where one of its checks has found something."""
        if monotonic() - self._spoke >= 0.9 * BEAT:
            self._spoke = monotonic()
            for why in filter(None, map(_asked, list(self.checks))):
                self._abort(f"at {self._place.at}, {why}")
            for peer in self._peers:
                peer.say(**self._place.word())

    def _hear(self, peer: Peer) -> bool:
        """Take up what a peer says -> whether the connection is still there; abort where it has died."""
        words = peer.read()
        self._take(peer, words or [])
        if words is None and not peer.word["left"] and not self._place.left:
            self._abort(f"{peer.describe()}, has died")
        return words is not None

    def _take(self, peer: Peer, words: list[dict[str, Any]]) -> None:
        for word in words:
            if "show" in word:
                _show_stack()
            else:
                peer.word = word
                if word["left"]:
                    peer.left = min(peer.left, monotonic())

    def _check_heard(self, peer: Peer, silent: float) -> None:
        silence = monotonic() - peer.heard
        if silence > silent and not peer.word["left"]:
            self._abort(
                f"{peer.describe()}, has not been heard of for {silence:.0f} s: it was stopped, "
                "its code holds Python's lock, or its machine cannot be reached"
            )


class Centre(Watch):
    """Rank 0's thread, to which all others connect.

    Attributes:
        address: what the others connect to: (hosts, port, password).
    """

    def __init__(self, place: Place, abort: Callable[[str], NoReturn], size: int) -> None:
        super().__init__(place, abort)
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        self._server = socket.create_server(("", 0), family=family, backlog=size, dualstack_ipv6=both)
        self._server.setblocking(False)
        self._password = secrets.token_hex(16)
        self.address = _own_hosts(), int(self._server.getsockname()[1]), self._password
        self._patience, self._size = patience(), size
        self._new: list[Peer] = []
        self._start()

    def _turn(self) -> bool:
        heard = {peer.socket: peer for peer in (*self._peers, *self._new)}
        for one in _readable([self._server, *heard]):
            if one is self._server:
                self._accept()
            elif (peer := heard[one]) in self._new:
                self._admit(peer)
            elif not self._hear(peer):
                self._peers.remove(peer)
                peer.socket.close()
        self._speak()
        for peer in self._peers:
            self._check_heard(peer, SILENT)
        self._check_waiting()
        return True

    def _accept(self) -> None:
        """Accept all that have connected, since thousands may begin at once."""
        with suppress(OSError):
            while True:
                self._new.append(Peer(self._server.accept()[0]))
                self._new[-1].socket.setblocking(False)

    def _admit(self, peer: Peer) -> None:
        """Take a new peer in, if it knows the password."""
        try:
            words = peer.read()
            if words == []:
                return
            first, *others = words or [{}]
            if hmac.compare_digest(str(first.get("password")), self._password):
                peer.rank, peer.word = int(first["rank"]), {**peer.word, "host": first["host"]}
                self._take(peer, others)
                self._peers.append(peer)
                peer.say(**self._place.word())  # which it waits for
        except (ValueError, TypeError, AttributeError, KeyError):  # a stranger, such as a scanner of ports
            pass
        self._new.remove(peer)
        if peer not in self._peers:
            peer.socket.close()

    def _check_waiting(self) -> None:
        """Abort where ranks wait for one that has left, or that works too long."""
        own = Peer(self._server, 0, word=self._place.word())
        ranks = [own, *self._peers]
        longest = max((peer.word["waits"] or 0.0 for peer in ranks), default=0.0)
        if len(ranks) == self._size and all((peer.word["waits"] or 0.0) > LEFT for peer in ranks):
            self._check_calls(ranks, longest)
        for peer in ranks:
            if min(longest, monotonic() - peer.left) > LEFT:  # that rank 0 has left, the others find
                self._abort(f"{peer.describe()}, {ENDED}")
            if peer.word["waits"] is None and not peer.word["left"] and longest > self._patience:
                _show_stack() if peer is own else peer.say(show=True)
                sleep(BEAT)
                self._abort(
                    f"{peer.describe()}, has let the others wait for {longest:.0f} s; {PATIENCE} says how long it may"
                )

    def _check_calls(self, ranks: list[Peer], longest: float) -> None:
        """Abort where all ranks wait, but in different calls, or for too long."""
        own = ranks[0].word["call"]
        other = next((peer for peer in ranks if peer.word["call"] != own), None)
        if other is not None:
            self._abort(
                f"{other.describe()}, waits for {other.word['call']}, but rank 0 for {own}: all ranks must train, "
                "evaluate, predict and load alike, and compute the same layers"
            )
        if longest > self._patience:
            self._abort(f"all ranks have waited for each other for {longest:.0f} s; {PATIENCE} says how long they may")


class Spoke(Watch):
    """The thread of another rank.

    Args:
        address: as in `Centre`.
    Raises:
        OSError: rank 0 does not answer there.
    """

    def __init__(
        self, place: Place, abort: Callable[[str], NoReturn], rank: int, address: tuple[list[str], int, str]
    ) -> None:
        super().__init__(place, abort)
        hosts, port, password = address
        self._centre = _find(hosts, port, {"rank": rank, "host": place.host, "password": password})
        self._peers.append(self._centre)
        # ranks that miss rank 0 do not all say so at once
        self._silent = SILENT + 0.3 * (rank % 20)
        self._open = True
        self._start()

    def _turn(self) -> bool:
        if self._open and _readable([self._centre.socket]):
            self._open = self._hear(self._centre)
        elif not self._open:
            sleep(BEAT)
        self._speak()
        self._check_heard(self._centre, self._silent)
        own = self._place.word()["waits"] or 0.0
        if min(own, monotonic() - self._centre.left) > LEFT:
            self._abort(f"{self._centre.describe()}, {ENDED}")
        return True


def _own_hosts() -> list[str]:
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


def _find(hosts: list[str], port: int, word: dict[str, Any]) -> Peer:
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


def _readable(sockets: list[socket.socket]) -> list[socket.socket]:
    """The sockets on which something has come, after a beat at the latest; there may be thousands."""
    with selectors.DefaultSelector() as selector:
        for each in sockets:
            selector.register(each, selectors.EVENT_READ)
        return [key.fileobj for key, _ in selector.select(BEAT) if isinstance(key.fileobj, socket.socket)]


def _asked(check: Callable[[], str]) -> str:
    """What a check says; its own error, if it raises, for this thread must go on."""
    try:
        return check()
    except Exception as error:
        return f"a check of the watch has failed: {type(error).__name__}: {error}"


def _show_stack() -> None:
    """Print where the main thread of this process is."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    print("".join(traceback.format_stack(frame)), file=sys.stderr, flush=True)
