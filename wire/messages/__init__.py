"""Every message as a model, one file per direction; the only place where the wire's words are written.

Rules: to add a message, add one class (direction, delivery, one sentence) to its direction's registry.
`docs/protocol.md` is generated from these registries.
"""

from wire.messages.app_to_cloud import APP_TO_CLOUD
from wire.messages.base import Delivery, Direction, Message, Registry, iso
from wire.messages.cloud_to_app import CLOUD_TO_APP
from wire.messages.cloud_to_glasses import CLOUD_TO_GLASSES
from wire.messages.glasses_to_cloud import GLASSES_TO_CLOUD
from wire.messages.webhooks import WEBHOOKS

ALL: tuple[Registry, ...] = (GLASSES_TO_CLOUD, CLOUD_TO_GLASSES, APP_TO_CLOUD, CLOUD_TO_APP, WEBHOOKS)

__all__ = [
    "ALL",
    "APP_TO_CLOUD",
    "CLOUD_TO_APP",
    "CLOUD_TO_GLASSES",
    "GLASSES_TO_CLOUD",
    "WEBHOOKS",
    "Delivery",
    "Direction",
    "Message",
    "Registry",
    "iso",
]
