"""Downloads: files with a pinned checksum, and the data sets that torchvision reads and verifies."""

import hashlib
import socket
from contextlib import suppress
from pathlib import Path

from torch import hub

from data.image_files import reason_of
from utils.console import in_terminal, say
from utils.errors import UserError
from utils.mypath import DATASET_FOLDERS
from utils.storage.files import temporary_file


def fetch(name: str, url: str, path: Path, checksum: str, remedy: str = "") -> None:
    """Download `url` to `path`, which exists only once its content is verified.

    checksum: `sha256:` or `md5:`, then the first digits of the digest. Raises UserError when the download
    fails. remedy: what else the user can do then; for a data set it also names the key of its folder."""
    algorithm, digits = checksum.split(":")
    digest, before = hashlib.new(algorithm), socket.getdefaulttimeout()
    say(f"{name} is missing or damaged in {path.parent}: downloading {url}")
    socket.setdefaulttimeout(60)  # seconds without a byte
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_file(path) as part:
            hub.download_url_to_file(url, str(part), progress=in_terminal())
            with open(part, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            if not (found := digest.hexdigest()).startswith(digits):
                raise ValueError(f"truncated or changed: its {algorithm} is {found}, not {digits}")
            part.replace(path)
    except Exception as error:  # of the network, the disk or the checksum: a dozen kinds
        if name in DATASET_FOLDERS:
            remedy = f"name its folder in db_root_dir.{name}=... or in {DATASET_FOLDERS[name][1]} {remedy}"
        text = f"downloading {url} to {path} failed ({reason_of(error)})"
        raise UserError(f"{text}: try again, put it there by hand, or {remedy}") from error
    finally:
        socket.setdefaulttimeout(before)


def open_or_download(name: str, folder: Path, reader: str, **split):
    """torchvision's `reader(folder, **split)` of the data set `name`, its checksums verified.

    What is missing or damaged in `folder` is taken from the archive there, or downloaded, as by `fetch`."""
    from torchvision import datasets  # slow to import

    reader = getattr(datasets, reader)
    with suppress(RuntimeError):  # torchvision's error for missing or damaged files
        return reader(folder, **split)
    archive = folder.absolute() / reader.filename
    if not datasets.utils.check_integrity(archive, reader.tgz_md5):
        fetch(name, reader.url, archive, f"md5:{reader.tgz_md5}")
    datasets.utils.extract_archive(archive, folder)
    return reader(folder, **split)
