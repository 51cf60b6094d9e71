"""The scheduler's side, pure: vLLM's questions, steps and blocks in, orders to the workers out."""

from objectcache.connectors.vllm.scheduler.saving_orders import Group
from objectcache.connectors.vllm.scheduler.side import SchedulerFacts, SchedulerSide
from objectcache.connectors.vllm.scheduler.steps import FullGraphs

__all__ = ["FullGraphs", "Group", "SchedulerFacts", "SchedulerSide"]
