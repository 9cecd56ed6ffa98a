"""The store's app records in the form that the cores read.

Rules: a live view; a record that has changed is seen at once, one that has not is made once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from cloud.core.capabilities import HardwareRequirement
from cloud.core.session import AppInfo
from cloud.store.records import AppRecord


class AppRecords(Mapping[str, AppInfo]):
    """Package -> what a session needs to know of the app. `records`: the store's own."""

    def __init__(self, records: Callable[[], Mapping[str, AppRecord]]) -> None:
        self._records = records
        self._made: dict[str, tuple[AppRecord, AppInfo]] = {}

    def __getitem__(self, package: str) -> AppInfo:
        record = self._records()[package]
        made = self._made.get(package)
        if made is None or made[0] is not record:
            made = self._made[package] = (record, _app_info(record))
        return made[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._records())

    def __len__(self) -> int:
        return len(self._records())


def _app_info(record: AppRecord) -> AppInfo:
    return AppInfo(
        package=record.package_name,
        name=record.name,
        base_url=record.public_url.rstrip("/"),
        kind=record.app_type.value,
        permissions=frozenset(p.type for p in record.permissions),
        hardware=tuple(
            HardwareRequirement(str(h.get("type", "")), h.get("level", "REQUIRED") == "REQUIRED")
            for h in record.hardware_requirements
        ),
        settings=record.settings,
    )
