import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download, snapshot_download

from hub_server import TOKEN, HubServer
from vitkit.checkpoint.hub import HubFolder, HubSource, download, parse, upload
from vitkit.errors import CheckpointError, ConfigError

ID = "org/vit"
SOURCE = HubSource(ID)
WEIGHTS = bytes(range(256)) * 40
FILES = {"config.json": b'{"a": 1}', "preprocessor_config.json": b"{}", "model.safetensors": WEIGHTS}


def load(folder: HubFolder) -> dict[str, bytes]:
    return {name: (folder.folder / name).read_bytes() for name in folder.files}


def refusal(source: HubSource = SOURCE, **options: bool) -> str:
    """The text of the error, which is one line and names the model."""
    with pytest.raises(CheckpointError) as caught:
        download(source, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert str(source) in text
    return text


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def blob_of(folder: HubFolder, name: str = "model.safetensors") -> Path:
    return (folder.folder / name).resolve()


@pytest.mark.parametrize(
    ("text", "repo_id", "revision"),
    [
        ("google/vit-base-patch16-224", "google/vit-base-patch16-224", None),
        ("timm/vit_tiny_patch16_224.augreg_in21k", "timm/vit_tiny_patch16_224.augreg_in21k", None),
        ("org/vit@v1.0", "org/vit", "v1.0"),
        ("org/vit@refs/pr/4", "org/vit", "refs/pr/4"),
        ("hf://org/vit@main", "org/vit", "main"),
        ("hf://models/org/vit", "org/vit", None),
        ("hf-hub:timm/vit", "timm/vit", None),
    ],
)
def test_ids_are_read_with_prefix_and_revision(text: str, repo_id: str, revision: str | None) -> None:
    assert parse(text) == HubSource(repo_id, revision)


@pytest.mark.parametrize(
    "text",
    ["", "vit", "a/b/c", "./org/vit", "/org/vit", "~/vit", "../vit", "C:\\org\\vit", "org/vit.git", "org/v--t",
     "org/a b", "org/", "/vit", "org/-vit", "org/vit.", "https://x/org/vit", "org/v..t", "ör/vit"],
)  # fmt: skip
def test_what_cannot_be_an_id_is_none(text: str) -> None:
    assert parse(text) is None


def test_two_revisions_must_agree() -> None:
    assert parse("org/vit@v1", revision="v1") == parse("org/vit", revision="v1") == HubSource(ID, "v1")
    with pytest.raises(ConfigError, match=r"org/vit@v1.*'v1'.*'v2'.*give one"):
        parse("org/vit@v1", revision="v2")


@pytest.mark.parametrize("revision", ["", "../../x", "a/../b", "/abs", "a b", "a\n", "-f", "a//b"])
def test_a_revision_cannot_leave_the_cache(revision: str) -> None:
    with pytest.raises(ConfigError, match=r"org/vit: .* can't be a revision; give a branch"):
        parse("org/vit", revision=revision)


def test_importing_the_module_imports_no_client() -> None:
    code = "import sys, vitkit.checkpoint.hub; sys.exit('huggingface_hub' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_only_needed_files_come_and_configuration_before_weights(hub: HubServer) -> None:
    unneeded = ["README.md", "pytorch_model.bin", "tf_model.h5", "onnx/model.onnx", "onnx/config.json", "a.npz"]
    unneeded += ["flax_model.msgpack.index.json", "model.safetensors.index.json"]
    extra = {name: name.encode() for name in [*unneeded, "vitkit.json"]}
    commit = hub.add(ID, extra | FILES | {"proof.safetensors": b"proof"})
    folder = download(SOURCE)
    expected = (
        "config.json",
        "preprocessor_config.json",
        "vitkit.json",
        "proof.safetensors",
        "model.safetensors",
    )
    assert folder == HubFolder(folder.folder, ID, commit, expected)
    assert tuple(hub.downloads()) == expected
    assert load(folder)["model.safetensors"] == WEIGHTS


def test_a_process_of_its_own_needs_only_the_environment_and_prints_nothing(hub: HubServer, tmp_path: Path) -> None:
    hub.add(ID, FILES)
    hub.faults["model.safetensors"] = "kill-once"  # of which the client would tell
    code = "from vitkit.checkpoint.hub import *; print(*download(parse('org/vit')).files)"
    environment = {**os.environ, **hub.environment(tmp_path / "other"), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("config.json preprocessor_config.json model.safetensors\n", "")


def test_pins_hold_and_branches_move(hub: HubServer) -> None:
    old = hub.add(ID, FILES)
    hub.add(ID, FILES, revision="v1")
    first = download(SOURCE)
    new = hub.add(ID, FILES | {"model.safetensors": b"new weights"})
    hub.add(ID, FILES | {"model.safetensors": b"branch"}, revision="feature/x")
    assert (first.commit, download(SOURCE).commit) == (old, new)
    assert load(download(SOURCE))["model.safetensors"] == b"new weights"
    assert load(download(HubSource(ID, "main")))["model.safetensors"] == b"new weights"
    assert load(download(HubSource(ID, "feature/x")))["model.safetensors"] == b"branch"
    for pin in (old, "v1"):
        assert load(download(HubSource(ID, pin)))["model.safetensors"] == WEIGHTS


def test_a_branch_that_moves_meanwhile_mixes_nothing(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import file_download

    hub.add(ID, FILES)
    genuine = file_download.http_get

    def move_then_get(*args: object, **options: object) -> None:
        hub.add(ID, dict.fromkeys(FILES, b"newer"))
        genuine(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(file_download, "http_get", move_then_get)
    assert load(download(SOURCE)) == FILES


def test_a_second_load_downloads_nothing(hub: HubServer) -> None:
    hub.add(ID, FILES)
    first = download(SOURCE)
    hub.requests.clear()
    assert download(SOURCE) == first
    assert hub.requests == [f"GET /api/models/{ID}"]


def test_a_renamed_model_is_followed(hub: HubServer) -> None:
    hub.add(ID, FILES)
    hub.moved["old/name"] = ID
    assert load(download(HubSource("old/name"))) == FILES


def test_shards_named_by_the_index_come(hub: HubServer) -> None:
    index = {"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors", "c": "model-1.safetensors"}}
    files = {
        "config.json": b"{}",
        "model.safetensors.index.json": json.dumps(index).encode(),
        "model-1.safetensors": b"one",
        "model-2.safetensors": b"two",
    }
    hub.add(ID, files | {"unnamed.safetensors": b"other"})
    assert load(download(SOURCE)) == files

    del files["model-2.safetensors"]
    hub.add(ID, files)
    assert "names shards the model lacks: model-2.safetensors" in refusal()
    hub.add(ID, files | {"model.safetensors.index.json": b"[]"})
    assert "model.safetensors.index.json isn't an index of shards" in refusal()


def test_pickles_are_refused_with_the_command_that_converts_them(hub: HubServer) -> None:
    hub.add(ID, {"config.json": b"{}", "pytorch_model.bin": b"pickle"}, revision="v1")
    source = HubSource(ID, "v1")
    text = refusal(source)
    assert "pytorch_model.bin" in text
    assert "`vitkit convert org/vit@v1 -o FOLDER`" in text
    assert hub.downloads() == []
    assert load(download(source, allow_pickle=True))["pytorch_model.bin"] == b"pickle"


def test_safetensors_are_preferred_to_pickles(hub: HubServer) -> None:
    hub.add(ID, FILES | {"pytorch_model.bin": b"pickle"})
    assert "pytorch_model.bin" not in download(SOURCE, allow_pickle=True).files


def test_several_pickles_are_a_choice_to_make(hub: HubServer) -> None:
    hub.add(ID, {"a.pth": b"1", "b.pth": b"2"})
    assert "several pickled files (a.pth; b.pth); download one" in refusal(allow_pickle=True)


def test_no_weights_at_all(hub: HubServer) -> None:
    hub.add(ID, {"config.json": b"{}", "open_clip_model.onnx": b""})
    text = refusal()
    assert "no weights" in text
    assert "config.json; open_clip_model.onnx; choose a model with safetensors" in text


def test_offline_uses_the_cache(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    old = hub.add(ID, FILES)
    online = download(SOURCE)
    hub.requests.clear()
    with monkeypatch.context() as patch:
        go_offline(patch)
        assert download(SOURCE) == download(HubSource(ID, "main")) == download(HubSource(ID, old)) == online
    assert hub.requests == []
    hub.faults["api"] = "503"
    assert download(SOURCE) == online
    hub.faults["api"] = "stall"
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    assert download(SOURCE) == online
    hub.close()
    assert download(SOURCE) == online
    assert "Connection refused" in refusal(HubSource("org/other"))


def test_a_gone_or_forbidden_model_is_not_served_from_the_cache(hub: HubServer) -> None:
    hub.add(ID, FILES)
    download(SOURCE)
    del hub.repos[ID]
    assert "no such model" in refusal()


def test_offline_with_nothing_cached(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(ID, FILES)
    download(SOURCE)
    go_offline(monkeypatch)
    for source in (HubSource("org/other"), HubSource(ID, "v2"), HubSource(ID, "0" * 40)):
        text = refusal(source)
        assert "HF_HUB_OFFLINE is set, and the cache" in text
        assert text.endswith("unset it to reach the Hub")


def test_no_connection_and_nothing_cached(hub: HubServer) -> None:
    hub.close()
    text = refusal()
    assert f"the connection to {hub.url} failed" in text
    assert "Connection refused" in text
    assert text.endswith("check the network and try again")


def test_a_part_of_a_model_is_not_used_offline(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(ID, FILES)
    hub.faults["model.safetensors"] = "503"
    refusal()
    folder = Path(snapshot_download(ID, allow_patterns="config.json"))  # another program notes the branch
    assert (folder / "config.json").is_file()
    go_offline(monkeypatch)
    assert "isn't whole: model.safetensors is missing" in refusal()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.faults.clear()
    complete = download(SOURCE)
    (complete.folder / "preprocessor_config.json").unlink()
    go_offline(monkeypatch)
    text = refusal()
    assert "preprocessor_config.json is missing" in text
    assert "load it once with a connection" in text


def fill_as_snapshot() -> None:
    snapshot_download(ID)


def fill_by_file() -> None:
    for name in FILES:
        hf_hub_download(ID, name)


@pytest.mark.parametrize("fill", [fill_as_snapshot, fill_by_file])
def test_a_cache_filled_by_another_program_serves_offline(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, fill: Callable[[], None]
) -> None:
    hub.add(ID, FILES | {"README.md": b"card"})
    fill()
    go_offline(monkeypatch)
    folder = download(SOURCE)
    assert load(folder) == FILES
    blob_of(folder).write_bytes(flip_a_bit(WEIGHTS))
    assert "the cached model.safetensors is broken" in refusal()


def truncate(data: bytes) -> bytes:
    return data[:-1]


def flip_a_bit(data: bytes) -> bytes:
    return data[:99] + bytes([data[99] ^ 4]) + data[100:]


@pytest.mark.parametrize("damage", [truncate, flip_a_bit])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("offline", [False, True])
def test_a_broken_cache_never_loads(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes], name: str, offline: bool
) -> None:
    files = FILES | {"config.json": WEIGHTS}
    hub.add(ID, files)
    folder = download(SOURCE)
    blob = blob_of(folder, name)
    blob.write_bytes(damage(files[name]))
    with monkeypatch.context() as patch:
        if offline:
            go_offline(patch)
        text = refusal()
    right = hashlib.sha256(WEIGHTS) if name == "model.safetensors" else hashlib.sha1(b"blob 10240\0" + WEIGHTS)
    assert f"the cached {name} is broken" in text
    assert right.hexdigest()[:12] in text
    assert f"delete {str(blob)!r} and load again" in text

    blob.unlink()  # the remedy helps
    assert load(download(SOURCE)) == files


def test_bytes_that_change_on_the_way_never_load(hub: HubServer) -> None:
    hub.add(ID, FILES)
    hub.faults["model.safetensors"] = "flip"
    assert "the cached model.safetensors is broken" in refusal()
    assert "the cached model.safetensors is broken" in refusal()


def test_a_blob_in_the_shared_store_is_not_taken_for_its_name(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client keeps xet files at <cache>/blobs/<2>/<xet hash>, 64 digits that aren't the sha256."""
    hub.add(ID, FILES)
    fill_by_file()
    blob = next(path for path in Path(constants.HF_HUB_CACHE).glob("*/blobs/*") if path.read_bytes() == WEIGHTS)
    store = Path(constants.HF_HUB_CACHE) / "blobs" / "ab" / ("ab" * 32)
    store.parent.mkdir(parents=True)
    blob.rename(store)
    blob.symlink_to(store)
    go_offline(monkeypatch)
    assert load(download(SOURCE)) == FILES
    store.write_bytes(b"else")
    assert f"delete {str(store)!r}" in refusal()


@pytest.mark.parametrize("offline", [False, True])
def test_without_symlinks_bytes_are_checked_all_the_same(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    hub.add(ID, FILES)
    folder = download(SOURCE)
    path = folder.folder / "model.safetensors"
    assert not path.is_symlink()
    assert load(folder) == FILES
    path.write_bytes(WEIGHTS[:-1])
    with monkeypatch.context() as patch:
        if offline:
            go_offline(patch)
        assert f"delete {str(path)!r} and load again" in refusal()
    path.unlink()
    assert load(download(SOURCE)) == FILES


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_download_cut_once_is_resumed_at_once(hub: HubServer, name: str) -> None:
    hub.add(ID, FILES)
    hub.faults[name] = "kill-once"
    assert load(download(SOURCE)) == FILES


def test_a_download_cut_for_good_leaves_nothing_and_a_later_one_succeeds(hub: HubServer) -> None:
    hub.add(ID, FILES)
    hub.faults["model.safetensors"] = "kill"
    text = refusal()
    assert "the connection to" in text
    assert text.endswith("try again")
    blobs = {path.read_bytes() for path in Path(constants.HF_HUB_CACHE).glob("*/blobs/*")}
    assert blobs == {FILES["config.json"], FILES["preprocessor_config.json"]}
    hub.faults.clear()
    hub.requests.clear()
    assert load(download(SOURCE)) == FILES
    assert hub.downloads() == ["model.safetensors"]


@pytest.mark.parametrize("place", ["api", "config.json", "model.safetensors", "head"])
def test_a_silent_server_ends_in_an_error(hub: HubServer, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    hub.add(ID, FILES)
    hub.faults.update({"model.safetensors": "head-stall"} if place == "head" else {place: "stall"})
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    text = refusal()
    assert f"{hub.url} is silent for 0.2 s" in text
    assert "HF_HUB_ETAG_TIMEOUT=60" in text


@pytest.mark.parametrize("place", ["api", "config.json", "model.safetensors", "head"])
def test_a_server_in_trouble(hub: HubServer, place: str) -> None:
    hub.add(ID, FILES)
    hub.faults.update({"model.safetensors": "head-503"} if place == "head" else {place: "503"})
    text = refusal()
    assert "the Hub is in trouble (503)" in text
    assert "try again in a minute" in text


def test_too_many_requests(hub: HubServer) -> None:
    hub.add(ID, FILES)
    hub.faults["api"] = "429"
    assert "fewer requests (429)" in refusal()


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_gated_model(hub: HubServer, monkeypatch: pytest.MonkeyPatch, token: str | None) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    hub.add(ID, FILES)
    hub.gated.add(ID)
    text = refusal()
    assert "the model is gated" in text
    assert f"ask for access at {hub.url}/{ID}, then log in with `hf auth login`" in text


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_missing_model(hub: HubServer, monkeypatch: pytest.MonkeyPatch, token: str | None) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    text = refusal()
    assert f"{hub.url} has no such model, and there is no local path 'org/vit';" in text
    assert "private: log in with `hf auth login`" in text


def test_a_missing_model_that_was_meant_as_a_path(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "flowers-1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "no local path 'runs/flower-1'; nearest: runs/flowers-1;" in refusal(HubSource("runs/flower-1"))


def test_a_bad_token(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    hub.add(ID, FILES)
    text = refusal()
    assert "refuses the access token (401)" in text
    assert "`hf auth login`, or unset HF_TOKEN" in text
    assert "hf_wrong" not in text


def test_a_missing_revision(hub: HubServer) -> None:
    hub.add(ID, FILES)
    for revision in ("v9", "0" * 40):
        text = refusal(HubSource(ID, revision))
        assert f"no revision {revision!r}" in text
        assert f"choose a branch, tag or commit of {hub.url}/{ID}" in text


def test_a_cache_that_cannot_be_written(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file"))
    hub.add(ID, FILES)
    text = refusal()
    assert "can't be used" in text
    assert "set HF_HOME" in text


def test_an_endpoint_that_is_no_hub(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub_server._HubHandler.route", lambda handler: handler.answer(200, b"<html>Log in</html>"))
    text = refusal()
    assert "doesn't answer as a Hub does" in text
    assert "check HF_ENDPOINT" in text


def test_the_clients_log_level_is_restored(hub: HubServer) -> None:
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    refusal()
    assert logging.get_verbosity() == before


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "saved"
    folder.mkdir()
    for name, content in (FILES | {"README.md": b"---\nlicense: mit\n---\n", "vitkit.json": b"{}"}).items():
        (folder / name).write_bytes(content)
    return folder


def test_what_is_uploaded_is_what_is_downloaded(hub: HubServer, saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
    url = upload(saved, ID, token=TOKEN, message="first")
    commit = hub.repos[ID].refs["main"]
    assert url == f"{hub.url}/{ID}/commit/{commit}"
    folder = download(SOURCE)
    assert folder.commit == commit
    assert load(folder) == FILES | {"vitkit.json": b"{}"}

    (saved / "model.safetensors").write_bytes(os.urandom(12_000_000))
    upload(saved, ID, token=TOKEN, message="second")
    assert load(download(SOURCE))["model.safetensors"] == (saved / "model.safetensors").read_bytes()
    assert load(download(HubSource(ID, commit)))["model.safetensors"] == WEIGHTS
    assert capfd.readouterr() == ("", "")


def test_an_upload_without_a_token(hub: HubServer, saved: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"^org/vit: .*access token; log in with `hf auth login`, or set HF_TOKEN$"
    ):
        upload(saved, ID, message="x")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("503", r"in trouble \(503\)"),
        ("stall", "is silent"),
        ("403", r"forbids it \(403\)"),
        (None, "Connection refused"),
    ],
)
def test_an_upload_that_fails_says_why(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, saved: Path, fault: str | None, said: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    if fault is None:
        hub.close()
    else:
        hub.faults["api"] = fault
    with pytest.raises(CheckpointError, match=rf"^org/vit: .*{said}.*$"):
        upload(saved, ID, token=TOKEN, message="x")


def test_an_upload_with_a_refused_token(hub: HubServer, saved: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"^org/vit: the Hub refuses the access token \(401\); .*hf auth login.*$"
    ):
        upload(saved, ID, token="hf_wrong", message="x")


def test_an_upload_needs_an_id_and_a_folder(saved: Path, tmp_path: Path) -> None:
    for wrong in ("vit", "org/vit@main"):
        with pytest.raises(ConfigError, match="give it as ORG/NAME"):
            upload(saved, wrong, token=TOKEN, message="x")
    with pytest.raises(ConfigError, match="save the model there first"):
        upload(tmp_path / "none", ID, token=TOKEN, message="x")
