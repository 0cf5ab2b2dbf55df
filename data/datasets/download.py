"""Data sets that torchvision fetches: opened where they lie, checksums verified; downloaded where they are not."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torchvision.datasets import VisionDataset
from torchvision.datasets.utils import download_and_extract_archive
from tqdm import tqdm

from utils.errors import UserError
from utils.mypath import DATASET_FOLDERS

STALLED = 60  # seconds without a byte after which a download has failed


def open_or_download(name: str, folder: Path, reader: type[VisionDataset], **split) -> VisionDataset:
    """torchvision's `reader(folder, **split)` of the data set `name`, read only after its checksums were found right.

    Where `folder` does not hold it, it is downloaded there: a part of it that an earlier attempt left is overwritten.
    Raises UserError with the address, the folder and the way by hand when that fails."""
    try:
        return reader(folder, **split)
    except RuntimeError:  # torchvision's word for missing or damaged
        pass
    unpacked = folder.absolute() / reader.base_folder
    with downloading(name, unpacked, reader.url, f"unpack it in {folder.absolute()}"):
        # not reader(download=True), which leaves a damaged meta file as it is
        download_and_extract_archive(reader.url, folder, filename=reader.filename, md5=reader.tgz_md5)
        return reader(folder, **split)


@contextmanager
def downloading(name: str, place: Path, url: str, by_hand: str, elsewhere: str = "") -> Iterator[None]:
    """Say that `name` was looked for at `place` and is fetched from `url`; turn a failure into a UserError.

    by_hand: where a file fetched by other means goes. elsewhere: what to do if it lies in another place; for a data set
    that is to name its folder."""
    tqdm.write(f"{name} is missing or incomplete in {place}: downloading {url}")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALLED)
    try:
        yield
    except Exception as error:  # of the network, the archive, the disk or the checksum: a dozen kinds
        if name in DATASET_FOLDERS:
            elsewhere = f"name that folder in db_root_dir.{name}=... or in the environment ({DATASET_FOLDERS[name][1]})"
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{name} is missing or incomplete in {place}, and the download of {url} failed ({reason}): try again, or "
            f"download it by hand and {by_hand}; if it lies elsewhere, {elsewhere}"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
