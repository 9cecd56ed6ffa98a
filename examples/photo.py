"""Takes a photo at each press and shows it on the lens; glasses without a camera, or without a lens, are told apart.

python examples/photo.py
glassbridge press
"""

from __future__ import annotations

import logging
from typing import Any

from glassbridge.app import App, ButtonPress, PhotoFailed, RequestTimeout, Session

app = App("com.example.photo", api_key="any-key-will-do-in-dev")
log = logging.getLogger("photo")


@app.on_session
async def photo(session: Session) -> None:
    async def greet(capabilities: dict[str, Any] | None) -> None:
        if capabilities is None:
            await session.layouts.show_text_wall("Waiting for the glasses ...")
        elif capabilities.get("hasCamera"):
            await session.layouts.show_text_wall("Press to take a photo")
        else:
            await session.layouts.show_text_wall("These glasses have no camera")

    async def take() -> None:
        try:
            taken = await session.camera.take_photo(size="small")
        except (PhotoFailed, RequestTimeout) as error:
            log.warning("%s", error)
            await session.layouts.show_text_wall("No photo this time")
            return
        log.info("a photo of %d bytes", len(taken.data))
        await session.layouts.show_bitmap(taken.data)

    async def pressed(event: ButtonPress) -> None:
        if (session.capabilities or {}).get("hasCamera"):
            # A photo takes seconds: beside the handlers, so that other events are not kept waiting.
            session.start_task(take())

    session.events.on_button_press(pressed)
    session.on_capabilities(greet)  # a wearer may put other glasses on while the app runs
    await greet(session.capabilities)


if __name__ == "__main__":
    app.run()
