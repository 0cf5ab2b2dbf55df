"""Downloads: files with a pinned checksum, and the data sets that torchvision fetches and verifies."""

import hashlib
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import hub
from tqdm import tqdm

from data.image_files import reason_of
from utils.errors import UserError
from utils.mypath import DATASET_FOLDERS
from utils.storage.files import temporary_file

TIMEOUT = 60  # seconds without a byte after which a download has failed


def fetch(name: str, url: str, path: Path, checksum: str, remedy: str = "") -> None:
    """Download `url` to `path`, which exists only once its content is verified.

    checksum: `sha256:` or `md5:`, then the first digits of the digest. Raises UserError when the download
    fails. remedy: what else the user can do then; for a data set it also names the key of its folder."""
    algorithm, digits = checksum.split(":")
    with _download(name, url, path, remedy):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_file(path) as part:
            hub.download_url_to_file(url, str(part), progress=sys.stderr.isatty())
            found = hashlib.new(algorithm, part.read_bytes()).hexdigest()
            if not found.startswith(digits):
                raise ValueError(f"truncated or changed: its {algorithm} is {found}, not {digits}")
            part.replace(path)


def open_or_download(name: str, folder: Path, reader: str, **split):
    """torchvision's `reader(folder, **split)` of the data set `name`, its checksums verified.

    A data set that is missing or damaged in `folder` is downloaded; raises UserError when that fails."""
    from torchvision import datasets  # slow to import

    reader = getattr(datasets, reader)
    with suppress(RuntimeError):  # torchvision's error for missing or damaged files
        return reader(folder, **split)
    with _download(name, reader.url, folder.absolute() / reader.base_folder):
        # not reader(download=True), which leaves a damaged meta file as it is
        fetch_archive = datasets.utils.download_and_extract_archive
        fetch_archive(reader.url, folder, filename=reader.filename, md5=reader.tgz_md5)
        return reader(folder, **split)


@contextmanager
def _download(name: str, url: str, place: Path, remedy: str = "") -> Iterator[None]:
    """Announce a download, limit how long it may stall, and turn a failure into a UserError."""
    tqdm.write(f"{name} is missing or damaged in {place}: downloading {url}")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    except Exception as error:  # of the network, the archive, the disk or the checksum: a dozen kinds
        if name in DATASET_FOLDERS:
            remedy = f"name its folder in db_root_dir.{name}=... or in {DATASET_FOLDERS[name][1]} {remedy}"
        text = f"{name} is not in {place}, and downloading {url} failed ({reason_of(error)})"
        raise UserError(f"{text}: try again, put it there by hand, or {remedy}") from error
    finally:
        socket.setdefaulttimeout(before)
