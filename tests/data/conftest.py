"""Fixtures for the tests of data: images (photographs and edge cases of the operations), and a web server."""

import threading
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images


@cache
def _photographs() -> list[Image.Image]:
    return [Image.fromarray(photograph) for photograph in load_sample_images().images]  # 640 x 427


@cache
def _pictures(height: int, width: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    pictures = []
    for number in range(24):  # from enlarged details to shrunk scenes
        photograph, side = _photographs()[number % 2], int(rng.integers(12, 420))
        left, top = (int(rng.integers(0, length - side + 1)) for length in photograph.size)
        box = (left, top, left + side, top + side)
        pictures.append(photograph.resize((width, height), Image.BILINEAR, box))
    colours = ["black", "white", "red", "lime", "blue", "yellow", (90, 90, 90), (1, 2, 3), (254, 255, 254)]
    pictures += [Image.new("RGB", (width, height), colour) for colour in colours]
    images = np.stack([np.asarray(picture) for picture in pictures] + [np.asarray(pictures[0])] * 4)
    images[-4, :, :, 1] = 77  # one flat channel
    images[-3] = 255 * (images[-3] > 110)  # nothing but pure colours
    images[-2, 5:] = 255  # nearly white: too few other pixels for a histogram to be equalized
    images[-1] = rng.integers(0, 256, images[-1].shape)  # noise
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


@pytest.fixture
def pictures():
    """pictures(height, width) -> uint8 (37, 3, height, width)."""
    return lambda height, width: _pictures(height, width).clone()


@pytest.fixture(params=[(32, 32), (24, 40)], ids=["square", "oblong"])
def images(request, pictures):
    return pictures(*request.param)


@pytest.fixture
def address(tmp_path, monkeypatch):
    """The address under which a server on this machine offers the files in tmp_path/server."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "server")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
