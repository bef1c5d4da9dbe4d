"""The company that `signalbox demo` plays: Lumen & Loop, its customers and their traffic.

`people` decides who exists and what is true about them, `visits` and `history` what they do,
`world` puts it into messages, `live` sends more of the same while the demo runs.
"""

from orchestration.demo.errors import SimulatorError
from orchestration.demo.live import LiveTraffic
from orchestration.demo.seed import seed_sandbox
from orchestration.demo.state import DemoState
from orchestration.demo.stories import StoryEntry
from orchestration.demo.world import World

__all__ = ["DemoState", "LiveTraffic", "SimulatorError", "StoryEntry", "World", "seed_sandbox"]
