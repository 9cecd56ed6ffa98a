"""Takes a photo at each press and shows it on the lens; glasses without a camera, or without a lens, are told apart.

python examples/photo.py
glassbridge press
"""

from __future__ import annotations

import logging

from glassbridge.app import App, ButtonPress, PhotoFailed, RequestTimeout, Session

app = App("com.example.photo", api_key="any-key-will-do-in-dev")
log = logging.getLogger("photo")


@app.on_session
async def photo(session: Session) -> None:
    if not (session.capabilities or {}).get("hasCamera"):
        await session.layouts.show_text_wall("These glasses have no camera")
        return
    await session.layouts.show_text_wall("Press to take a photo")

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
        # A photo takes seconds: beside the handlers, so that other events are not kept waiting.
        session.start_task(take())

    session.events.on_button_press(pressed)


if __name__ == "__main__":
    app.run()
