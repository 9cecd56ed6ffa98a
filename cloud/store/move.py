"""Moves a household from the SQLite file of a data directory into PostgreSQL, photos included: everything or nothing.

Rules: no cloud serves the directory meanwhile (the same lock proves it). The target must hold nobody yet, so that nothing
is ever merged by accident. The file is left as it is: going back is removing `store.url`.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import asyncpg

from cloud.config import DATABASE_FILE
from cloud.instance import Instance
from cloud.store.postgres import AWAY, PostgresStore, shown
from cloud.store.sql import TABLES
from cloud.store.sqlite import PHOTOS, SqliteStore
from wire.errors import ConfigError

#: Rows read and sent at a time; a row has at most 100 kB, and usually 100 bytes.
BATCH: Final = 500
#: The command line waits for a database that does not answer only a moment. Seconds.
START: Final = 5.0


async def move(directory: Path, url: str) -> Mapping[str, int]:
    """Copy every table; returns the number of rows of each. Raises ConfigError; then nothing has been copied."""
    source = directory / DATABASE_FILE
    if not source.exists():
        raise ConfigError(
            f"data directory {directory}", "there is no database to move", "Name another with --data-dir."
        )
    lock = Instance(directory)
    try:
        # Opening brings the file to the newest version, with a copy of it as it was.
        await (await SqliteStore.open(source)).close()
        await (await PostgresStore.open(url, start_patience=START)).close()
        return await _copy(source, url)
    except (*AWAY, asyncpg.PostgresError) as error:
        raise ConfigError(
            f"store {shown(url)}",
            f"the copy failed and was undone ({str(error).splitlines()[0] if str(error) else type(error).__name__})",
            "Mend what it says, and start the command again.",
        ) from error
    finally:
        lock.release()


async def _copy(source: Path, url: str) -> Mapping[str, int]:
    file = sqlite3.connect(f"file:{source}?mode=ro", uri=True, check_same_thread=False)
    target = await asyncpg.connect(url, timeout=START)
    counts: dict[str, int] = {}
    try:
        async with target.transaction():
            for table in TABLES:
                await target.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
                if await target.fetchval(f"SELECT EXISTS (SELECT 1 FROM {table})"):
                    raise ConfigError(
                        f"store {shown(url)}",
                        f"it is not empty: there are rows in {table}",
                        "Make a new database for the move.",
                    )
                counts[table] = await _copy_table(file, target, table)
            counts["photo_files"] = await _copy_photos(source.parent / PHOTOS, target)
    finally:
        file.close()
        await target.close(timeout=START)
    return counts


async def _copy_photos(folder: Path, target: Any) -> int:
    """The bytes of those photos that still have a record."""
    count = 0
    for row in await target.fetch("SELECT file_name FROM photos"):
        path = folder / row[0]
        if path.exists():
            data = await asyncio.to_thread(path.read_bytes)
            await target.execute(
                "INSERT INTO photo_files VALUES ($1, $2) ON CONFLICT DO NOTHING", row[0], data
            )
            count += 1
    return count


async def _copy_table(file: sqlite3.Connection, target: Any, table: str) -> int:
    rows = file.execute(f"SELECT * FROM {table}")
    columns = [column[0] for column in rows.description]
    count = 0
    while batch := await asyncio.to_thread(rows.fetchmany, BATCH):
        for row in batch:
            if any(isinstance(value, str) and "\0" in value for value in row):
                raise ConfigError(
                    f"table {table}, row {row[:2]}",
                    "a text holds the character U+0000, which PostgreSQL cannot store",
                    "Delete that entry, and start the command again.",
                )
        await target.copy_records_to_table(table, records=batch, columns=columns)
        count += len(batch)
    return count
