from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from objectcache.connectors.fingerprint import cache_folder, fingerprint, of_text, weight_files
from objectcache.errors import ConfigError


def model(folder: Path, **contents: bytes) -> Path:
    folder.mkdir(parents=True)
    for name, data in ({"model.safetensors": b"weights"} | contents).items():
        path = folder / name.replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def print_of(folder: Path, kept: Path) -> str:
    return fingerprint(weight_files(folder), kept=kept)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept"


def test_the_same_weights_elsewhere_have_the_same_fingerprint(tmp_path: Path, kept: Path) -> None:
    one = model(tmp_path / "one", config__json=b"{}", tokenizer__json=b"a")
    other = model(tmp_path / "other", config__json=b"{ }", tokenizer__json=b"b")
    assert print_of(one, kept) == print_of(other, kept)
    assert print_of(one, kept).startswith("sha256:")


@pytest.mark.parametrize(
    "contents",
    [
        {"model.safetensors": b"weightS"},
        {"model2.safetensors": b"more"},
        {"model.safetensors.index.json": b"{}"},
        {"hf_quant_config.json": b"{}"},
    ],
)
def test_other_weights_have_another(tmp_path: Path, kept: Path, contents: dict[str, bytes]) -> None:
    assert print_of(model(tmp_path / "one"), kept) != print_of(model(tmp_path / "other", **contents), kept)


def test_a_file_by_another_name_is_another_fingerprint(tmp_path: Path, kept: Path) -> None:
    one = model(tmp_path / "one")
    before = print_of(one, kept)
    (one / "model.safetensors").rename(one / "other.safetensors")
    assert print_of(one, kept) != before


def test_weights_that_change_in_place_change_it(tmp_path: Path, kept: Path) -> None:
    one = model(tmp_path / "one")
    before = print_of(one, kept)
    (one / "model.safetensors").write_bytes(b"weightZ")
    assert print_of(one, kept) != before


def test_what_is_loaded_counts_and_no_other_format_of_it(tmp_path: Path, kept: Path) -> None:
    one = model(tmp_path / "one", **{"pytorch_model.bin": b"old", "original/consolidated.safetensors": b"raw"})
    assert [name for name, _ in weight_files(one)] == ["model.safetensors"]
    assert [name for name, _ in weight_files(one, "pt")] == ["pytorch_model.bin"]


def test_an_adapter_is_its_weights_and_its_configuration(tmp_path: Path, kept: Path) -> None:
    names = {"adapter_model.safetensors": b"lora", "adapter_config.json": b'{"r": 8}', "README.md": b"hello"}
    one = model(tmp_path / "one", **names)
    (one / "model.safetensors").unlink()
    before = print_of(one, kept)
    (one / "adapter_config.json").write_bytes(b'{"r": 16}')
    assert print_of(one, kept) != before


def test_what_hugging_face_named_is_not_read(tmp_path: Path, kept: Path) -> None:
    data = b"weights"
    blob = tmp_path / "models--a" / "blobs" / hashlib.sha256(data).hexdigest()
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"not what its name says, so that reading it would show")
    snapshot = tmp_path / "models--a" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(blob)
    assert print_of(snapshot, kept) == print_of(model(tmp_path / "plain"), kept)
    assert not list(kept.glob("*.lock"))[1:], "only the plain file was read"


def test_weights_are_read_once(tmp_path: Path, kept: Path) -> None:
    one = model(tmp_path / "one")
    expected = print_of(one, kept)
    facts = (one / "model.safetensors").stat()
    (one / "model.safetensors").write_bytes(b"WEIGHTS")  # same size, inode and, as is set here, time
    os.utime(one / "model.safetensors", ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert print_of(one, kept) == expected


def test_a_digest_that_was_kept_badly_is_made_again(tmp_path: Path, kept: Path) -> None:
    one = model(tmp_path / "one")
    expected = print_of(one, kept)
    (digest,) = (path for path in kept.iterdir() if path.suffix != ".lock")
    digest.write_text("garbage")
    assert print_of(one, kept) == expected


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    one = model(tmp_path / "one")
    assert print_of(one, tmp_path / "file" / "kept") == print_of(one, tmp_path / "kept")


def test_several_read_the_same_at_once(tmp_path: Path, kept: Path) -> None:
    one = model(tmp_path / "one", **{f"model-{number}.safetensors": bytes([number]) * 1000 for number in range(8)})
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(print_of(one, kept))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1


def test_progress_adds_up(tmp_path: Path, kept: Path) -> None:
    one = model(tmp_path / "one", **{"b.safetensors": bytes(5000)})
    seen: list[tuple[int, int]] = []
    fingerprint(weight_files(one), kept=kept, on_progress=lambda done, total: seen.append((done, total)))
    assert max(seen) == (5007, 5007)


def test_no_weights_are_an_error_that_says_what_to_set(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path, ""):
        with pytest.raises(ConfigError, match="model_fingerprint"):
            weight_files(path)


def test_a_single_file(tmp_path: Path, kept: Path) -> None:
    one = model(tmp_path / "one", **{"model.gguf": b"gguf"})
    assert [name for name, _ in weight_files(one / "model.gguf")] == ["model.gguf"]


def test_text_and_folders_of_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert of_text("dummy", "a") != of_text("dummy", "b")
    assert of_text("dummy", "a").startswith("dummy:")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "objectcache"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder().is_absolute()
