"""This node's part in a cluster: the sessions that it owns, the app sockets that it holds for others, what it is asked.

Rules: without a fabric there is no `Cluster` and nothing costs anything. Sessions are known by their user here and by a
hash of him on the bus. Whatever a node is told is checked; what cannot be read is counted and dropped.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Coroutine
from typing import TYPE_CHECKING, Any, Final

import orjson

from cloud.cluster.edge_socket import EdgeSocket
from cloud.cluster.fabric import Fabric, NoOne, Reply, Unavailable, Unlisten
from cloud.cluster.names import EVERYBODY, epoch_address, new_node, node_address, owner_key
from cloud.cluster.remote_app import RemoteApp
from cloud.cluster.seat import Seat
from cloud.core import effects as fx
from cloud.core.admission import AdmissionState
from cloud.core.ownership import OwnershipState
from wire.codec import load_object
from wire.errors import ProtocolError
from wire.placement import session_key

if TYPE_CHECKING:
    from cloud.app_socket import AppSocket
    from cloud.auth import Identity
    from cloud.connection import Connection
    from cloud.glasses_socket import GlassesSocket
    from cloud.hub import Hub

log = logging.getLogger(__name__)

#: Sessions sent elsewhere per second while a node drains, and how far each may stray from its turn: the others take
#: 350-470 takeovers a second on one core, and keep serving meanwhile.
MOVES_PER_SECOND: Final = 150.0
MOVE_JITTER: Final = 0.5
#: After the last session was told to go, stragglers have this long.
STRAGGLERS: Final = 5.0
#: Every node says this often that it lives; one that was silent for so long has left without a word. Seconds. Only who
#: may talk to whom depends on it; ownership does not.
BEAT: Final = 5.0
GONE_AFTER: Final = 16.0
#: App sockets are sent to another node this long after their session has gone, so that they find it.
APPS_AFTER: Final = 0.5
#: A node that refuses looks whose session runs, for so many at once (a look takes 1-5 ms) and no longer than this, seconds.
LOOKING_MAX: Final = 64
LOOK_PATIENCE: Final = 0.5


#: A node that does not answer an operator's question within this time is named as silent, seconds. It takes milliseconds.
VIEW_PATIENCE: Final = 1.0


class Cluster:
    """See the module. `name` says in logs and records which node it is; an incarnation is added."""

    def __init__(self, fabric: Fabric, hub: Hub, *, name: str) -> None:
        self.fabric = fabric
        self.hub = hub
        self.node = new_node(name)
        self.seats: dict[str, Seat] = {}  # by user
        self.edges: dict[str, EdgeSocket] = {}  # by socket id
        #: All nodes end together: a drain has nowhere to send sessions, and only saves them.
        self.everybody_ends = False
        self.remote_deliveries = 0
        self.frames_lost = 0
        #: Answers a REST request that another node hands on; set by `cloud.cluster.rest`.
        self.answer_rest: Callable[[dict[str, Any], Reply], None] | None = None
        #: This node's part of what an operator asks of all (`cloud.http.overview`).
        self.answer_view: Callable[[dict[str, Any]], dict[str, Any]] | None = None
        self.counts: dict[tuple[str, str], int] = {}
        self._by_connection: dict[int, RemoteApp] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unlisten: list[Unlisten] = []
        self._heard: dict[str, float] = {}  # other nodes -> when they last said anything to all
        self._timer: asyncio.TimerHandle | None = None
        self._left = asyncio.Event()  # a seat has been vacated
        self._looking = 0
        self._closed = False

    async def start(self) -> None:
        """Be reachable. Never fails for the engine's sake: it may come later."""
        self._unlisten.append(await self.fabric.listen(node_address(self.node), self._asked))
        self._unlisten.append(await self.fabric.listen(EVERYBODY, self._told))
        self.fabric.on_gap(self._gap)
        self.tell("who")
        self._beat()

    def _beat(self) -> None:
        """Say that this node lives, and look who has not said so for long."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(BEAT, self._beat)
        self.tell("here")
        for node in [n for n, at in self._heard.items() if loop.time() - at > GONE_AFTER]:
            del self._heard[node]
            self.hub.node_gone(node)

    # ================================================================================================ for the hub

    def claim(self, user_id: str, connection: Connection, identity: Identity, socket: GlassesSocket) -> None:
        """A glasses socket of a user without a session here: own him, then let the socket in."""
        seat = self.seats.get(user_id)
        if seat is None:
            seat = self.seats[user_id] = Seat(self, user_id)
        seat.claim(connection, identity, socket)

    def returned(self, seat: Seat) -> None:
        """Another glasses socket of a session that is served here."""
        seat.moving = False
        seat.feed(seat.machine.verify)

    def forsaken(self, user_id: str, connection: Connection) -> None:
        """A glasses socket that waited for its session is gone."""
        seat = self.seats.get(user_id)
        if seat is not None:
            seat.forsaken(connection)

    def adopt(self, socket: AppSocket, connection: Connection, user_id: str, package: str) -> EdgeSocket:
        """An app's socket whose session is, or will be, elsewhere."""
        return EdgeSocket(self, socket, connection, user_id, package)

    def keep(
        self,
        socket: AppSocket,
        connection: Connection,
        user_id: str,
        package: str,
        seen: dict[str, tuple[int, int]],
        said: list[bytes],
    ) -> EdgeSocket:
        """An app's socket whose session has just left this node: `seen` is what it has been given, `said` what its app
        has last asked for."""
        return EdgeSocket(self, socket, connection, user_id, package, acknowledged=True, seen=seen, said=said)

    def serves(self, user_id: str) -> bool:
        """Whether this node owns the user's session."""
        seat = self.seats.get(user_id)
        return seat is not None and seat.machine.is_serving

    def must_look(self, user_id: str) -> bool:
        """Whether it depends on the records if this user is let in: this node refuses new sessions, not running ones."""
        return self.hub.gate.state is AdmissionState.REFUSING and user_id not in self.seats

    async def runs(self, user_id: str) -> bool:
        """Whether the records name an owner of this user's session, alive or dead. False where nobody can tell: he asks
        again within seconds, and by then the engine may answer."""
        if self._looking >= LOOKING_MAX:
            return False
        self._looking += 1
        try:
            async with asyncio.timeout(LOOK_PATIENCE):
                return await self.fabric.get(owner_key(session_key(user_id))) is not None
        except (Unavailable, TimeoutError):
            return False
        finally:
            self._looking -= 1

    def send_to_app(self, connection_id: int, effect: fx.SendToApps) -> None:
        """A frame for a connection that is none of this node's sockets."""
        remote = self._by_connection.get(connection_id)
        if remote is not None:
            remote.send(effect)

    def send_audio(self, connection_id: int, pcm: bytes) -> None:
        remote = self._by_connection.get(connection_id)
        if remote is not None:
            remote.send_audio(pcm)

    def ping_app(self, connection_id: int, payload: bytes) -> None:
        remote = self._by_connection.get(connection_id)
        if remote is not None:
            remote.ping(payload)

    def close_app(self, connection_id: int, code: int, reason: str) -> None:
        remote = self._by_connection.get(connection_id)
        if remote is not None:
            remote.close(code, reason)

    # ================================================================================================ for seats

    def announce(self, seat: Seat) -> None:
        """App edges and older owners of this session are told who owns it."""
        body = orjson.dumps({"v": 1, "epoch": seat.machine.epoch, "node": self.node})
        self.fabric.send(epoch_address(seat.sid), body, fanout=True)

    def asked(self, seat: Seat, request: dict[str, Any], data: bytes, reply: Reply) -> None:
        """A question to the owner of a session."""
        match request.get("op"):
            case "attach":
                self._attach(seat, request, reply)
            case "handoff":
                seat.handoff_asked(request, reply)
            case "rest" | "piece" if self.answer_rest is not None:
                self.answer_rest(request, reply)
            case _:
                self.counted("unknown", "question")
                reply(orjson.dumps({"v": 1, "ok": False, "epoch": seat.machine.epoch}))

    def _attach(self, seat: Seat, request: dict[str, Any], reply: Reply) -> None:
        """A node holds a socket of an app that has proven who it is."""
        answer: dict[str, Any] = {"v": 1, "ok": False, "epoch": seat.machine.epoch, "node": self.node}
        entry = seat.entry
        try:
            attachment, since = int(request["attachment"]), int(request["since"])
            socket_id, package = str(request["socket"]), str(request["package"])
            base, known = int(request.get("base", 0)), int(request.get("epoch", 0))
        except (KeyError, TypeError, ValueError):
            reply(orjson.dumps(answer))
            return
        if entry is None or not seat.machine.is_serving or known > seat.machine.epoch:
            reply(orjson.dumps({**answer, "again": True}))
            return
        remote = seat.remotes.get(attachment)
        if remote is not None:
            reply(orjson.dumps({**answer, "ok": True, "up": remote.received}))
            remote.resend(since)
            return
        if since:
            reply(orjson.dumps({**answer, "unknown": True}))
            return
        sound = seat.unheard(package)
        for former in [r for r in seat.remotes.values() if r.socket_id == socket_id]:
            self.detach(seat, former)
        handled = seat.frames_handled(socket_id)
        received = base if handled is None else max(base, handled)
        remote = RemoteApp(seat, socket_id, package, attachment, received)
        seat.remotes[attachment] = remote
        self._by_connection[remote.connection_id] = remote
        restate = bool(request.get("acknowledged")) and seat.machine.source != "handoff"
        reply(orjson.dumps({**answer, "ok": True, "up": received, "restate": restate}))
        seat.settle()  # from now on the glasses wait for its node's word
        self.hub.feed(entry, entry.session.app_identified, package, remote.connection_id)
        for pcm in sound:
            remote.send_audio(pcm)

    def detach(self, seat: Seat, remote: RemoteApp) -> None:
        """This app is no longer there, or there under another name."""
        remote.drop()
        seat.remotes.pop(remote.attachment, None)
        self._by_connection.pop(remote.connection_id, None)

    def vacated(self, seat: Seat) -> None:
        """This node no longer has to do with the session."""
        if self.seats.get(seat.user_id) is seat:
            del self.seats[seat.user_id]
        self._left.set()

    def gone(self, remote: RemoteApp) -> None:
        self._by_connection.pop(remote.connection_id, None)

    # ================================================================================================ the node

    def _asked(self, data: bytes, reply: Reply | None) -> None:
        """A question to this very node."""
        if reply is None:
            return
        try:
            request = load_object(data)
        except ProtocolError:
            self.counted("malformed", "question")
            return
        sid = request.get("sid")
        if request.get("op") == "view" and self.answer_view is not None:
            try:
                view = self.answer_view(request["question"])
            except (KeyError, TypeError, ValueError):
                # Of a newer node; the asker names us as one that does not answer.
                self.counted("malformed", "question")
                view = None
            reply(orjson.dumps({"v": 1, "ok": view is not None, "view": view}))
            return
        seat = next((s for s in self.seats.values() if s.sid == sid), None)
        if request.get("op") == "handoff" and seat is not None:
            seat.handoff_asked(request, reply)
        else:
            reply(orjson.dumps({"v": 1, "ok": False}))

    def _told(self, data: bytes, reply: Reply | None) -> None:
        """News for every node."""
        try:
            news = load_object(data, bytes_max=len(data))
        except ProtocolError:
            self.counted("malformed", "news")
            return
        node = news.get("node")
        if node == self.node or not isinstance(node, str):
            return
        self._heard[node] = asyncio.get_running_loop().time()
        match news.get("what"):
            case "who":  # it may be new: whom it has not heard it asks nothing
                self.tell("here")
            case "left":
                del self._heard[node]
                self.hub.node_gone(node)
        try:
            self.hub.told(news)
        except (KeyError, TypeError, ValueError, ProtocolError):
            self.counted("malformed", "news")

    def tell(self, what: str, **about: Any) -> None:
        """Tell every other node. At most once: what must not be missed is also in the store."""
        body = orjson.dumps({"v": 1, "node": self.node, "what": what, **about})
        self.fabric.send(EVERYBODY, body, fanout=True)

    async def ask_others(
        self, question: dict[str, Any], only: Collection[str] | None = None
    ) -> dict[str, Any]:
        """What every other node that has been heard of lately says to this, None where it says nothing in time; `only`:
        those of them."""
        nodes = [node for node in self._heard if only is None or node in only]
        return dict(zip(nodes, await asyncio.gather(*(self._view(n, question) for n in nodes)), strict=True))

    async def _view(self, node: str, question: dict[str, Any]) -> Any:
        body = orjson.dumps({"v": 1, "op": "view", "question": question})
        try:
            answer = await self.fabric.ask(node_address(node), body, VIEW_PATIENCE)
            found = load_object(answer, bytes_max=len(answer))
        except (NoOne, Unavailable, TimeoutError, ProtocolError):
            return None
        return found.get("view")  # a node of the version before knows none

    def _gap(self) -> None:
        """Messages of other nodes may have been lost: look again at everything that depends on them."""
        for seat in list(self.seats.values()):
            seat.feed(seat.machine.gap)
        for edge in list(self.edges.values()):
            edge.gap()
        self.tell("who")

    # ================================================================================================ the end

    async def drain(self, patience: float) -> None:
        """Send every session elsewhere, paced, and then the app sockets. `patience`: seconds for all of it."""
        if self.everybody_ends:
            await self._save_all()
            return
        loop = asyncio.get_running_loop()
        end = loop.time() + patience
        for seat in list(self.seats.values()):
            delay = (1.0 + MOVE_JITTER * (2.0 * random.random() - 1.0)) / MOVES_PER_SECOND
            await asyncio.sleep(min(delay, max(0.0, end - loop.time())))
            if seat.entry is not None and seat.user_id in self.seats:
                seat.moving = self.hub.move(seat.entry)
        limit, end = end, min(end, loop.time() + STRAGGLERS)
        await self._until(lambda: not any(s.moving and s.entry is not None for s in self.seats.values()), end)
        edges = list(self.edges.values())
        if edges:
            await asyncio.sleep(min(APPS_AFTER, max(0.0, limit - loop.time())))
        for edge in edges:
            await asyncio.sleep(1.0 / MOVES_PER_SECOND)
            edge.leave()
        await self._until(
            lambda: not any(edge.socket_id in self.edges for edge in edges), min(limit, loop.time() + 1.0)
        )
        await self._save_all()

    async def _until(self, what: Callable[[], bool], end: float) -> None:
        """Wait until it is so, at most until `end` (loop time). Looked at whenever a seat or a socket is given up."""
        loop = asyncio.get_running_loop()
        while not what():
            self._left.clear()
            try:
                await asyncio.wait_for(self._left.wait(), max(0.0, end - loop.time()))
            except TimeoutError:
                return

    def released(self, edge: EdgeSocket) -> None:
        """An app's socket is gone."""
        self.edges.pop(edge.socket_id, None)
        self._left.set()

    async def _save_all(self) -> None:
        """What did not go by itself is in its record, and whoever claims it finds it there."""
        for seat in list(self.seats.values()):
            if (
                seat.machine.state is OwnershipState.OWNED
                and seat.machine.is_loaded
                and seat.entry is not None
            ):
                await seat.save_now()
            seat.close()

    async def close(self) -> None:
        """Stop everything; the fabric is closed by whoever made it."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self.tell("left")
        for undo in self._unlisten:
            undo()
        for seat in list(self.seats.values()):
            seat.close()
        for edge in list(self.edges.values()):
            edge.stop()
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ================================================================================================ tasks, counts

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task of this node; its failure is logged and counted."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.failed("cluster")
            log.error("a task of the cluster failed", exc_info=task.exception())

    def failed(self, where: str) -> None:
        """A bug of ours was caught."""
        self.hub.count_error(where)

    def counted(self, what: str, kind: str) -> None:
        self.counts[what, kind] = self.counts.get((what, kind), 0) + 1

    def deliveries(self) -> int:
        """Frames that left for other nodes' app sockets."""
        return self.remote_deliveries

    def losses(self) -> int:
        """Frames between nodes that could not be had again."""
        return self.frames_lost

    def takeovers(self) -> int:
        """Sessions that began here, with or without what another node has made of them."""
        return sum(count for (what, _), count in self.counts.items() if what == "takeover")

    def counted_lost(self, frames: int) -> None:
        self.frames_lost += frames
