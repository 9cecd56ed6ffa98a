"""The edge daemon: composition root. Turns configuration into running wearers and stops them cleanly.

Rules of this file:

- A `Session` performs the effects of one `Node` and feeds it what comes back; it decides nothing. No await stands
  between an input and its last effect.
- One session's failure ends that session only; it is built anew after a pause (failure catalogue EDG-02).
- What is logged: the first failure of an outage as WARNING, repeats as DEBUG, recovery as INFO. Never contents.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
import signal
import ssl
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, assert_never

import httpx
import orjson

from edge.audio import SpeechDecoder
from edge.ble import BleakRadio, Link, Radio
from edge.capture import CapturingRadio
from edge.config import EdgeConfig, Wearer, arms_of, parse_glasses
from edge.control import ControlSocket, StatusPort
from edge.core.arm import Connect, Disconnect, Write
from edge.core.bridge import Upload
from edge.core.glasses import Decode, Note, Notice, Remember, Scan, Target
from edge.core.node import Node, NodeEffect, NodeTiming, SendAudio, SendText
from edge.core.uplink import Dial, Hangup
from edge.profiles import PROFILES, recognise
from edge.profiles.base import Advert, Arm
from edge.service import ServiceManager
from edge.uplink_socket import DialRefused, UplinkSocket
from wire import trace
from wire.errors import BridgeError, ConfigError, GlassesError, GlassesFault, UplinkError

if TYPE_CHECKING:
    from edge.bluez_host import PairingAgent

logger = logging.getLogger(__name__)

EX_OK, EX_FAILED, EX_UNAVAILABLE, EX_PERMISSION, EX_CONFIG = 0, 1, 69, 77, 78

RESTART_AFTER = 5.0  # s; failure catalogue EDG-02: a crashed part is back within 5 s
REST_MAX = 1.0  # s to darken the lens at the end: two arms need 0.1
STOP_MAX = 8.0  # s for everything to end; the contract with the service manager is 10
#: An adapter may appear a moment after its service at boot, and the simulator's socket with it.
RADIO_PATIENCE = 10.0
UPLOAD_MAX = 25.0  # s; apps wait 30 for a photo
TOLD_MAX = 64  # lasting facts that were logged as warnings; a repetition of one is no news
EX_FAULTS = {GlassesFault.PERMISSION: EX_PERMISSION}


class Store:
    """The paired glasses of each wearer, in one small JSON file."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "glasses.json"

    def load(self, user: str) -> dict[str, Any] | None:
        try:
            entry = orjson.loads(self._file.read_bytes()).get(user)
        except (OSError, orjson.JSONDecodeError, AttributeError):
            return None
        if not isinstance(entry, dict) or entry.get("model") not in PROFILES:
            return None
        return entry if isinstance(entry.get("addresses"), dict) else None

    def save(self, user: str, entry: dict[str, Any] | None) -> None:
        """Replace one wearer's glasses (None: forget them). Written whole, so that a power cut leaves old or new."""
        everyone: dict[str, Any] = {}
        with contextlib.suppress(OSError, orjson.JSONDecodeError):
            loaded = orjson.loads(self._file.read_bytes())
            everyone = loaded if isinstance(loaded, dict) else {}
        if entry is None:
            everyone.pop(user, None)
        else:
            everyone[user] = entry
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = self._file.with_suffix(".new")
        draft.write_bytes(orjson.dumps(everyone, option=orjson.OPT_INDENT_2))
        draft.replace(self._file)


class Trace:
    """Inputs and effects as JSON lines, without contents; `None` writes nothing."""

    def __init__(self, path: Path | None) -> None:
        self._file: TextIO | None = None
        if path is not None:
            try:
                self._file = path.open("a", encoding="utf-8", buffering=1)
            except OSError as error:
                raise ConfigError(
                    f"trace file {path} cannot be written", error.strerror or str(error), "Set trace"
                ) from error

    def write(self, now: float, machine: str, direction: str, name: str, value: Any) -> None:
        if self._file is not None:
            self._file.write(trace.line(now, machine, direction, name, value).decode())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class Session:
    """One wearer: a Node, the radio links and the socket that it asks for."""

    def __init__(
        self,
        wearer: Wearer,
        config: EdgeConfig,
        radio: Radio,
        store: Store,
        tracer: Trace,
        model: str,
        target: Target,
    ) -> None:
        self.wearer = wearer
        self._config = config
        self._radio = radio
        self._store = store
        self._trace = tracer
        self._loop = asyncio.get_running_loop()
        self._tls = _tls(config, wearer.cloud)
        profile = PROFILES[model]
        self.node = Node(
            profile,
            target,
            NodeTiming(),
            jitter=random.random,
            link_epoch=secrets.token_hex(8),
            simulated=config.simulated,
        )
        self._gatt = profile.gatt
        self._bonds = profile.bonds
        self._decoder = SpeechDecoder(profile.audio) if profile.audio is not None else None
        self._links: dict[Arm, tuple[int, Link]] = {}
        self._connecting: dict[tuple[Arm, int], asyncio.Task[None]] = {}
        self._socket: tuple[int, UplinkSocket] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._inputs: deque[Callable[[float], Sequence[NodeEffect]]] = deque()
        self._running = False
        self._stopped = False
        self._resting = False
        self._rested = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._outages: dict[str, float] = {}
        self._told: OrderedDict[tuple[Note, str, str], None] = OrderedDict()
        self.failed: asyncio.Future[None] = self._loop.create_future()

    # ------------------------------------------------------------------------------------------------- lifetime

    def start(self) -> None:
        self._input("start", lambda now: self.node.start(now))
        self.set_clock()

    def set_clock(self) -> None:
        """Tell the node what time it is; again after the wall clock jumped."""
        offset = time.time() - self._loop.time()
        utc_offset = float(time.localtime().tm_gmtoff)
        self._input("wall_clock", lambda now: self.node.wall_clock(offset, utc_offset, now))

    def retry(self) -> None:
        """The operator or a SIGHUP says that the world has changed."""
        self._input("network_changed", lambda now: self.node.network_changed(now))

    def notify(self, app_id: str, app_name: str, title: str, text: str) -> bool:
        """Pass on a notification of this host; whether the glasses show it in a style of their own."""
        self._input("notify", lambda now: self.node.notify(app_id, app_name, title, text, now))
        return self.node.bridge.shows_notifications

    async def stop(self) -> None:
        """Let go of the glasses and the cloud. Bounded."""
        if not self._stopped and not self.failed.done():
            self._resting = True
            self._input("rest", lambda now: self.node.rest(now))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REST_MAX):
                    await self._rested.wait()
            self._input("stop", lambda now: self.node.stop(now))
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self._radio.unwatch(self._sighted)
        if self._socket is not None:
            self._socket[1].close(1001, "edge stops")
        for task in self._connecting.values():
            task.cancel()
        links = [link for _, link in self._links.values()]
        self._links.clear()
        await asyncio.gather(*(link.close() for link in links))
        if self._tasks:
            # The socket says goodbye within its own limit; whatever still runs then is cut.
            _, late = await asyncio.wait(self._tasks, timeout=3.0)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    # -------------------------------------------------------------------------------------------- inputs, effects

    def _input(self, name: str, call: Callable[[float], Sequence[NodeEffect]], detail: Any = None) -> None:
        """Feed the node and perform what it answers. An input that comes up meanwhile waits for its turn."""
        if self._stopped or self.failed.done():
            return
        now = self._loop.time()
        self._trace.write(now, self.wearer.user, "in", name, detail)
        self._inputs.append(call)
        if self._running:
            return
        self._running = True
        try:
            while self._inputs:
                for effect in self._inputs.popleft()(self._loop.time()):
                    self._trace.write(
                        self._loop.time(), self.wearer.user, "out", type(effect).__name__, effect
                    )
                    self._perform(effect)
        except Exception as error:  # one session's boundary: a bug here must not end the others
            self._inputs.clear()
            if not self.failed.done():
                self.failed.set_exception(error)
            return
        finally:
            self._running = False
        if self._resting and self.node.rested:
            self._rested.set()
        self._arm_timer()

    def _arm_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self.node.deadline
        if deadline is not None and not self._stopped:
            self._timer = self._loop.call_at(
                deadline, self._input, "deadline", lambda now: self.node.handle_deadline(now)
            )

    def _perform(self, effect: NodeEffect) -> None:
        match effect:
            case Scan(on):
                if on:
                    self._radio.watch(self._sighted, self._gatt.service)
                else:
                    self._radio.unwatch(self._sighted)
            case Connect(arm, conn_id, address):
                self._connecting[arm, conn_id] = self._spawn(
                    self._connect(arm, conn_id, address), f"connect-{arm}"
                )
            case Disconnect(arm, conn_id):
                self._disconnect(arm, conn_id)
            case Write(arm, conn_id, write_id, data, response, char):
                self._spawn(self._write(arm, conn_id, write_id, data, response, char), f"write-{arm}")
            case Decode(stream, lost, frames):
                self._decode(stream, lost, frames)
            case Remember(model, pair, addresses):
                self._remember(model, pair, {arm.value: address for arm, address in addresses.items()})
            case Upload():
                self._spawn(self._upload(effect), "upload")
            case Notice():
                self._notice(effect)
            case Dial(conn_id):
                self._spawn(self._dial(conn_id), "uplink")
            case Hangup(conn_id, code, reason):
                if self._socket is not None and self._socket[0] == conn_id:
                    self._socket[1].close(code, reason)
            case SendText(conn_id, data, delivery, key):
                if self._socket is not None and self._socket[0] == conn_id:
                    self._socket[1].send_text(data, delivery, key)
            case SendAudio(conn_id, pcm):
                if self._socket is not None and self._socket[0] == conn_id:
                    self._socket[1].send_audio(pcm)
            case _:
                assert_never(effect)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = self._loop.create_task(work, name=f"edge-{name}")
        self._tasks.add(task)
        task.add_done_callback(self._reap)
        return task

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self.failed.done():
            self.failed.set_exception(error)

    # --------------------------------------------------------------------------------------------------- the radio

    def _sighted(self, advert: Advert) -> None:
        if self.node.glasses.profile.recognise(advert) is not None:
            self._input("sighted", lambda now: self.node.sighted(advert, now), advert.name)

    async def _connect(self, arm: Arm, conn_id: int, address: str) -> None:
        try:
            link = await self._radio.connect(
                address,
                self._gatt,
                pair=self._bonds,
                on_notify=lambda char, data: self._notified(arm, conn_id, char, data),
                on_closed=lambda fault: self._lost(arm, conn_id, fault),
            )
        except GlassesError as error:
            logger.debug("%s: %s", arm, error)
            fault = error.fault
            self._input("link_failed", lambda now: self.node.link_failed(arm, conn_id, fault, now), fault)
            return
        finally:
            self._connecting.pop((arm, conn_id), None)
        self._links[arm] = (conn_id, link)
        self._input("link_up", lambda now: self.node.link_up(arm, conn_id, link.payload_max, now), arm)

    def _notified(self, arm: Arm, conn_id: int, char: str, data: bytes) -> None:
        self._input("notified", lambda now: self.node.notified(arm, conn_id, char, data, now), data)

    def _lost(self, arm: Arm, conn_id: int, fault: GlassesFault) -> None:
        held = self._links.get(arm)
        if held is not None and held[0] == conn_id:
            del self._links[arm]
            self._spawn(held[1].close(), f"close-{arm}")
        self._input("link_lost", lambda now: self.node.link_lost(arm, conn_id, fault, now), fault)

    def _disconnect(self, arm: Arm, conn_id: int) -> None:
        task = self._connecting.get((arm, conn_id))
        if task is not None:
            task.cancel()
        held = self._links.get(arm)
        if held is not None and held[0] == conn_id:
            del self._links[arm]
            self._spawn(held[1].close(), f"close-{arm}")

    async def _write(
        self, arm: Arm, conn_id: int, write_id: int, data: bytes, response: bool, char: str
    ) -> None:
        fault: GlassesFault | None = None
        held = self._links.get(arm)
        if held is None or held[0] != conn_id:
            fault = GlassesFault.LINK_LOST
        else:
            try:
                await held[1].write(data, response=response, char=char)
            except GlassesError as error:
                logger.debug("%s: %s", arm, error)
                fault = error.fault
        self._input("written", lambda now: self.node.written(arm, conn_id, write_id, fault, now), fault)

    def _decode(self, stream: int, lost: int, frames: tuple[bytes, ...]) -> None:
        if self._decoder is None:
            return
        captured = self._loop.time()
        pcm = self._decoder.decode(stream, lost, frames)
        if pcm:
            self._input("decoded", lambda now: self.node.decoded(pcm, captured, now), pcm)

    def _remember(self, model: str, pair: str, addresses: dict[str, str]) -> None:
        try:
            self._store.save(self.wearer.user, {"model": model, "pair": pair, "addresses": addresses})
        except OSError as error:
            logger.warning("the paired glasses could not be saved: %s", error.strerror or error)

    def forget(self) -> None:
        """Unpair: the next start takes whatever is in sight."""
        self._store.save(self.wearer.user, None)

    # --------------------------------------------------------------------------------------------------- the cloud

    async def _dial(self, conn_id: int) -> None:
        socket = UplinkSocket(
            on_opened=lambda: self._input("opened", lambda now: self.node.opened(conn_id, now)),
            on_text=lambda data: self._input(
                "received", lambda now: self.node.received(conn_id, data, now), data
            ),
            on_closed=lambda code, reason: self._input(
                "closed", lambda now: self.node.closed(conn_id, code, reason, now), code
            ),
        )
        self._socket = (conn_id, socket)
        status: int | None = None
        wait: float | None = None
        try:
            await socket.run(self.wearer.cloud, self.wearer.read_token(), self._tls)
            return
        except DialRefused as error:
            status, wait, reason = error.status, error.retry_after, str(error)
        except (UplinkError, ConfigError) as error:
            reason = str(error)
        finally:
            if self._socket is not None and self._socket[1] is socket:
                self._socket = None
        self._input("failed", lambda now: self.node.failed(conn_id, reason, status, wait, now), reason)

    async def _upload(self, upload: Upload) -> None:
        """Hand a photo to the app that asked for it: multipart, as phones do (wire spec 4.6)."""
        headers = {"Authorization": f"Bearer {upload.token}"} if upload.token else {}
        ok, reason = False, ""
        try:
            async with httpx.AsyncClient(timeout=UPLOAD_MAX) as client:
                response = await client.post(
                    upload.url,
                    headers=headers,
                    data={"requestId": upload.request_id},
                    files={"photo": ("photo.jpg", upload.data, upload.mime)},
                )
            ok, reason = response.is_success, f"the app answered HTTP {response.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = f"the app could not be reached ({type(error).__name__})"
        self._input("uploaded", lambda now: self.node.uploaded(upload.request_id, ok, reason, now), ok)

    # ------------------------------------------------------------------------------------------------------- log

    def _notice(self, notice: Notice) -> None:
        """First failure of an outage loud, repeats quiet, recovery with its duration."""
        now = self._loop.time()
        what = f"{self.wearer.user or 'wearer'}: {notice.about}"
        if notice.note in (Note.ARM_READY, Note.UPLINK_READY):
            since = self._outages.pop(notice.about, None)
            lasted = f" after {now - since:.1f} s" if since is not None else ""
            logger.info("%s ready%s", what, lasted)
            return
        fact = (notice.note, notice.about, notice.detail)
        repeat = notice.about in self._outages or fact in self._told
        if notice.note in (Note.ARM_LOST, Note.UPLINK_LOST, Note.UPLINK_REFUSED, Note.UPLINK_REPLACED):
            self._outages.setdefault(notice.about, now)
        else:
            # Captions on glasses without a lens, or with a glyph that it lacks, come three times a second.
            self._told[fact] = None
            while len(self._told) > TOLD_MAX:
                self._told.popitem(last=False)
        level = logging.DEBUG if repeat else logging.WARNING
        logger.log(level, "%s: %s %s", what, notice.note.value, notice.detail)

    def status(self) -> dict[str, Any]:
        return {"user": self.wearer.user, **self.node.status(self._loop.time())}


class Daemon:
    """Radio, sessions and windows of one process."""

    def __init__(self, config: EdgeConfig) -> None:
        self._config = config
        for wearer in config.everyone:
            _tls(config, wearer.cloud)  # a bad certificate file is told now, not at the first attempt
        self._radio: Radio = BleakRadio(config.radio)
        if config.btsnoop is not None:
            self._radio = CapturingRadio(self._radio, config.btsnoop)
        self._store = Store(config.data_dir)
        self._trace = Trace(config.trace)
        self._sessions: dict[int, Session] = {}
        self._started = asyncio.get_running_loop().time()
        self._stopping = asyncio.Event()
        self._service = ServiceManager()
        self._agent: PairingAgent | None = None
        if config.radio == "default" and sys.platform == "linux":
            from edge.bluez_host import PairingAgent  # D-Bus: Linux only

            self._agent = PairingAgent()
        self.restarts = 0
        self._control = ControlSocket(
            config.socket_path,
            self.status,
            {
                "retry": self._retry,
                "forget": self._forget,
                "notify": self._notify,
                "stop": self._stop_command,
            },
        )
        self._port = StatusPort(config.status_port, self.status) if config.status_port is not None else None

    async def run(self, ready: Callable[[dict[str, Any]], None]) -> int:
        """Until a signal or `stop`. Raises ConfigError and GlassesError from the start-up only."""
        await self._control.start()  # first: it refuses a second daemon, which would fight for the radio
        supervisors: list[asyncio.Task[None]] = []
        try:
            if self._agent is not None:
                self._agent.start()
            await self._wait_for_radio()
            url = await self._port.start() if self._port is not None else None
            supervisors = [
                asyncio.create_task(self._supervise(index, wearer), name=f"edge-wearer-{index}")
                for index, wearer in enumerate(self._config.everyone)
            ]
            ready({"event": "ready", "role": "edge", "control": str(self._config.socket_path), "status": url})
            self._service.ready()
            with _signals(self._stopping, self._hangup):
                await self._stopping.wait()
        finally:
            await self._shut_down(supervisors)
        return EX_OK

    async def _wait_for_radio(self) -> None:
        deadline = asyncio.get_running_loop().time() + RADIO_PATIENCE
        told = False
        while True:
            try:
                await self._radio.start()
                return
            except GlassesError as error:
                gone = asyncio.get_running_loop().time() >= deadline
                if error.fault is GlassesFault.PERMISSION or gone:
                    raise
                if not told:
                    told = True
                    logger.warning(
                        "Bluetooth cannot be used yet (%s); trying for %.0f s", error, RADIO_PATIENCE
                    )
                await asyncio.sleep(0.5)

    async def _supervise(self, index: int, wearer: Wearer) -> None:
        """Keep one wearer's session alive; a crash is logged with its kind and survived."""
        while True:
            model, target = await self._choose(wearer)
            session = Session(wearer, self._config, self._radio, self._store, self._trace, model, target)
            self._sessions[index] = session
            session.start()
            try:
                await asyncio.shield(session.failed)  # else our own cancellation would end it
            except Exception as error:
                self.restarts += 1
                logger.exception(
                    "%s: session failed (%s), starting again", wearer.user or "wearer", type(error).__name__
                )
            finally:
                await session.stop()
            await asyncio.sleep(RESTART_AFTER)

    async def _choose(self, wearer: Wearer) -> tuple[str, Target]:
        """Which glasses: as configured, else as paired, else of whatever model comes in sight first."""
        choice = parse_glasses(wearer.glasses)
        saved = self._store.load(wearer.user)
        if choice.addresses:
            model = choice.model or (saved or {}).get("model") or await self._model_in_sight(choice.addresses)
            return model, Target(None, arms_of(model, choice.addresses))
        matches = saved is not None and choice.model in (None, saved["model"])
        if saved is not None and matches and choice.pair in (None, saved.get("pair")):
            addresses = {Arm(arm): str(address) for arm, address in saved["addresses"].items()}
            return saved["model"], Target(saved.get("pair"), addresses)
        return choice.model or await self._model_in_sight(()), Target(choice.pair)

    async def _model_in_sight(self, addresses: tuple[str, ...]) -> str:
        """Scan until a device that some driver knows advertises; with `addresses`, one of those."""
        found: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def seen(advert: Advert) -> None:
            known = recognise(advert)
            if known is not None and not found.done() and (not addresses or advert.address in addresses):
                found.set_result(known[0].key)

        logger.info("no glasses are configured or paired: looking for any model")
        self._radio.watch(seen)
        try:
            return await found
        finally:
            self._radio.unwatch(seen)

    async def _shut_down(self, supervisors: list[asyncio.Task[None]]) -> None:
        await self._service.stopping()
        for task in supervisors:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_MAX):
                await asyncio.gather(*supervisors, return_exceptions=True)
                await self._radio.stop()
                if self._agent is not None:
                    await self._agent.stop()
        if self._port is not None:
            await self._port.stop()
        await self._control.stop()
        self._trace.close()

    def _hangup(self) -> None:
        """SIGHUP: token files and endpoints are read at each attempt; make the next attempt now."""
        for session in self._sessions.values():
            session.set_clock()
            session.retry()

    def status(self) -> dict[str, Any]:
        """What `glassbridge edge status` and the status port show."""
        fault = self._radio.fault
        return {
            "uptime_s": round(asyncio.get_running_loop().time() - self._started, 1),
            "pid": os.getpid(),
            "simulated": self._config.simulated,
            "radio": {"spec": self._config.radio, "fault": fault.value if fault else None},
            "restarts": self.restarts,
            "wearers": [
                self._sessions[index].status() if index in self._sessions else self._searching(wearer)
                for index, wearer in enumerate(self._config.everyone)
            ],
        }

    def _searching(self, wearer: Wearer) -> dict[str, Any]:
        """A wearer whose glasses are not known yet, in the shape of all the others."""
        now = asyncio.get_running_loop().time()
        idle = Node(
            next(iter(PROFILES.values())), Target(), NodeTiming(), jitter=random.random, link_epoch="idle"
        )
        status = idle.status(now)
        status["glasses"] |= {"model": "looking for any model", "arms": {}}
        status["cloud"]["for_s"] = round(now - self._started, 1)
        return {"user": wearer.user, **status}

    def _retry(self, _: dict[str, Any]) -> dict[str, Any]:
        self._hangup()
        return {}

    def _forget(self, request: dict[str, Any]) -> dict[str, Any]:
        session = self._session_of(request)
        if session is None:
            return {"ok": False, "error": "no such wearer"}
        session.forget()
        return {"forgotten": True}

    def _notify(self, request: dict[str, Any]) -> dict[str, Any]:
        session = self._session_of(request)
        if session is None:
            return {"ok": False, "error": "no such wearer"}
        words = {key: request.get(key, "") for key in ("app", "app_id", "title", "text")}
        if not all(isinstance(value, str) for value in words.values()) or not words["title"]:
            return {"ok": False, "error": "a notification has a title, and app, app_id and text in words"}
        app = words["app"] or "Glassbridge"
        own = session.notify(words["app_id"] or "org.glassbridge", app, words["title"], words["text"])
        return {"own_style": own, "model": session.node.glasses.profile.model}

    def _session_of(self, request: dict[str, Any]) -> Session | None:
        """The wearer that a request names; the only one needs no name."""
        user = request.get("user", "")
        sessions = list(self._sessions.values())
        if not user and len(sessions) == 1:
            return sessions[0]
        return next((session for session in sessions if session.wearer.user == user), None)

    def _stop_command(self, _: dict[str, Any]) -> dict[str, Any]:
        self._stopping.set()
        return {}


@contextlib.contextmanager
def _signals(stopping: asyncio.Event, hangup: Callable[[], None]) -> Any:
    """SIGTERM and SIGINT end the daemon, SIGHUP makes it look again. Windows has none of these handlers."""
    loop = asyncio.get_running_loop()
    handled: list[signal.Signals] = []
    wanted: list[tuple[str, Callable[[], None]]] = [
        ("SIGTERM", stopping.set),
        ("SIGINT", stopping.set),
        ("SIGHUP", hangup),
    ]
    for name, act in wanted:
        number = getattr(signal, name, None)
        if number is None:
            continue
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, act)
            handled.append(number)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


def _tls(config: EdgeConfig, cloud: str) -> ssl.SSLContext | None:
    if not cloud.startswith("wss:"):
        return None
    try:
        return ssl.create_default_context(cafile=str(config.ca_file) if config.ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"certificate file {config.ca_file} cannot be used", str(error), "Give a PEM file with ca_file"
        ) from error


def _complain(what: str, why: str, fix: str) -> None:
    print(f"error: {what}\n  why: {why}\n  fix: {fix}", file=sys.stderr)


def run(config: EdgeConfig, *, json_ready: bool) -> int:
    """Run the edge until SIGTERM or SIGINT; returns the exit code of the product page.

    With `json_ready`, one line `{"event":"ready",...}` goes to stdout when the daemon serves.
    """
    _set_up_log(config.log_level)

    def ready(event: dict[str, Any]) -> None:
        if json_ready:
            print(orjson.dumps(event).decode(), flush=True)
        else:
            logger.info("edge runs: cloud %s, control socket %s", config.cloud, event["control"])

    async def main() -> int:
        return await Daemon(config).run(ready)

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(main())
    except ConfigError as error:
        _complain(error.what, error.why, error.fix)
        return EX_CONFIG
    except GlassesError as error:
        from edge.doctor import FAULT_WORDS  # only one that fails needs the doctor

        _complain("Bluetooth cannot be used", FAULT_WORDS[error.fault], "glassbridge doctor")
        return EX_FAULTS.get(error.fault, EX_UNAVAILABLE)
    except BridgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return EX_FAILED
    except KeyboardInterrupt:
        return 130


class _JsonLines(logging.Formatter):
    """One JSON object per line, for journals and collectors."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "t": round(record.created, 3),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


def _set_up_log(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    human = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
    handler.setFormatter(human if sys.stderr.isatty() else _JsonLines())
    logging.basicConfig(level=level, handlers=[handler])
    for name in (
        "websockets",
        "bleak",
        "bumble",
        "httpx",
        "httpcore",
        "PIL",
        "bleak_retry_connector",
        "firmware_sim",
    ):
        # At DEBUG these write headers (with the token) and payloads (with what the wearer reads).
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("bumble").setLevel(
        logging.CRITICAL
    )  # what it calls errors reach us as exceptions as well


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one; it is a quarter of the CPU on a Pi, and not on Windows."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
