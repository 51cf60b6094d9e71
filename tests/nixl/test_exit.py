"""A process may end while its threads look for notifications."""

from __future__ import annotations

import subprocess
import sys

_SCENE = """
import threading, time
from objectcache.transports.nixl import Agent
agent = Agent("ends")
def look():
    while True:
        agent.notifications()
for _ in range(3):
    threading.Thread(target=look, daemon=True).start()
time.sleep(0.05)
"""


def test_a_process_ends_while_its_daemons_are_in_nixl() -> None:
    ended = subprocess.run([sys.executable, "-c", _SCENE], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
