"""An app's settings and the system's, as the cloud last told them.

Rules: the cloud's list replaces ours whole. A change handler is called with (new, old) for keys whose value differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from glassbridge.app.events import Handler, Unsubscribe

#: A change of one key: (new value, old value); None where a key is absent.
Change = tuple[Any, Any]


class Settings:
    """`get` reads the app's own settings, `system` holds the wearer's (brightness, units ...)."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._handlers: dict[str, list[Handler[Change]]] = {}
        self._system_handlers: dict[str, list[Handler[Change]]] = {}
        self.system: Mapping[str, Any] = {}

    def get(self, key: str, default: Any = None) -> Any:
        """The value of one setting; `default` when the cloud knows none."""
        return self._values.get(key, default)

    def all(self) -> dict[str, Any]:
        return dict(self._values)

    def on_change(self, key: str, handler: Handler[Change]) -> Unsubscribe:
        """Calls `handler((new, old))` whenever this setting changes."""
        handlers = self._handlers.setdefault(key, [])
        handlers.append(handler)
        return _remover(handlers, handler)

    def on_system_change(self, key: str, handler: Handler[Change]) -> Unsubscribe:
        """The same for one of the wearer's settings ("brightness", "metricSystemEnabled" ...)."""
        handlers = self._system_handlers.setdefault(key, [])
        handlers.append(handler)
        return _remover(handlers, handler)

    def replace(self, settings: Iterable[Mapping[str, Any]]) -> list[tuple[Handler[Change], Change]]:
        """Takes the cloud's list; returns the calls that are due."""
        new = {str(entry["key"]): entry.get("value") for entry in settings if "key" in entry}
        old, self._values = self._values, new
        return _due(self._handlers, new, old)

    def replace_system(self, settings: Mapping[str, Any]) -> list[tuple[Handler[Change], Change]]:
        """Takes the wearer's settings; returns the calls that are due."""
        old, self.system = self.system, settings
        return _due(self._system_handlers, settings, old)


def _due(
    registered: Mapping[str, list[Handler[Change]]], new: Mapping[str, Any], old: Mapping[str, Any]
) -> list[tuple[Handler[Change], Change]]:
    return [
        (handler, (new.get(key), old.get(key)))
        for key, handlers in registered.items()
        if new.get(key) != old.get(key)
        for handler in tuple(handlers)
    ]


def _remover(handlers: list[Handler[Change]], handler: Handler[Change]) -> Callable[[], None]:
    def remove() -> None:
        if handler in handlers:
            handlers.remove(handler)

    return remove
