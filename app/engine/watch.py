"""A process that decides for itself which versions it serves: it looks at the models folder, loads, switches.

Owns the rhythm of looking, and the order: everything is loaded before the switch. With several workers their parent decides
instead (`app.generation`).
"""

from __future__ import annotations

import asyncio

import structlog

from app.engine.registry import Registry
from app.engine.rollout import Rollout
from app.engine.serving_plan import LocalGeneration
from app.engine.settings import EngineSettings

logger = structlog.get_logger(__name__)

SETTLE_S = 1.0
"""Between two looks while something changes: a folder that is being copied looks different each time."""


class ModelWatch:
    """`open` before anything is served, then `run` as a task."""

    def __init__(self, registry: Registry, generation: LocalGeneration, settings: EngineSettings) -> None:
        self._registry = registry
        self._generation = generation
        self._poll_s = settings.models_poll_s
        self._rollout = Rollout(settings)
        self._asked = asyncio.Event()

    async def open(self) -> None:
        """Load what there is. Raises BundleError when a model has no version that passes."""
        await asyncio.to_thread(self._rollout.look, at_once=True)
        await self._advance()

    async def run(self) -> None:
        """Look again and again, for ever."""
        pause_s = self._poll_s
        while True:
            asked = await self._wait(pause_s)
            try:
                is_settled = await asyncio.to_thread(self._rollout.look, at_once=asked)
                await self._advance()
            except Exception as error:
                # The service goes on with what it has, and so must the watch.
                logger.exception("models_watch_failed", exc_info=error)
                is_settled = True
            pause_s = self._poll_s if is_settled else min(SETTLE_S, self._poll_s)

    def look_now(self) -> None:
        """Wake `run`, also where looking on a schedule is off."""
        self._asked.set()

    async def _wait(self, pause_s: float) -> bool:
        """Returns whether somebody asked."""
        try:
            async with asyncio.timeout(pause_s or None):
                await self._asked.wait()
        except TimeoutError:
            return False
        self._asked.clear()
        return True

    async def _advance(self) -> None:
        while (plan := self._rollout.proposal()) is not None:
            refusals = await self._registry.prepare(plan)
            if refusals:
                self._rollout.refuse(refusals)
                continue
            self._rollout.adopt(plan)
            self._generation.value = plan.generation
            self._registry.settle()
