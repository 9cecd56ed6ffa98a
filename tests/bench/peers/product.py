"""The cloud as `glassbridge cloud run` starts it, with users and apps already registered, for benchmarks.

Rules: nothing of the product is switched off. Only limits that guard against a single user's excess are raised, because a
benchmark is one. Arguments: a data directory, the number of users, the number of apps, the webhook's port, the port, and
further settings as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from cloud.auth import TokenVerifier, hash_api_key
from cloud.config import CloudConfig
from cloud.server import run
from cloud.store.open import open_store
from cloud.store.records import AppRecord, AppType, Permission

SECRET = "bench-secret-of-at-least-32-bytes!"
KEY = "bench-key"


async def prepare(config: CloudConfig, apps: int, webhook_port: int) -> None:
    store = await open_store(config)
    for number in range(apps):
        await store.put_app(
            AppRecord(
                package_name=f"com.bench.a{number}",
                name=f"Bench {number}",
                public_url=f"http://127.0.0.1:{webhook_port}",
                hashed_api_key=hash_api_key(KEY),
                # One app is the one in front, as it is when a wearer reads captions; of several only one could be.
                app_type=AppType.STANDARD if apps == 1 else AppType.BACKGROUND,
                permissions=(Permission("MICROPHONE"),),
                preinstalled=True,
            )
        )
    await store.close()


def main() -> int:
    directory, users, apps, webhook_port, port = Path(sys.argv[1]), *map(int, sys.argv[2:6])
    verifier = TokenVerifier([SECRET])
    with (directory / "tokens").open("w") as out:
        for number in range(users):
            user = f"bench{number}@example.com"
            out.write(f"{user} {verifier.mint_core_token(user)}\n")
    config = CloudConfig.load(
        None,
        {
            "data_dir": directory,
            "port": port,
            "auth.secret": SECRET,
            "webhooks.allow": (f"127.0.0.1:{webhook_port}",),
            "sessions.apps_per_session_max": 2000,
            "admission.sessions_per_second": 20_000,
            "admission.frames_per_second": 1_000_000,
            "admission.lag": 60.0,
            "limits.unauthenticated_max": 20_000,
            "limits.audio_frames_per_second": 1_000_000,
            "log.level": "warning",
            **(json.loads(sys.argv[6]) if len(sys.argv) > 6 else {}),
        },
        env={},
    )
    asyncio.run(prepare(config, apps, webhook_port))
    return run(config, json_ready=True)


if __name__ == "__main__":
    sys.exit(main())
