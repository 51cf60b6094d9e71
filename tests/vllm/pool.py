"""Engines of a whole session: starting one takes seconds, so that tests share them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.vllm.engines import Engine, Settings, environment_text


class Engines:
    """All processes of a session. At most `LIMIT` are there, more only while a test has them all."""

    LIMIT = 3

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._idle: list[Engine] = []
        self._made = 0

    @contextmanager
    def taken(self) -> Iterator[Taken]:
        """For one test; then others may use its engines."""
        taken = Taken(self)
        try:
            yield taken
        finally:
            for engine in taken.engines:
                if engine.usable:
                    self._idle.append(engine)
                else:
                    engine.close()
            while len(self._idle) > self.LIMIT:
                self._idle.pop(0).close()

    def take(self, settings: Settings) -> Engine:
        """One that runs with these settings already, or is started with them."""
        same = [engine for engine in self._idle if engine.settings == settings]
        # Those without a connector, which are for reference, stay as they are while there are others.
        alike = [engine for engine in self._idle if engine.environment == settings.environment]
        alike.sort(key=lambda engine: engine.settings is not None and engine.settings.connector == "null")
        if same:
            engine = same[0]
        elif alike and len(self._idle) >= self.LIMIT - 1:
            engine = alike[0]
        else:
            engine = self._new(settings.environment)
        if engine in self._idle:
            self._idle.remove(engine)
        try:
            if engine.settings != settings:
                if engine.settings is not None:
                    engine.stop()
                engine.start(settings)
        except BaseException:
            engine.close()
            raise
        return engine

    def take_any(self, environment: str) -> Engine:
        """A process, whatever it runs."""
        engine = next((engine for engine in self._idle if engine.environment == environment), None)
        if engine is None:
            return self._new(environment)
        self._idle.remove(engine)
        return engine

    def _new(self, environment: str) -> Engine:
        self._made += 1
        return Engine(self._folder, self._folder / f"{self._made}.log", json.loads(environment))

    def close(self) -> None:
        for engine in self._idle:
            engine.close()


class Taken:
    """Engines of one test."""

    def __init__(self, engines: Engines) -> None:
        self.engines: list[Engine] = []
        self._pool = engines

    def __call__(
        self,
        model: str,
        connector: Mapping[str, Any] | None = None,
        *,
        environment: Mapping[str, str | None] | None = None,
        **settings: Any,
    ) -> Engine:
        engine = self._pool.take(Settings.of(model, connector, settings, environment))
        self.engines.append(engine)
        return engine

    def any(self, *, environment: Mapping[str, str | None] | None = None) -> Engine:
        """A process, whatever it runs."""
        self.engines.append(self._pool.take_any(environment_text(environment)))
        return self.engines[-1]

    def restart(self, engine: Engine) -> Engine:
        """Another process with the same settings."""
        settings = engine.settings
        assert settings is not None
        self.engines.remove(engine)
        engine.close()
        self.engines.append(self._pool.take(settings))
        return self.engines[-1]
