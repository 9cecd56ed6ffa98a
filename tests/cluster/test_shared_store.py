"""Two workers on one SQLite file: each knows what the other has written, also after it was deaf for a while."""

from __future__ import annotations

from pathlib import Path

from cloud.cluster.local import LocalEngine
from cloud.cluster.shared_store import NEWS, SharedSqliteStore, open_shared
from cloud.store.records import AppRecord, TokenRecord
from tests.support.waiting import until


def record(key: str, package: str = "com.example.app") -> AppRecord:
    return AppRecord(package_name=package, name="App", public_url="http://x", hashed_api_key=key)


async def test_records_and_keys_and_tokens_are_heard_of_by_the_others_only(tmp_path: Path) -> None:
    engine = await LocalEngine.open()
    path = tmp_path / "db"
    a, b = await open_shared(path, engine.node(), "a"), await open_shared(path, engine.node(), "b")
    heard: list[tuple[str, str, str]] = []
    a.on_change = lambda kind, key: heard.append(("a", kind, key))
    b.on_change = lambda kind, key: heard.append(("b", kind, key))

    await a.put_app(record("one"))
    await until(lambda: b.apps.get("com.example.app"), "the record at the other")
    await until(lambda: heard == [("b", "app", "com.example.app")], "the news")
    heard.clear()
    await a.put_app(record("two"))
    await until(lambda: len(heard) == 2, "the news")
    assert heard == [("b", "app", "com.example.app"), ("b", "key", "com.example.app")]
    assert b.apps["com.example.app"].hashed_api_key == "two"
    heard.clear()
    await b.delete_app("com.example.app")
    await until(lambda: "com.example.app" not in a.apps, "it to be gone")
    await a.ensure_user("anna@x")
    await a.put_token(TokenRecord("t1", "anna@x", "", 0.0, None, None))
    await a.revoke_token("t1")
    await until(lambda: ("b", "token", "t1") in heard, "the revocation")
    assert await b.revoked_token_ids() == ["t1"]
    for store in (a, b):
        await store.close()
    await engine.close()


async def test_what_changed_before_it_listened_and_during_a_gap_is_read_again(tmp_path: Path) -> None:
    engine = await LocalEngine.open()
    path = tmp_path / "db"
    node = engine.node()
    gaps = []
    node.on_gap = gaps.append  # type: ignore[method-assign]  # in process nothing is ever lost
    a = await open_shared(path, engine.node(), "a")
    b = await SharedSqliteStore.open(path)
    assert isinstance(b, SharedSqliteStore)
    await a.put_app(record("one"))
    await b.share(node, "b")
    assert b.apps.keys() == {"com.example.app"}
    writer = await SharedSqliteStore.open(path)  # shares nothing: as if its news were lost
    await writer.put_app(record("two", "com.example.other"))
    assert "com.example.other" not in b.apps
    gaps[0]()
    await until(lambda: "com.example.other" in b.apps, "everything to be read again")
    for store in (a, b, writer):
        await store.close()
    await engine.close()


async def test_news_that_cannot_be_read_change_nothing(tmp_path: Path) -> None:
    engine = await LocalEngine.open()
    store = await open_shared(tmp_path / "db", engine.node(), "a")
    other = engine.node()
    for data in (b"", b"[]", b"{}", b'{"by":1}', b"\xff", b'{"by":"b","kind":"strange","key":""}'):
        other.send(NEWS, data, fanout=True)
    await store.put_app(record("one"))
    assert store.apps.keys() == {"com.example.app"}
    await store.close()
    await engine.close()
