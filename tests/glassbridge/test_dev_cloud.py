"""The cloud of `glassbridge dev`: what it adds to the production server, and how that ends."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from tests.support.dev_process import START_MAX


async def test_an_error_while_hearing_the_simulator_ends_the_process_with_its_reason(tmp_path: Path) -> None:
    """Otherwise typed words would become no transcripts any more, and nobody would know why."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        writer.write(b'event: change\ndata: {"kind": "spoken"}\n\n')  # without the words
        await writer.drain()
        await reader.read()  # until the other side is gone
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as simulator:
        address = tmp_path / "simulator"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "glassbridge.dev_cloud", "--port", "0", "--user", "dev@glassbridge.local",
            "--data-dir", str(tmp_path / "data"), "--simulator-file", str(address),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            assert (
                json.loads(await asyncio.wait_for(process.stdout.readline(), START_MAX))["event"] == "ready"
            )
            address.write_text(f"http://127.0.0.1:{simulator.sockets[0].getsockname()[1]}")
            _, said = await asyncio.wait_for(process.communicate(), START_MAX)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 1
    assert said.decode().splitlines()[-1] == "KeyError: 'spoken'"
