"""What the weights of an engine are called: read from their files in the background, since that may take minutes."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from objectcache.connectors.fingerprint import SET_IT, fingerprint, of_text, weight_files
from objectcache.connectors.vllm.messages import Adapter
from objectcache.connectors.vllm.naming.facts import WeightsFacts
from objectcache.errors import ConfigError, NotReadyError, ObjectCacheError

logger = logging.getLogger(__name__)

WAIT_S = 0.5
"""How long a look-up waits for a fingerprint. One that takes longer is for the look-ups after it."""
# Loaders that read a folder of files as such. Others fetch, share or make weights in ways of their own.
_FROM_FILES = ("auto", "safetensors", "pt", "npcache", "hf", "mistral", "gguf", "bitsandbytes", "sharded_state")
_FROM_FILES_TOO = ("fastsafetensors", "instanttensor", "runai_streamer", "runai_streamer_sharded")


class Weights:
    """Fingerprints of the model, its draft and its adapters. Thread-safe.

    `given` is the user's own name for the model's weights (and its draft's). Raises ConfigError where neither that nor
    files say which weights they are. Reading starts at once, in a thread of its own, which `close` ends.
    """

    def __init__(self, model: WeightsFacts, draft: WeightsFacts | None = None, *, given: str = "") -> None:
        self._stop = threading.Event()
        reads: list[Callable[[], str]] = [lambda: f"named:{given}"] if given else [self._reader(model)]
        if draft is not None and not given:
            reads.append(self._reader(draft))
        self._names: Future[tuple[str, ...]] = Future()
        self._adapters: dict[Adapter, str] = {}
        self._thread = threading.Thread(target=self._read, args=(reads,), name="objectcache-weights", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Fingerprints that are not there yet never will be."""
        self._stop.set()
        self._thread.join()

    def model(self, wait_s: float = WAIT_S) -> str:
        """Raises NotReadyError while they are being read, and ConfigError if they cannot be."""
        return self._read_names(wait_s)[0]

    def draft(self, wait_s: float = WAIT_S) -> str:
        """Empty where there is none, or where the user names the weights. Raises as `model` does."""
        return "".join(self._read_names(wait_s)[1:])

    def adapter(self, adapter: Adapter | None) -> str:
        """Of a LoRA adapter's folder. Raises ConfigError where it cannot be read, or where its files have changed since
        they were first seen: vLLM may use what it loaded then, or not."""
        if adapter is None:
            return ""
        found = fingerprint(weight_files(adapter.path))
        if self._adapters.setdefault(adapter, found) != found:
            raise ConfigError(
                f"the files of adapter {adapter.name} have changed since it was loaded: load it as another one, under "
                "a number of its own"
            )
        return found

    def _read_names(self, wait_s: float) -> tuple[str, ...]:
        try:
            return self._names.result(wait_s)
        except TimeoutError as error:
            raise NotReadyError("the weights are being read for their fingerprint") from error

    def _read(self, reads: list[Callable[[], str]]) -> None:
        try:
            self._names.set_result(tuple(read() for read in reads))
        except ObjectCacheError as error:
            logger.error("nothing is loaded or stored: %s", error)
            self._names.set_exception(error)
        except BaseException as error:
            self._names.set_exception(error)
            raise

    def _reader(self, facts: WeightsFacts) -> Callable[[], str]:
        """What will find out the fingerprint. Raises ConfigError where that is known to be in vain."""
        if facts.load_format == "dummy":
            if facts.quantization:
                raise ConfigError(f"dummy weights of a quantized model are not the same in two processes: {SET_IT}")
            # vLLM makes them by a fixed seed, tensor by tensor; the generators of devices differ.
            text = json.dumps(["dummy", facts.device, facts.config])
            return lambda: of_text("dummy", text)
        if facts.load_format not in (*_FROM_FILES, *_FROM_FILES_TOO):
            raise ConfigError(f"weights of {facts.name} are loaded by {facts.load_format!r}, not from files: {SET_IT}")
        if not facts.path:
            raise ConfigError(f"the weights of {facts.name} are in no folder of this machine: {SET_IT}")
        files = weight_files(Path(facts.path), facts.load_format)
        return lambda: fingerprint(files, stop=self._stop)
