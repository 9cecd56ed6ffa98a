"""Navigation cards: the next turn as an arrow, the way after it as words. A tap goes on to the next one.

The route is made up; a real app would follow `session.events.on_location`.

    python examples/navigation.py
    glassbridge tap right
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle

from PIL import Image, ImageDraw

from glassbridge.app import App, ButtonPress, Session

app = App("com.example.navigation", api_key="any-key-will-do-in-dev")


@dataclass(frozen=True)
class Turn:
    """One step of the way. `degrees`: 0 is straight on, 90 to the right."""

    degrees: int
    street: str
    metres: int


ROUTE = (Turn(0, "Mill Lane", 350), Turn(90, "Station Road", 120), Turn(-90, "Platform 2", 40))


def arrow(degrees: int, size: int = 120) -> Image.Image:
    """An arrow that points up, turned clockwise."""
    picture = Image.new("L", (size, size))
    draw = ImageDraw.Draw(picture)
    middle, head = size // 2, size // 3
    draw.polygon([(middle, 8), (middle + head, 8 + head), (middle - head, 8 + head)], fill=255)
    draw.rectangle([middle - 12, 8 + head, middle + 12, size - 8], fill=255)
    return picture.rotate(-degrees)


@app.on_session
async def navigate(session: Session) -> None:
    steps = cycle((turn, card) for turn in ROUTE for card in (False, True))

    async def next_step() -> None:
        turn, card = next(steps)
        if card:
            await session.layouts.show_reference_card(turn.street, f"in {turn.metres} m")
        else:
            await session.layouts.show_bitmap(arrow(turn.degrees))

    async def tapped(event: ButtonPress) -> None:
        await next_step()

    session.events.on_button_press(tapped)
    await next_step()


if __name__ == "__main__":
    app.run()
