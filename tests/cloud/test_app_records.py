"""App records as sessions read them: what the store has now, in the cores' own words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cloud.app_records import AppRecords
from cloud.core.capabilities import HardwareRequirement
from cloud.store.records import AppRecord, AppType, Permission

RECORD = AppRecord(
    package_name="com.example.a",
    name="A",
    public_url="http://192.0.2.9:3000/",
    hashed_api_key="secret hash",
    app_type=AppType.BACKGROUND,
    permissions=(Permission("MICROPHONE"), Permission("LOCATION")),
    settings=({"key": "lang", "type": "text"},),
)


def test_a_session_reads_what_the_store_has_now() -> None:
    stored = {RECORD.package_name: RECORD}
    records = AppRecords(lambda: stored)
    assert records["com.example.a"].name == "A"
    stored[RECORD.package_name] = replace(RECORD, name="A second")
    assert records["com.example.a"].name == "A second"
    stored["com.example.b"] = replace(RECORD, package_name="com.example.b")
    assert (list(records), len(records)) == (["com.example.a", "com.example.b"], 2)
    del stored["com.example.a"]
    assert "com.example.a" not in records
    with pytest.raises(KeyError):
        records["com.example.a"]


def test_a_store_that_replaces_its_whole_table_is_followed() -> None:
    tables = [{"a": replace(RECORD, package_name="a")}, {"b": replace(RECORD, package_name="b")}]
    records = AppRecords(lambda: tables[0])
    assert list(records) == ["a"]
    tables.pop(0)
    assert list(records) == ["b"]


def test_a_record_that_has_not_changed_is_made_once() -> None:
    records = AppRecords(lambda: {RECORD.package_name: RECORD})
    assert records[RECORD.package_name] is records[RECORD.package_name]


def test_cores_learn_what_they_decide_by_and_no_key() -> None:
    info = AppRecords(lambda: {RECORD.package_name: RECORD})[RECORD.package_name]
    assert (info.package, info.kind) == ("com.example.a", "background")
    assert info.base_url == "http://192.0.2.9:3000", "routes are appended to it"
    assert info.permissions == {"MICROPHONE", "LOCATION"}
    assert info.settings == RECORD.settings
    assert "secret hash" not in repr(info)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ({"type": "CAMERA", "level": "REQUIRED"}, HardwareRequirement("CAMERA", required=True)),
        ({"type": "CAMERA", "level": "OPTIONAL"}, HardwareRequirement("CAMERA", required=False)),
        ({"type": "CAMERA"}, HardwareRequirement("CAMERA", required=True)),
        ({}, HardwareRequirement("", required=True)),
    ],
)
def test_hardware_without_a_level_is_required(written: dict[str, str], meant: HardwareRequirement) -> None:
    record = replace(RECORD, hardware_requirements=(written,))
    assert AppRecords(lambda: {"a": record})["a"].hardware == (meant,)
