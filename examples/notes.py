"""Notes by voice: "note buy milk" keeps it, "notes" shows them all, a double tap deletes the last one.

They are kept by the cloud, for each wearer, and are still there when the app or the cloud is started again:

    python examples/notes.py
    glassbridge say "note buy milk"
"""

from __future__ import annotations

import json

from glassbridge.app import App, Session, TouchEvent, Transcription

app = App("com.example.notes", api_key="any-key-will-do-in-dev")

#: What a lens can show, and what a storage value of 100 kB can hold without thinking about it.
NOTES_MAX = 5


@app.on_session
async def notes(session: Session) -> None:
    kept: list[str] = json.loads(await session.storage.get("notes") or "[]")

    async def show() -> None:
        lines = [f"{number}. {note}" for number, note in enumerate(kept, 1)]
        await session.layouts.show_text_wall("\n".join(lines) or 'No notes. Say "note ..."')

    async def said(words: Transcription) -> None:
        if not words.is_final:
            return
        command, _, text = words.text.strip().partition(" ")
        if command.lower() == "note" and text:
            kept.append(text)
            del kept[:-NOTES_MAX]
            await session.storage.set("notes", json.dumps(kept))
        elif command.lower() != "notes":
            return
        await show()

    async def removed(event: TouchEvent) -> None:
        if kept:
            kept.pop()
            await session.storage.set("notes", json.dumps(kept))
        await show()

    session.events.on_transcription(said)
    session.events.on_touch(removed, "double_tap")
    await show()


if __name__ == "__main__":
    app.run()
