"""Logs the battery of the glasses as CSV (time, percent, charging), and warns the wearer once when it is low.

python examples/battery.py > battery.csv
glassbridge battery 12
"""

from __future__ import annotations

from datetime import UTC, datetime

from glassbridge.app import App, Battery, Session

app = App("com.example.battery", api_key="any-key-will-do-in-dev")

#: Percent. Enough for about an hour with a lit display.
LOW = 15


@app.on_session
async def log_battery(session: Session) -> None:
    warned = False

    async def changed(battery: Battery) -> None:
        nonlocal warned
        now = datetime.now(UTC).isoformat(timespec="seconds")
        print(now, battery.level, "charging" if battery.charging else "", sep=",", flush=True)
        low = battery.level <= LOW and not battery.charging
        if low and not warned:
            await session.layouts.show_text_wall(f"Battery low: {battery.level} %", duration=10)
        warned = low

    session.events.on_battery(changed)
    await session.dashboard.write("battery is logged")


if __name__ == "__main__":
    app.run()
