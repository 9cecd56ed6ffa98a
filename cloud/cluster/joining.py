"""How a node joins the others: the fabric that its configuration names.

Rules: NATS is imported only where it is configured; a broker that is away at the start is no reason to stay away. What is
configured wrongly is a ConfigError before anything is served.
"""

from __future__ import annotations

import ssl
from urllib.parse import quote

from cloud.cluster.fabric import Fabric
from cloud.config import ClusterConfig
from wire.errors import ConfigError


async def open_fabric(config: ClusterConfig) -> Fabric | None:
    """The configured fabric, or None for a node without others. Raises ConfigError."""
    if not config.nats:
        return None
    try:
        from cloud.cluster.nats import NatsFabric, NatsOptions
    except ImportError as error:
        raise ConfigError(
            "cluster.nats",
            "the NATS client is not installed",
            "Install it with `pip install 'glassbridge[cluster]'`.",
        ) from error
    options = NatsOptions(
        servers=tuple(_with_token(address, config) for address in config.nats),
        cell=config.cell,
        replicas=min(config.replicas, len(config.nats)),
        buckets=config.buckets,
        name=config.node or "",
        credentials=None if config.credentials is None else str(config.credentials),
        tls=_tls(config),
    )
    return await NatsFabric.open(options)


def _with_token(address: str, config: ClusterConfig) -> str:
    if config.token is None or "@" in address:
        return address
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{quote(config.token.get_secret_value(), safe='')}@{rest}"


def _tls(config: ClusterConfig) -> ssl.SSLContext | None:
    if config.tls_ca is None and config.tls_cert is None:
        return None
    try:
        context = ssl.create_default_context(cafile=None if config.tls_ca is None else str(config.tls_ca))
        if config.tls_cert is not None:
            context.load_cert_chain(str(config.tls_cert))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            "cluster.tls_ca or cluster.tls_cert",
            f"it cannot be used ({error})",
            "Name readable PEM files; tls_cert holds certificate and key.",
        ) from error
    return context
