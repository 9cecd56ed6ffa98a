"""Live captions in thirty lines: what people say appears on the lens.

Run it beside `glassbridge dev`; it is found on port 7010 and started for you:

    python examples/captions.py
    glassbridge say "where is the station"
"""

from __future__ import annotations

from glassbridge.app import App, Session, TouchEvent, Transcription

app = App("com.example.captions", api_key="any-key-will-do-in-dev")


@app.on_session
async def captions(session: Session) -> None:
    await session.layouts.show_text_wall("Listening ...")

    async def said(words: Transcription) -> None:
        await session.layouts.show_text_wall(words.text, duration=10 if words.is_final else None)

    async def wiped(event: TouchEvent) -> None:
        await session.layouts.clear()

    session.events.on_transcription(said)
    session.events.on_touch(wiped, "double_tap")


if __name__ == "__main__":
    app.run()
