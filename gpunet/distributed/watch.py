"""Watches the ranks of a run: one that is gone, or hangs, ends all of them.

Without that, the others would wait in their next collective call for ever. A thread of each rank
keeps a connection to rank 0 and says each second where its rank is; rank 0's thread answers. A
connection that closes without a word is a rank that has died; one that falls silent is a process
that was stopped, or whose machine is gone.
"""

from __future__ import annotations

import hmac
import os
import secrets
import selectors
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, sleep
from typing import Any, NoReturn

from gpunet.distributed.peers import Peer, Place, find, own_hosts

BEAT = 1.0
"""Seconds between two words of a rank."""
SILENT = 18.0
"""Seconds without a word after which a rank counts as hanging."""
ENDED = "has ended its program while others wait for it"
LEFT = 8.0
"""Seconds that a rank waits for one whose program has ended; one that ends all ranks says so itself meanwhile."""
PATIENCE = "GPUNET_RANK_PATIENCE"
"""The environment variable with the seconds that ranks may wait for one that works; 1800 if it is not set.
0 switches the watch off."""


def patience() -> float:
    """What `PATIENCE` says."""
    return float(os.environ.get(PATIENCE, 1800))


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
        self.address = own_hosts(), int(self._server.getsockname()[1]), self._password
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
        self._centre = find(hosts, port, {"rank": rank, "host": place.host, "password": password})
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
