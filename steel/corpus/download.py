"""Fetch a source: from the Hugging Face hub with resume and checksums, or say how to get it."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..config import UserError
from ..runlog import atomic_write
from .sources import SOURCES, Source

RECORD = "download.json"  # in the source's folder: every file with its size [bytes] and sha256
Progress = Callable[[str, int, int], None]  # file, files done, files in all


@dataclass(frozen=True)
class RemoteFile:
    """A file of a dataset: path in the repository, size [bytes], sha256 or "" where the hub does not state it."""

    path: str
    size: int
    sha256: str = ""


class Fetcher(Protocol):
    """What `download` needs of a hub. Tests give their own."""

    def files(self, repository: str) -> list[RemoteFile]:
        """All files of a dataset."""

    def fetch(self, repository: str, path: str, folder: Path) -> Path:
        """Bring one file to folder/path, going on with a partial download; returns where it lies."""


class HubFetcher:
    """The Hugging Face hub through huggingface_hub (which reads HF_ENDPOINT and HF_TOKEN)."""

    def __init__(self):
        try:
            import huggingface_hub
        except ImportError:
            raise UserError(
                "download needs huggingface_hub (pip install huggingface_hub)"
            ) from None
        self._hub = huggingface_hub

    def files(self, repository: str) -> list[RemoteFile]:
        info = self._hub.HfApi().dataset_info(repository, files_metadata=True)
        return [
            RemoteFile(s.rfilename, s.size or 0, (s.lfs.sha256 if s.lfs else "") or "")
            for s in info.siblings or []
        ]

    def fetch(self, repository: str, path: str, folder: Path) -> Path:
        return Path(
            self._hub.hf_hub_download(repository, path, repo_type="dataset", local_dir=folder)
        )


def instructions(source: Source) -> str:
    """What a user does to get a source that has no download."""
    return f"{source.title}\n  licence: {source.licence}\n  from:    {source.link}\n  how:     {source.obtain}"


def download(
    name: str, out: Path | str, fetcher: Fetcher | None = None, progress: Progress | None = None
) -> str:
    """Fetch a source into OUT/<name>/ (or OUT, when it is called like the source) and check every file.

    Returns what was done, or, for a source that no hub has, what the user has to do.

    A file that lies there with its size and checksum is not fetched again, so a broken download goes on where it
    stopped. Raises UserError when the hub cannot be reached, refuses, or a file stays damaged.
    """
    source, out = SOURCES[name], Path(out)
    folder = out if out.name == name else out / name
    if not source.hub:
        return instructions(source)
    fetcher = fetcher or HubFetcher()
    files = _call(source, lambda: fetcher.files(source.hub))
    wanted = sorted(
        (f for f in files if any(fnmatch.fnmatch(f.path, p) for p in source.hub_files)),
        key=lambda f: f.path,
    )
    if not wanted:
        raise UserError(
            f"{name}: {source.hub} holds no file like {', '.join(source.hub_files)}; see {source.link}"
        )
    seen = _recorded(folder)
    for number, file in enumerate(wanted):
        if progress is not None:
            progress(file.path, number, len(wanted))
        if not _whole(folder / file.path, file, seen.get(file.path)):
            _call(source, lambda file=file: fetcher.fetch(source.hub, file.path, folder))
            seen[file.path] = _check(folder / file.path, file)
            atomic_write(folder / RECORD, json.dumps(seen, indent=1, sort_keys=True) + "\n")
    if progress is not None:
        progress("", len(wanted), len(wanted))
    size = sum(entry["size"] for entry in seen.values())
    return f"{name}: {len(wanted)} files, {size / 1e9:,.2f} GB, checksums right, in {folder}"


def _recorded(folder: Path) -> dict[str, dict]:
    """What earlier calls fetched and checked."""
    try:
        return json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return {}


def _whole(path: Path, file: RemoteFile, record: dict | None) -> bool:
    """Whether the file lies there as it was when it was checked, and is still what the hub offers."""
    return (
        record is not None
        and path.is_file()
        and path.stat().st_size == record["size"]
        and record["size"] == (file.size or record["size"])
        and record["sha256"] == (file.sha256 or record["sha256"])
    )


def _check(path: Path, file: RemoteFile) -> dict:
    """{"size", "sha256"} of a fetched file; one that differs from the hub's is removed and reported."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    size, sha256 = path.stat().st_size, digest.hexdigest()
    if (file.size and size != file.size) or (file.sha256 and sha256 != file.sha256):
        path.unlink()
        raise UserError(
            f"{path}: damaged on the way (size or checksum differs), removed; run the download again"
        )
    return {"size": size, "sha256": sha256}


def _call(source: Source, action: Callable):
    """Run a request to the hub; its many kinds of failure become one line."""
    try:
        return action()
    except UserError:
        raise
    except (
        Exception
    ) as error:  # connection, name resolution, time-out, 401, 403, 404: each library has its own
        text = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        if source.gated and any(code in str(error) for code in ("401", "403", "gated", "Gated")):
            raise UserError(
                f"{source.name}: the publisher wants its terms accepted: {source.obtain}"
            ) from None
        raise UserError(
            f"{source.name}: {source.hub} cannot be reached ({text}); check the network or set "
            "HF_ENDPOINT to a mirror, then run the same command again: it goes on"
        ) from None
