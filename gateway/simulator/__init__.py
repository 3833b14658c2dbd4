"""
A simulated LLMTune: every route, generation, error and misfortune, at home.

`running_simulator` runs one inside an event loop, `create_simulator` makes the bare
ASGI application, `cli` is the `simulate` command.
"""

from gateway.simulator.app import Simulator, create_simulator
from gateway.simulator.faults import FaultKind
from gateway.simulator.server import RunningSimulator, running_simulator
from gateway.simulator.settings import SettingsError, SimulatorSettings
from gateway.simulator.stats import Stats

__all__ = [
    "FaultKind",
    "RunningSimulator",
    "SettingsError",
    "Simulator",
    "SimulatorSettings",
    "Stats",
    "create_simulator",
    "running_simulator",
]
