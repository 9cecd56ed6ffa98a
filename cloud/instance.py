"""One active cloud per data directory: a second one would be a second owner of every session.

Rules: the lock is the kernel's (flock), so that it ends with its process however that dies; nothing waits for it. Commands
(`glassbridge user add`) need none: they ask the running cloud. Source: failure catalogue LIV-05.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from wire.errors import ConfigError

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows: the port is the only guard there
    fcntl = None  # type: ignore[assignment]

LOCK_FILE: Final = "cloud.lock"


class Instance:
    """Holds the directory from its making until `release`. Raises ConfigError if another process holds it."""

    def __init__(self, directory: Path) -> None:
        self._file = os.open(directory / LOCK_FILE, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        if fcntl is None:  # pragma: no cover
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._file, 20, 0).decode("ascii", "replace").strip()
            os.close(self._file)
            raise ConfigError(
                f"data directory {directory}",
                f"another cloud serves it (process {holder or 'unknown'}): a directory has one owner",
                "Stop that one first, or give this one a directory of its own with --data-dir.",
            ) from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """The directory is free."""
        os.close(self._file)
