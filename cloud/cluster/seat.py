"""One session's place at this node: performs what its ownership decides, and holds the glasses that wait for it.

Rules: no decision of its own; one input, then all effects, without an `await` in between. What takes time is a task of
the seat whose result comes back as an input. A seat ends with its session or when another node has taken it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, assert_never

import orjson

from cloud.cluster.fabric import Conflict, Fenced, NoOne, Reply, Unavailable, Unlisten
from cloud.cluster.names import epoch_address, node_address, owner_key, session_address, state_key
from cloud.core import ownership as own
from cloud.core.app_lifecycle import AppState
from cloud.core.ownership import OwnerRecord, Ownership
from cloud.core.pipe import attachment_of
from wire.codec import load_object
from wire.errors import CloseCode, ProtocolError
from wire.placement import session_key

if TYPE_CHECKING:
    from cloud.auth import Identity
    from cloud.cluster.cluster import Cluster
    from cloud.cluster.remote_app import RemoteApp
    from cloud.connection import Connection
    from cloud.glasses_socket import GlassesSocket
    from cloud.session_entry import SessionEntry

log = logging.getLogger(__name__)

#: The engine's own patience is below this; a get or put that outlasts it counts as unavailable.
ENGINE_PATIENCE: Final = 2.0
#: A state that grows beyond this is saved without the logs' neighbours, that is: not at all; it would fill the engine.
STATE_BYTES_MAX: Final = 1 << 20
#: App edges attach within milliseconds of the announcement, or a retry or two later; beyond this the glasses are not kept
#: waiting, seconds.
EXPECTED: Final = 1.0
#: A socket this young that is told of a newer owner may itself be the newest: it is asked to come back, not sent away.
YOUNG: Final = 2.0


class Seat:
    """See the module."""

    def __init__(self, cluster: Cluster, user_id: str) -> None:
        self.cluster = cluster
        self.user_id = user_id
        self.sid = session_key(user_id)
        self.machine = Ownership(cluster.node)
        self.entry: SessionEntry | None = None
        self.remotes: dict[int, RemoteApp] = {}  # by attachment
        self.moving = False  # told to go elsewhere
        self._loop = asyncio.get_running_loop()
        self._waiting: tuple[Connection, Identity, GlassesSocket] | None = None
        self._unlisten: list[Unlisten] = []
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._questions: dict[str, Reply] = {}
        self._asked = 0
        self._expects_until = float("-inf")
        self._ups: dict[
            str, int
        ] = {}  # socket id -> last number of the app's frames that a former owner has handled
        self._closed = False

    # ================================================================================================ inputs

    def claim(self, connection: Connection, identity: Identity, socket: GlassesSocket) -> None:
        """A glasses socket is here and waits until this node owns the session; the newest one counts."""
        if self._waiting is not None:
            self._waiting[0].close(CloseCode.REPLACED, "replaced")
        self._waiting = (connection, identity, socket)
        self.feed(self.machine.claim, round(time.time() * 1000))

    def forsaken(self, connection: Connection) -> None:
        """A waiting glasses socket is gone."""
        if self._waiting is not None and self._waiting[0] is connection:
            self._waiting = None

    @property
    def expects(self) -> bool:
        """Whether an app of the former owner is about to attach here: until then only the glasses could repeat what it
        has not been given, should this node die as well."""
        return (
            self.entry is not None
            and self._loop.time() < self._expects_until
            and AppState.GRACE in self.entry.session.lifecycles()
        )

    def expect(self) -> None:
        """The session goes on here: its apps are on their way."""
        assert self.entry is not None
        self._expects_until = self._loop.time() + EXPECTED
        self.cluster.hub.feed(self.entry, self.entry.session.acknowledge, True)
        self._loop.call_later(EXPECTED, self._expected)

    def _expected(self) -> None:
        if not self._closed:
            self.settle()

    def settle(self) -> None:
        """Acknowledge to the glasses what every node that needs it has; nothing while one of them owes its word."""
        if (
            self.entry is not None
            and not self.expects
            and not any(remote.owes for remote in self.remotes.values())
        ):
            self.cluster.hub.feed(self.entry, self.entry.session.acknowledge, bool(self.remotes))

    def dirty(self) -> None:
        """Something worth keeping has changed."""
        if not self.machine.is_dirty:
            self.machine.dirty(self._loop.time())
            self._arm()

    def feed(self, method: Callable[..., list[own.Effect]], *args: Any) -> None:
        """One input of the machine, and all its effects."""
        if self._closed:
            return
        try:
            self._perform(method(*args, self._loop.time()))
        except Exception:
            log.exception("the seat of a session failed")
            self.cluster.failed("seat")
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.machine.deadline
        if due is not None and not self._closed:
            self._timer = self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.feed(self.machine.handle_deadline)

    # ================================================================================================ effects

    def _perform(self, effects: list[own.Effect]) -> None:
        for effect in effects:
            match effect:
                case own.ReadOwner(attempt):
                    self._spawn(self._read_owner(attempt))
                case own.WriteOwner():
                    self._spawn(self._write_owner(effect))
                case own.AskHandoff():
                    self._spawn(self._ask_handoff(effect))
                case own.ReadState(attempt):
                    self._spawn(self._read_state(attempt))
                case own.Loaded(state, source):
                    self._loaded(state, source)
                case own.Listen():
                    self._spawn(self._listen())
                case own.Announce():
                    self.cluster.announce(self)
                case own.SaveState():
                    self._save(effect)
                case own.GiveState(to):
                    self._give(to)
                case own.RefuseHandoff(to, epoch):
                    reply = self._questions.pop(to, None)
                    if reply is not None:
                        reply(orjson.dumps({"v": 1, "ok": False, "epoch": epoch, "node": self.cluster.node}))
                case own.Stop(reason, handed_over):
                    self._stop(reason, handed_over)
                case own.Forget(rev):
                    self.cluster.spawn(self._forget(rev))
                case _:
                    assert_never(effect)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.cluster.spawn(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read_owner(self, attempt: int) -> None:
        try:
            async with asyncio.timeout(ENGINE_PATIENCE):
                found = await self.cluster.fabric.get(owner_key(self.sid))
        except (Unavailable, TimeoutError):
            self.feed(self.machine.unavailable, attempt)
            return
        self.feed(self.machine.owner_read, attempt, found and found.value, found.rev if found else 0)

    async def _write_owner(self, write: own.WriteOwner) -> None:
        try:
            async with asyncio.timeout(ENGINE_PATIENCE):
                rev = await self.cluster.fabric.put(owner_key(self.sid), write.value, rev=write.rev)
        except Conflict:
            self.feed(self.machine.conflict, write.attempt)
        except (Unavailable, TimeoutError):
            self.feed(self.machine.unavailable, write.attempt)
        else:
            self.feed(self.machine.owner_written, write.attempt, rev)

    async def _ask_handoff(self, ask: own.AskHandoff) -> None:
        request = {
            "v": 1,
            "op": "handoff",
            "sid": self.sid,
            "epoch": ask.epoch,
            "node": self.cluster.node,
        }
        address = session_address(self.sid) if ask.node is None else node_address(ask.node)
        state: bytes | None = None
        try:
            answer = await self.cluster.fabric.ask(
                address, orjson.dumps(request), self.machine.timing.handoff
            )
            found = load_object(answer, bytes_max=len(answer))
            if found.get("ok"):
                state = answer
            elif isinstance(found.get("epoch"), int) and isinstance(found.get("node"), str):
                self.feed(self.machine.heard, OwnerRecord(found["node"], found["epoch"]))
        except (NoOne, Unavailable, TimeoutError, ProtocolError):
            pass
        self.feed(self.machine.handoff_answered, ask.attempt, state)

    async def _read_state(self, attempt: int) -> None:
        value: bytes | None = None
        try:
            async with asyncio.timeout(ENGINE_PATIENCE):
                found = await self.cluster.fabric.get(state_key(self.sid))
            value = found and found.value
        except (Unavailable, TimeoutError):
            pass
        self.feed(self.machine.state_read, attempt, value)

    def _loaded(self, state: bytes | None, source: own.Source) -> None:
        """The session begins here: with what it was, and then with the glasses that have been waiting."""
        session: dict[str, Any] | None = None
        if state is not None:
            try:
                found = load_object(state, bytes_max=len(state))
                session = found.get("session")
                ups = found.get("ups", {})
                self._ups = {str(k): int(v) for k, v in ups.items()} if isinstance(ups, dict) else {}
            except (ProtocolError, TypeError, ValueError):
                log.warning("the state of a session cannot be read; it begins anew")
        waiting, self._waiting = self._waiting, None
        self.cluster.counted("takeover", source)
        self.cluster.hub.seat_taken(self, session, waiting)

    async def _listen(self) -> None:
        for address, handler in (
            (session_address(self.sid), self._asked_for),
            (epoch_address(self.sid), self._announced),
        ):
            self._unlisten.append(await self.cluster.fabric.listen(address, handler))
        if self._closed:
            self._hush()
            return
        self.feed(self.machine.listening)

    def _hush(self) -> None:
        for undo in self._unlisten:
            undo()
        self._unlisten.clear()

    def envelope(self, *, complete: bool) -> bytes:
        """The state as it travels and as it is kept."""
        assert self.entry is not None
        now = self._loop.time()
        value: dict[str, Any] = {
            "v": 1,
            "ok": True,
            "epoch": self.machine.epoch,
            "node": self.cluster.node,
        }
        if complete:
            self.entry.session.acknowledge(
                False, now
            )  # what was handled goes along; the glasses need not repeat it
            value["session"] = self.entry.session.export(now, complete=True)
            value["ups"] = {remote.socket_id: remote.received for remote in self.remotes.values()}
        else:
            value["session"] = self.entry.session.export(now, complete=False)
        return orjson.dumps(value)

    def _save(self, save: own.SaveState) -> None:
        value = self.envelope(complete=False)
        if len(value) > STATE_BYTES_MAX:
            log.warning("the state of a session has %d bytes and is not saved", len(value))
            self.feed(self.machine.saved, save.attempt)
            return
        self._spawn(self._write_state(save, value))

    async def _write_state(self, save: own.SaveState, value: bytes) -> None:
        try:
            async with asyncio.timeout(ENGINE_PATIENCE):
                await self.cluster.fabric.put(
                    state_key(self.sid), value, fence=(owner_key(self.sid), save.rev)
                )
        except Fenced:
            self.feed(self.machine.fenced, save.attempt)
        except (Unavailable, TimeoutError):
            self.feed(self.machine.unavailable, save.attempt)
        else:
            self.feed(self.machine.saved, save.attempt)

    async def save_now(self) -> None:
        """The last save before this node goes."""
        save = self.machine.final_save()
        if save is not None and self.entry is not None:
            await self._write_state(save, self.envelope(complete=False))

    def _give(self, to: str) -> None:
        reply = self._questions.pop(to, None)
        if reply is not None and self.entry is not None:
            reply(self.envelope(complete=True))

    def _stop(self, reason: str, handed_over: bool) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting[0].close(CloseCode.SERVICE_RESTART, "another connection is newer")
        entry = self.entry
        code = CloseCode.SERVICE_RESTART
        if entry is not None and handed_over and not self.moving:
            connection = self.cluster.hub.connection(entry.session.glasses_connection)
            if connection is not None and self._loop.time() - connection.opened_at > YOUNG:
                code = CloseCode.REPLACED
        self.cluster.counted("superseded", "handoff" if handed_over else "heard")
        self.close()
        if entry is not None:
            self.cluster.hub.seat_lost(entry, int(code), reason)

    async def _forget(self, rev: int) -> None:
        try:
            async with asyncio.timeout(ENGINE_PATIENCE):
                await self.cluster.fabric.put(state_key(self.sid), None, fence=(owner_key(self.sid), rev))
                await self.cluster.fabric.put(owner_key(self.sid), None, rev=rev)
        except (Conflict, Fenced):
            return  # somebody has claimed it meanwhile
        except (Unavailable, TimeoutError):
            log.debug("the records of an ended session stay until they expire")

    # ================================================================================================ being asked

    def _announced(self, data: bytes, reply: Reply | None) -> None:
        try:
            found = load_object(data)
            record = OwnerRecord(str(found["node"]), int(found["epoch"]))
        except (ProtocolError, KeyError, TypeError, ValueError):
            return
        self.feed(self.machine.heard, record)

    def handoff_asked(self, request: dict[str, Any], reply: Reply) -> None:
        """Another node has the newest glasses socket."""
        try:
            record = OwnerRecord(str(request["node"]), int(request["epoch"]))
        except (KeyError, TypeError, ValueError):
            return
        self._asked += 1
        to = str(self._asked)
        self._questions[to] = reply
        self.feed(self.machine.handoff_asked, to, record)

    def _asked_for(self, data: bytes, reply: Reply | None) -> None:
        """Something for the session: frames of an app elsewhere, or a question."""
        if not data.startswith(b"{"):
            try:
                remote = self.remotes.get(attachment_of(data))
                if remote is not None:
                    remote.take(data)
            except ValueError:
                self.cluster.counted("malformed", "pipe")
            return
        try:
            request = load_object(data, bytes_max=len(data))
        except ProtocolError:
            return
        known = request.get("epoch")
        if isinstance(known, int) and known > self.machine.epoch and request.get("op") == "attach":
            # The asker knows of a newer owner than we are: is that so?
            self.feed(self.machine.verify)
        if reply is not None:
            self.cluster.asked(self, request, data, reply)

    def unheard(self, package: str) -> list[bytes]:
        """The app is here again, at another node than before: sound that went to the node that it had."""
        return [
            pcm for remote in self.remotes.values() if remote.package == package for pcm in remote.unheard()
        ]

    def frames_handled(self, socket_id: str) -> int | None:
        """The last frame of this app socket that a former owner has handled, if he told."""
        return self._ups.pop(socket_id, None)

    # ================================================================================================ the end

    def end(self) -> None:
        """The session is over here."""
        self.feed(self.machine.end)
        self.close()

    def close(self) -> None:
        """Let go; nothing happens afterwards."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._hush()
        for reply in self._questions.values():
            reply(orjson.dumps({"v": 1, "ok": False}))
        self._questions.clear()
        for remote in list(self.remotes.values()):
            remote.drop()
            self.cluster.gone(remote)
        self.remotes.clear()
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        self.cluster.vacated(self)
