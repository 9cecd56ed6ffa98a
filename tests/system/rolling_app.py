"""Two apps in one process, as `tests/system/rolling.py` starts and kills it: every button press becomes a line on stdout.

Arguments: one `package:port:key` per app. A line: {"at": wall seconds, "app", "user", "button"}.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack

from glassbridge.app import App, Session


def make(package: str, port: int, key: str) -> App:
    app = App(package, api_key=key, port=port)

    @app.on_session
    async def on_session(session: Session) -> None:
        def pressed(press: object) -> None:
            line = {
                "at": time.time(),
                "app": package,
                "user": session.user_id,
                "button": getattr(press, "button_id", ""),
            }
            print(json.dumps(line), flush=True)

        session.events.on_button_press(pressed)

    return app


async def main() -> None:
    async with AsyncExitStack() as stack:
        for argument in sys.argv[1:]:
            package, port, key = argument.split(":")
            await stack.enter_async_context(make(package, int(port), key).serving())
        print(json.dumps({"event": "ready"}), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
