"""The demonstration: two engine processes, a gateway restart between them, and the same answer much sooner.

A Llama architecture with seeded random weights; tokens are the bytes of the text, so nothing is downloaded. Needs
`objectcache[demo]`; the engines run in processes of their own.
"""

from objectcache.demo.options import DemoOptions, DemoResult
from objectcache.demo.run import run_demo

__all__ = ["DemoOptions", "DemoResult", "run_demo"]
