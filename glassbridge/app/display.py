"""What an app shows: layouts on the lens, and its line on the dashboard.

Rules: a call returns when the request has left for the cloud; the cloud decides who is shown and how often. Nothing
here keeps a connection: each call goes through the session's `send`. Durations are seconds.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, TypeAlias

from PIL import Image

from wire.layouts import (
    BitmapAnimation,
    BitmapView,
    ClearView,
    DashboardCard,
    DoubleTextWall,
    Layout,
    ReferenceCard,
    TextWall,
    layout_to_wire,
)
from wire.messages.app_to_cloud import AppToCloud, DashboardContentUpdate, DisplayRequest

View: TypeAlias = Literal["main", "dashboard"]
DashboardMode: TypeAlias = Literal["main", "expanded"]
Send: TypeAlias = Callable[[AppToCloud], Awaitable[None]]

#: What the TypeScript SDK sends for a full lens (wire spec 3.10.1).
BITMAP_SIZE = (576, 135)


def bitmap_data(picture: Image.Image | bytes) -> str:
    """A picture as the wire carries it: base64 of a 576x135 1-bit BMP, centred, shrunk if too large."""
    image = Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
    image = image.convert("L")
    if image.width > BITMAP_SIZE[0] or image.height > BITMAP_SIZE[1]:
        image.thumbnail(BITMAP_SIZE)
    canvas = Image.new("L", BITMAP_SIZE)
    canvas.paste(image, ((BITMAP_SIZE[0] - image.width) // 2, (BITMAP_SIZE[1] - image.height) // 2))
    out = io.BytesIO()
    canvas.convert("1").save(out, "BMP")
    return base64.b64encode(out.getvalue()).decode()


class Layouts:
    """Shows things to the wearer. `view` "main" is the lens, "dashboard" what is seen when looking up."""

    def __init__(self, send: Send, package_name: str) -> None:
        self._send = send
        self._package_name = package_name

    async def show(self, layout: Layout, *, view: View = "main", duration: float | None = None) -> None:
        """Any layout; until replaced, or for `duration` seconds. Raises NotConnected."""
        await self._send(
            DisplayRequest(
                package_name=self._package_name,
                session_id="",  # as the TypeScript SDK does: the socket says who speaks
                view=view,
                layout=layout_to_wire(layout),
                duration_ms=None if duration is None else duration * 1000,
            )
        )

    async def show_text_wall(self, text: str, *, view: View = "main", duration: float | None = None) -> None:
        await self.show(TextWall(text=text), view=view, duration=duration)

    async def show_double_text_wall(
        self, top: str, bottom: str, *, view: View = "main", duration: float | None = None
    ) -> None:
        """Two columns or two blocks, as the glasses have room."""
        await self.show(DoubleTextWall(top_text=top, bottom_text=bottom), view=view, duration=duration)

    async def show_reference_card(
        self, title: str, text: str, *, view: View = "main", duration: float | None = None
    ) -> None:
        await self.show(ReferenceCard(title=title, text=text), view=view, duration=duration)

    async def show_dashboard_card(
        self, left: str, right: str, *, view: View = "dashboard", duration: float | None = None
    ) -> None:
        await self.show(DashboardCard(left_text=left, right_text=right), view=view, duration=duration)

    async def show_bitmap(
        self, picture: Image.Image | bytes, *, view: View = "main", duration: float | None = None
    ) -> None:
        """A picture (a Pillow image, or the bytes of a PNG, JPEG or BMP file), lit where it is bright."""
        await self.show(BitmapView(data=bitmap_data(picture)), view=view, duration=duration)

    async def show_bitmap_animation(
        self,
        pictures: Sequence[Image.Image | bytes],
        *,
        interval: float = 1.0,
        repeat: bool = False,
        view: View = "main",
    ) -> None:
        """Pictures in turn, `interval` seconds each. `clear` ends it."""
        frames = [bitmap_data(picture) for picture in pictures]
        await self.show(BitmapAnimation(frames=frames, interval=interval * 1000, repeat=repeat), view=view)

    async def clear(self, *, view: View = "main") -> None:
        """Takes away what this app shows."""
        await self.show(ClearView(), view=view)


class Dashboard:
    """This app's line on the dashboard."""

    def __init__(self, send: Send, package_name: str, session_id: str) -> None:
        self._send = send
        self._package_name = package_name
        self._session_id = session_id

    async def write(self, content: str, *, modes: Sequence[DashboardMode] = ("main",)) -> None:
        """Replaces the app's content in these modes. Raises NotConnected."""
        message: dict[str, Any] = {
            "package_name": self._package_name,
            "session_id": self._session_id,
            "content": content,
            "modes": list(modes),
        }
        await self._send(DashboardContentUpdate(**message))
