"""Fetch a source from the Hugging Face hub, with resume and checksums, or say how to get it."""

from pathlib import Path

from ..config import UserError, first_line
from .sources import find_source


def download(name: str, out: Path | str) -> str:
    """Fetch a source into OUT/<name>/, or OUT when it is called like the source; check files.

    Returns what was done, or, for a source that no hub has, what the user has to do.
    huggingface_hub goes on with a broken download and reads HF_ENDPOINT and HF_TOKEN. Raises
    UserError when the hub cannot be reached, refuses, or a file is damaged.
    """
    source, out = find_source(name), Path(out)
    if not source.hub:
        about = f"licence: {source.licence}\n  from:    {source.link}\n  how:     {source.obtain}"
        return f"{source.title}\n  {about}"
    try:
        import huggingface_hub as hub
    except ImportError:
        raise UserError("download needs huggingface_hub (pip install huggingface_hub)") from None
    folder = out if out.name == name else out / name
    place = {"repo_id": source.hub, "repo_type": "dataset", "local_dir": folder}
    try:
        hub.snapshot_download(**place, allow_patterns=list(source.hub_files))
        files = [path for pattern in source.hub_files for path in folder.glob(pattern)]
        damaged = hub.HfApi().verify_repo_checksums(**place).mismatches if files else []
    except Exception as error:  # each library below has its own errors for the network and for 4xx
        if source.gated and any(sign in str(error) for sign in ("401", "403", "gated", "Gated")):
            why = f"the publisher wants its terms accepted: {source.obtain}"
        else:
            why = (
                f"{source.hub} cannot be reached ({first_line(error)[:160]}); check the network or "
                "set HF_ENDPOINT to a mirror, then run the same command again: it goes on"
            )
        raise UserError(f"{name}: {why}") from None
    if not files:
        patterns = ", ".join(source.hub_files)
        raise UserError(f"{name}: {source.hub} holds no file like {patterns}; see {source.link}")
    for entry in damaged:
        (folder / entry["path"]).unlink(missing_ok=True)
    if damaged:
        first = folder / damaged[0]["path"]
        raise UserError(f"{first}: damaged on the way, removed; run the download again")
    size = sum(path.stat().st_size for path in files)
    return f"{name}: {len(files)} files, {size / 1e9:,.2f} GB, checksums right, in {folder}"
