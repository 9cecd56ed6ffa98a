"""Answers `/livez` from a thread of its own while the event loop is busy: busy is not dead (failure catalogue PRO-02).

Rules: while the loop accepts connections, this thread only sleeps. A connection that a loop has left waiting, which took no
other meanwhile, is accepted here; if it asks for `/livez` it is answered, anything else is given to the loop unread. A loop that has not turned for
`dead_after` seconds is dead, and 503 says so. Everything kept meanwhile is bounded.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import orjson

#: A loop that has left a connection waiting for so long is busy. Its turns take milliseconds. Seconds.
GRACE: Final = 0.03
#: A request that is not here by then is the loop's to wait for. Seconds.
HEAD: Final = 1.0
HEAD_BYTES: Final = 2048
#: Accepted and not known yet what they want; and given to a loop that has not taken them yet. Beyond these the kernel's own
#: queue holds the rest.
PENDING_MAX: Final = 128
GIVEN_MAX: Final = 1024


class Livez:
    """One thread; `stop` ends it within milliseconds."""

    def __init__(
        self,
        sockets: Sequence[Any],
        *,
        accepted: Callable[[], int],
        beat: Callable[[], float],
        clock: Callable[[], float],
        dead_after: float,
        give: Callable[[socket.socket], None],
    ) -> None:
        """`sockets` listen; `accepted` counts what the loop took from them; `beat` is when the loop last turned, on `clock`; `give` hands a connection to the loop and must
        be callable from any thread. It raises RuntimeError when the loop is closed."""
        self._listening = [socket.socket(fileno=os.dup(one.fileno())) for one in sockets]
        self._accepted = accepted
        self._beat = beat
        self._clock = clock
        self._dead_after = dead_after
        self._give = give
        self._wake, self._woken = socket.socketpair()
        self._stopped = False
        self._selector = selectors.DefaultSelector()
        self._pending: dict[socket.socket, float] = {}
        self._given = 0
        self._taken = 0
        self._thread = threading.Thread(target=self._run, name="livez", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """The listening sockets are let go of when this returns."""
        if self._stopped:
            return
        self._stopped = True
        self._wake.send(b"x")
        self._thread.join()

    def taken(self) -> None:
        """The loop has taken one of the connections that it was given."""
        self._taken += 1

    # ---------------------------------------------------------------------------------------------- in the thread

    def _run(self) -> None:
        select = self._selector
        select.register(self._woken, selectors.EVENT_READ)
        for listening in self._listening:
            select.register(listening, selectors.EVENT_READ)
        try:
            while not self._stopped:
                ready = {key.fileobj for key, _ in select.select(HEAD if self._pending else None)}
                for connection in [one for one in self._pending if one in ready]:
                    self._look(connection)
                self._expire()
                if any(listening in ready for listening in self._listening) and not self._stopped:
                    accepted = self._accepted()
                    time.sleep(GRACE)  # the loop's turn
                    if self._accepted() == accepted:
                        self._accept_what_is_left()
        finally:
            for one in (*self._pending, *self._listening, self._wake, self._woken):
                one.close()
            select.close()

    def _accept_what_is_left(self) -> None:
        for listening in self._listening:
            while len(self._pending) < PENDING_MAX and self._given - self._taken < GIVEN_MAX:
                try:
                    connection, _ = listening.accept()
                except OSError:  # the loop was quicker, or the peer has gone
                    break
                connection.setblocking(False)
                self._pending[connection] = time.monotonic() + HEAD
                self._selector.register(connection, selectors.EVENT_READ)
                self._look(connection)

    def _look(self, connection: socket.socket) -> None:
        """Peek at what it asks for: the loop must find every byte where it was."""
        try:
            head = connection.recv(HEAD_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            head = b""
        if not b"GET /livez".startswith(head[:10]) or (len(head) > 10 and head[10:11] not in b" ?"):
            self._leave(connection)
        elif not head:
            self._forget(connection)
            connection.close()
        elif b"\r\n\r\n" in head:
            self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        self._forget(connection)
        late = max(0.0, self._clock() - self._beat())
        dead = late > self._dead_after
        body = orjson.dumps({"status": "dead" if dead else "alive", "late": round(late, 1)})
        status = b"503 Service Unavailable" if dead else b"200 OK"
        try:
            connection.recv(HEAD_BYTES)
            connection.send(
                b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
                % (status, len(body), body)
            )
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the probe did not wait
        connection.close()

    def _leave(self, connection: socket.socket) -> None:
        """To the loop."""
        self._forget(connection)
        try:
            self._give(connection)
        except RuntimeError:
            connection.close()
        else:
            self._given += 1

    def _expire(self) -> None:
        now = time.monotonic()
        for connection in [one for one, end in self._pending.items() if end <= now]:
            self._leave(connection)

    def _forget(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        del self._pending[connection]
