"""A local Hub for tests and for development without a network; see README.md in this folder."""

from tests.hub.faults import Fault
from tests.hub.process import HubControl, HubProcess
from tests.hub.server import HubServer
from tests.hub.settings import Settings

__all__ = ["Fault", "HubControl", "HubProcess", "HubServer", "Settings"]
