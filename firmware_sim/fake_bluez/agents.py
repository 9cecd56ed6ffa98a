"""Who may be asked about pairing: the agents that clients have registered."""

from __future__ import annotations

from dbus_fast import Message

from firmware_sim.fake_bluez.bus import BluezError, Bus, Exported

MANAGER = "org.bluez.AgentManager1"
AGENT = "org.bluez.Agent1"

CAPABILITIES = frozenset(
    {"", "DisplayOnly", "DisplayYesNo", "KeyboardOnly", "NoInputNoOutput", "KeyboardDisplay"}
)


class Agents(Exported):
    """/org/bluez with its AgentManager1."""

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus, "/org/bluez", {MANAGER: {}})
        self._paths: dict[str, str] = {}
        """Client -> path of its agent, in the order of registration."""
        self._default: str | None = None
        self.methods = {
            (MANAGER, "RegisterAgent"): self._register,
            (MANAGER, "UnregisterAgent"): self._unregister,
            (MANAGER, "RequestDefaultAgent"): self._request_default,
        }
        bus.departures.append(self._departed)

    def of(self, client: str) -> str | None:
        """The client whose agent answers for `client`: its own agent, else the default one, else nobody."""
        if client in self._paths:
            return client
        return self._default or next(iter(self._paths), None)

    async def authorised(self, client: str, device: str) -> bool:
        """Ask the agent of `client` whether `device` may pair without a number to compare."""
        path = self._paths.get(client)
        return path is not None and await self.bus.ask(
            client, path, AGENT, "RequestAuthorization", "o", [device]
        )

    async def _register(self, message: Message) -> None:
        client, (path, capability) = str(message.sender), message.body
        if client in self._paths:
            raise BluezError("AlreadyExists", "Already Exists")
        if capability not in CAPABILITIES:
            raise BluezError("InvalidArguments", "Invalid arguments in method call")
        self._paths[client] = path

    async def _unregister(self, message: Message) -> None:
        self._known(message)
        self._departed(str(message.sender))

    async def _request_default(self, message: Message) -> None:
        self._known(message)
        self._default = str(message.sender)

    def _known(self, message: Message) -> None:
        if self._paths.get(str(message.sender)) != message.body[0]:
            raise BluezError("DoesNotExist", "Does Not Exist")

    def _departed(self, client: str) -> None:
        self._paths.pop(client, None)
        if self._default == client:
            self._default = None
