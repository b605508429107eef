"""The README runs as printed: every fenced command and script against a loopback Hub; its numbers compared."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

import vitkit
from hub_server import HubServer
from small import SHARED, picture_file
from texts import two_towers
from vitkit.checkpoint.card import imagenet1k
from vitkit.checkpoint.presets import PRESETS
from vitkit.model.build import build
from vitkit.model.mae import MaskedAutoencoder

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TINY = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"


def timm_repository(weights: bytes) -> dict[str, bytes]:
    """The files of timm's repository of ViT-Ti/16, as the Hub has them."""
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 1000,
        "num_features": 192,
        "global_pool": "token",
        "pretrained_cfg": {
            "tag": "augreg_in21k_ft_in1k",
            "custom_load": False,
            "input_size": [3, 224, 224],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 0.9,
            "crop_mode": "center",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": 1000,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "license": "apache-2.0",
        },
    }
    return {"config.json": json.dumps(config).encode(), "model.safetensors": weights}


def google_repository(folder: Path) -> dict[str, bytes]:
    """A repository in the layout of google/vit-base-patch16-224: its width and classes, but one random block."""
    model = vitkit.VisionTransformer(depth=1, mlp_dim=64, norm_eps=1e-12, position_resample="bicubic")
    torch.nn.init.normal_(model.head.weight, std=0.05)  # type: ignore[arg-type]
    preprocess = vitkit.Preprocess(
        size=(224, 224), resize="squash", crop="none", interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    vitkit.save(model, folder, preprocess=preprocess, class_names=imagenet1k()[1], layout="hf")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def clip_repository(folder: Path) -> dict[str, bytes]:
    """A repository in the layout of openai/clip-vit-base-patch32: its sizes outside, but two random blocks."""
    model = two_towers(image_size=224, patch_size=32, pre_norm=True, projection_dim=512)
    preprocess = PRESETS["clip-vit-base-patch32"].preprocess
    vitkit.save(model, folder, preprocess=preprocess, layout="hf")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def mae_repository(folder: Path) -> dict[str, bytes]:
    """A repository in the layout of facebook/vit-mae-base: its decoder and all, small and random."""
    sizes = {"embed_dim": 32, "depth": 1, "num_heads": 2, "mlp_dim": 64}
    decoder = {"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2, "decoder_mlp_dim": 64}
    model = MaskedAutoencoder(**sizes, **decoder, position_resample="bicubic")  # type: ignore[arg-type]
    preprocess = vitkit.Preprocess(
        size=(224, 224), resize="squash", crop="none", interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    vitkit.save(model, folder, preprocess=preprocess, layout="hf")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


class AnyPicture(BaseHTTPRequestHandler):
    """A proxy that answers every request with one picture: the README's URL needs no network."""

    content = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def shared_or_none() -> Path | None:
    return SHARED if SHARED.is_dir() else None


@pytest.fixture(scope="module")
def desk(
    tmp_path_factory: pytest.TempPathFactory, shared_or_none: Path | None
) -> Iterator[tuple[Path, dict[str, str]]]:
    """A working folder as the README supposes it, and the environment in which its commands run."""
    folder = tmp_path_factory.mktemp("desk")
    for name in ("pictures/a.jpg", "pictures/b.jpg", "labelled/tench/1.jpg", "labelled/n01443537/2.jpg"):
        picture_file(folder / name, 120, 150, seed=len(name))
    for number in range(18):
        picture_file(folder / f"flowers/{('daisy', 'rose', 'tulip')[number % 3]}/{number}.jpg", 40, 40, seed=number)
    (folder / "labels.txt").write_text("a fish\na dog\na tractor\n")
    (folder / "labels.csv").write_text('path,label\npictures/a.jpg,0\npictures/b.jpg,"goldfish, Carassius auratus"\n')
    if shared_or_none is None:
        picture_file(folder / "tench.jpg", 120, 150)
        weights = save(build(PRESETS["vit_tiny_patch16_224"].model).state_dict())
    else:
        shutil.copy(shared_or_none / "data/photos/n01440764_tench.JPEG", folder / "tench.jpg")
        weights = (shared_or_none / "weights/vit_tiny_patch16_224.safetensors").read_bytes()
    AnyPicture.content = (folder / "pictures/a.jpg").read_bytes()
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), AnyPicture)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    with HubServer() as hub:
        hub.add(TINY, timm_repository(weights))
        hub.add("google/vit-base-patch16-224", google_repository(folder / "google"))
        hub.add("openai/clip-vit-base-patch32", clip_repository(folder / "clip"))
        hub.add("facebook/vit-mae-base", mae_repository(folder / "mae"))
        for name in ("google", "clip", "mae"):
            shutil.rmtree(folder / name)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
            **hub.environment(folder / ".cache"),
            "http_proxy": f"http://127.0.0.1:{proxy.server_port}",
            "no_proxy": "127.0.0.1,localhost",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        yield folder, environment
    proxy.shutdown()
    proxy.server_close()


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_readme_runs_as_printed(desk: tuple[Path, dict[str, str]], shared_or_none: Path | None) -> None:
    folder, environment = desk
    printed = None
    kinds = []
    for kind, content in BLOCK.findall(README.read_text(encoding="utf-8")):
        kinds.append(kind)
        if kind == "bash":
            printed = run(["bash", "-euo", "pipefail", "-c", content], folder, environment)
        elif kind == "python":
            run([sys.executable, "-W", "error", "-c", content + shape_checks(content)], folder, environment)
        elif kind == "text":
            # What random weights would say about another picture isn't what is printed.
            if shared_or_none is not None or "tench.jpg" not in content:
                assert printed == content
        else:
            raise AssertionError(f"a README block of kind {kind!r} isn't run: use bash, python or text")
    assert kinds.count("bash") >= 5 and kinds.count("python") >= 2 and kinds.count("text") >= 2
    assert len(json.loads((folder / "scores.json").read_text())["per_class"]) == 2
    assert "held-out pictures are named rightly" in (folder / "runs/flowers/report.html").read_text()
    assert (folder / "why.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "mae.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert len((folder / "answers.jsonl").read_text().splitlines()) == 2


def shape_checks(content: str) -> str:
    """Assertions for a script: where a comment gives a shape in brackets, the value of the line has that shape."""
    claims = re.findall(r"^(?:\w+ = )?(.+?)  # .*?\[([\d, ]+)\]", content, re.MULTILINE)
    return "\n" + "\n".join(f"assert list(({code}).shape) == [{shape}], {code!r}" for code, shape in claims)


def test_the_readme_names_files_that_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target
