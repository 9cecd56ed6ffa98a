"""The service manager's side of the daemon: sd_notify with watchdog, without a library.

Rules: silent where there is no service manager. The watchdog is fed from the event loop, so a loop that hangs is
restarted by systemd.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket


class ServiceManager:
    """Talks to `$NOTIFY_SOCKET`, if there is one."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        self._task: asyncio.Task[None] | None = None

    def tell(self, state: str) -> None:
        """Send e.g. `READY=1` or `STATUS=...`; what cannot be delivered is not worth an error."""
        if not self._address:
            return
        # A leading @ means Linux' abstract namespace.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            channel.sendto(state.encode(), address)

    def ready(self) -> None:
        """The daemon serves; from now on the watchdog is fed."""
        self.tell("READY=1")
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        if self._address and microseconds.isdigit() and int(microseconds) > 0:
            # systemd's advice: feed at half of the limit.
            self._task = asyncio.create_task(self._feed(int(microseconds) / 2e6), name="edge-watchdog")

    async def _feed(self, interval: float) -> None:
        while True:
            self.tell("WATCHDOG=1")
            await asyncio.sleep(interval)

    async def stopping(self) -> None:
        self.tell("STOPPING=1")
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
