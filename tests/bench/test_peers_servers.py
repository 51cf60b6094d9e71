"""What `bench peers` reads from, and LMCache, which reads beside it: nginx where it is, and a stand-in."""

from __future__ import annotations

import os
import shutil
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("obstore", reason="needs the extra s3")

from objectcache.bench.errors import BenchmarkError
from objectcache.bench.machine import child_pids
from objectcache.bench.peers.held import HeldKV
from objectcache.bench.peers.lmcache import LMCacheReader
from objectcache.bench.peers.servers import Nginx, Server, started_nginx
from objectcache.errors import ConfigError

HAS_NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is not None


# -- nginx --------------------------------------------------------------------------------------------


@pytest.mark.skipif(not HAS_NGINX, reason="nginx is not installed")
def test_nginx_serves_while_it_is_wanted(tmp_path: Path) -> None:
    before = child_pids(os.getpid())
    with started_nginx(tmp_path) as nginx:
        (nginx.root / "name@1").write_bytes(b"content")
        with urllib.request.urlopen(f"http://{nginx.host}/name%401") as answer:
            assert answer.read() == b"content"
        assert len(nginx.server.pids) > 1
        assert nginx.server.cpu_s() >= 0
    assert child_pids(os.getpid()) == before
    assert not Path(f"/proc/{nginx.server.pids[0]}/exe").exists()


def test_what_is_not_installed_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *arguments, **more: None)
    with pytest.raises(ConfigError, match=r"nginx-light.*--servers"), started_nginx(tmp_path):
        pass


# -- LMCache ------------------------------------------------------------------------------------------

# Answers as lmcache_child.py does; loads what lies below the root, but with {flaw} added to the first byte.
FAKE_CHILD = """
import json, mmap, sys
job = json.loads(sys.stdin.readline())
size, step = job["size_bytes"], job["object_bytes"]
spans = [(at, min(size, at + step)) for at in range(0, size, step)]
memory = mmap.mmap(job["fd"], size)
print(json.dumps({{"version": "0", "objects": [[f"o{{a}}", a, b] for a, b in spans]}}), flush=True)
for line in sys.stdin:
    for a, b in spans:
        memory[a:b] = open(f"{root}/o{{a}}", "rb").read()
    memory[0] = (memory[0] + {flaw}) % 256
    answer = {{"started_s": 1.0, "total_s": 2.0, "payload_bytes": size, "cpu_s": 0.5}}
    print(json.dumps(answer), flush=True)
"""


@pytest.mark.parametrize("flaw", [0, 1])
def test_lmcache_loads_what_its_server_has(tmp_path: Path, flaw: int) -> None:
    root, child, python = tmp_path / "root", tmp_path / "child.py", tmp_path / "python"
    root.mkdir()
    child.write_text(FAKE_CHILD.format(root=root, flaw=flaw))
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{child}"\n')
    python.chmod(0o700)
    nginx = Nginx(Server("nginx", "", {}, (os.getpid(),)), "127.0.0.1:1", root)
    rng = np.random.default_rng(1)

    class Header:
        depth, num_chunks = 0, 5

    class Prefix:
        headers = (Header,)

        def layers(self) -> Iterator[list[np.ndarray[Any, Any]]]:
            yield [rng.integers(256, size=(5, 8), dtype=np.uint8) for _ in range(2)]

    with HeldKV(5, 2, 8) as held:
        held.fill(Prefix(), [0])  # type: ignore[arg-type]
        with LMCacheReader(python, nginx, held, chunks_each=2) as reader:
            assert sorted(path.stat().st_size for path in root.iterdir()) == [16, 32, 32]
            held.clear()
            measured = reader.load()
        if flaw:
            with pytest.raises(BenchmarkError):
                held.check_chunks()
        else:
            held.check_chunks()
    assert (measured.fetch.payload_bytes, measured.fetch.first_layer_s, measured.client_cpu_s) == (80, 2.0, 0.5)


def test_an_interpreter_without_lmcache_is_named(tmp_path: Path) -> None:
    nginx = Nginx(Server("nginx", "", {}, ()), "127.0.0.1:1", tmp_path)
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o700)
    with HeldKV(1, 1, 8) as held:
        with pytest.raises(BenchmarkError, match="cannot be run"), LMCacheReader(tmp_path / "none", nginx, held, 1):
            pass
        with pytest.raises(BenchmarkError, match="No module named"), LMCacheReader(bare, nginx, held, 1):
            pass
