"""Which store a configuration means: PostgreSQL where `store.url` says so, else the SQLite file of the data directory."""

from __future__ import annotations

from cloud.config import DATABASE_FILE, CloudConfig, prepare_data_dir
from cloud.store.sql import SqlStore
from cloud.store.sqlite import SqliteStore
from wire.errors import ConfigError


async def open_store(config: CloudConfig) -> SqlStore:
    """Open, check, migrate. Raises ConfigError; see the engines' own `open`."""
    url = config.store.url
    if url is None:
        return await SqliteStore.open(prepare_data_dir(config.directory) / DATABASE_FILE)
    try:
        from cloud.store.postgres import PostgresStore
    except ImportError as error:
        raise ConfigError(
            "store.url", "the driver for PostgreSQL is not installed", "pip install 'glassbridge[cluster]'"
        ) from error
    return await PostgresStore.open(url.get_secret_value(), pool_max=config.store.pool_max)
