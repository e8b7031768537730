"""Fetch a source from the Hugging Face hub, with resume and checksums, or say how to get it."""

import fnmatch
import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from ..config import UserError, first_line, needs
from ..documents import DocumentWriter
from .sources import CARD, find_source
from .sources.readers import opened_records
from .sources.steel_rules import mapped

SAMPLE = "sample.jsonl.zst"


def download(
    name: str,
    out: Path | str,
    *,
    sample: int = 0,
    endpoint: str = "",
    tell: Callable[[str], None] = lambda line: None,
) -> str:
    """Fetch a source into OUT/<name>/, or OUT when it is called like the source; check files.

    sample: only so many records, as OUT/<name>/sample.jsonl.zst, without the rest of the files.
    endpoint: a mirror of the hub. tell: hears the size before anything is fetched. Returns what was
    done, or, for a source that no hub has, what the user has to do. huggingface_hub goes on with a
    broken download and reads HF_ENDPOINT and HF_TOKEN. Raises UserError when the hub cannot be
    reached, refuses, a file is damaged or the disk is too small.
    """
    source, out = find_source(name), Path(out)
    if not source.hub:
        about = f"licence: {source.licence}\n  from:    {source.link}\n  how:     {source.obtain}"
        return f"{source.title}\n  {about}"
    with needs("download", "huggingface_hub"):
        import huggingface_hub as hub
    folder = out if out.name == name else out / name
    place = {"repo_id": source.hub, "repo_type": "dataset"}
    try:
        api = hub.HfApi(endpoint=endpoint or None)
        tree = api.list_repo_tree(**place, recursive=True)
        files = {entry.path: entry.size for entry in tree if hasattr(entry, "size")}
        wanted = {p for pattern in source.hub_files for p in fnmatch.filter(files, pattern)}
        sizes = {path: files[path] for path in sorted(wanted)}
        total = sum(sizes.values())
        tell(f"{name}: {len(sizes)} files, {total / 1e9:,.2f} GB, {source.licence}")
        if sample:
            if any((folder / path).exists() for path in sizes):
                raise UserError(
                    f"{folder} holds files of the whole; give the sample another folder"
                )
            fs = hub.HfFileSystem(endpoint=endpoint or None)
            rows = itertools.islice(_remote(fs, source.hub, sizes), sample)
            return f"{name}: {_write(folder / SAMPLE, rows)} records in {folder}"
        _check_disk(folder, total)
        how = {"allow_patterns": list(source.hub_files), "endpoint": endpoint or None}
        hub.snapshot_download(**place, local_dir=folder, **how)
        damaged = api.verify_repo_checksums(**place, local_dir=folder).mismatches if sizes else []
    except UserError:
        raise
    except Exception as error:  # each library below has its own errors for the network and for 4xx
        if source.gated and any(sign in str(error) for sign in ("401", "403", "gated", "Gated")):
            why = f"the publisher wants its terms accepted: {source.obtain}"
        else:
            remedy = "check the network or set HF_ENDPOINT to a mirror; the same command goes on"
            why = f"{source.hub} cannot be reached ({first_line(error)[:160]}); {remedy}"
        raise UserError(f"{name}: {why}") from None
    if not sizes:
        patterns = ", ".join(source.hub_files)
        raise UserError(f"{name}: {source.hub} holds no file like {patterns}; see {source.link}")
    for entry in damaged:
        (folder / entry["path"]).unlink(missing_ok=True)
    if damaged:
        first = folder / damaged[0]["path"]
        raise UserError(f"{first}: damaged on the way, removed; run the download again")
    (folder / SAMPLE).unlink(missing_ok=True)  # its records are among these
    return f"{name}: {len(sizes)} files, {total / 1e9:,.2f} GB, checksums right, in {folder}"


def stream_dataset(
    repo: str, out: Path | str, roles: dict[str, str], *, sample: int = 0, split: str = "train"
) -> str:
    """Any dataset of the hub (or a folder of one), row by row through `datasets`, into OUT/<name>/.

    roles: which column is what, see `steel_rules.mapped`; they become the card beside the rows, so
    that `steel data prepare OUT` reads them. sample: only so many rows. Raises UserError when a
    column does not exist or the dataset cannot be read.
    """
    mapped(roles, [], "--map") if roles else None
    with needs("hub:", "datasets"):
        import datasets
    name = re.sub(r"\W+", "_", "_".join(repo.strip("/").split("/")[-2:]))
    folder = Path(out) / name
    try:
        rows = iter(datasets.load_dataset(repo, split=split, streaming=True))
        first = next(rows, {})
        if not roles or not set(roles.values()) <= set(first):
            columns = ", ".join(first) or "none"
            raise UserError(f"{repo}: say what its columns are, as --map text=…; it has {columns}")
        rows = itertools.islice(itertools.chain([first], rows), sample or None)
        count = _write(folder / "rows.jsonl.zst", rows)
    except UserError:
        raise
    except Exception as error:  # the library raises those of every format and of the network
        raise UserError(f"{repo}: cannot be read ({first_line(error)[:160]})") from None
    card = {"title": repo, "link": f"https://huggingface.co/datasets/{repo}", "map": roles}
    (folder / CARD).write_text(yaml.safe_dump(card, allow_unicode=True), encoding="utf-8")
    return f"{name}: {count} records in {folder}"


def _remote(fs: Any, repo: str, paths: Iterable[str]) -> Iterator[dict]:
    """The good records of files on the hub, one file after another."""
    for path in paths:
        with fs.open(f"datasets/{repo}/{path}", "rb") as file:
            for record in opened_records(file, path):
                if isinstance(record, dict):
                    yield record


def _write(path: Path, rows: Iterable[dict]) -> int:
    import orjson

    path.parent.mkdir(parents=True, exist_ok=True)
    with DocumentWriter(path) as writer:
        for row in rows:
            writer.write_line(orjson.dumps(row, default=str, option=orjson.OPT_APPEND_NEWLINE))
    return writer.count


def _check_disk(folder: Path, total: int) -> None:
    """UserError when what is still to come does not fit."""
    there = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    have = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(os.fspath(there)).free
    if total - have > free:
        need = f"{(total - have) / 1e9:,.1f} GB are to come, {free / 1e9:,.1f} GB are free"
        raise UserError(f"{folder}: the disk is too small: {need}; try --sample 10000")
