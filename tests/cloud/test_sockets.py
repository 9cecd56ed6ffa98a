"""Liveness of open sockets, and their totals."""

from __future__ import annotations

import asyncio

import pytest

from cloud.server import Cloud
from tests.support.cloud import USER, phone
from wire.liveness import LivenessPolicy


@pytest.mark.failure("LIV-03")
async def test_a_socket_without_any_sign_of_life_is_cut_and_a_speaking_one_kept(cloud: Cloud) -> None:
    quick = LivenessPolicy(ask=0.4, dead=1.6, speak=0.5, probes_min=2, wake=0.5)
    async with phone(cloud) as mute, phone(cloud, user="lively@x.io") as lively:
        await mute.next("connection_ack")
        await lively.next("connection_ack")
        for connection in cloud.listener.connections:
            cloud.hub.sockets.watch(connection, quick, is_app=False)
        assert mute._socket is not None
        mute._socket.transport.pause_reading()  # no pong comes back
        for _ in range(60):
            await lively.send_raw(b"\0\0")
            await asyncio.sleep(0.1)
            view = cloud.hub.session_view(USER)
            if view is not None and not view.connected:
                break
        view = cloud.hub.session_view(USER)
        assert view is not None
        assert not view.connected
        assert lively.closed is None
        assert lively.count("pong") >= 1  # the silent direction was spoken in
        await mute.drop()
