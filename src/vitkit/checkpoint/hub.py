"""Models on the Hugging Face Hub: one commit at a time, only the files a model needs, every byte checked before use.

The cache is the client's own, in its documented layout: `refs/<branch>` holds a commit, `snapshots/<commit>/<file>`
points to `blobs/<etag>` (https://huggingface.co/docs/huggingface_hub/guides/manage-cache). Beside those stands
`vitkit/<commit>.json`, the commit's file list with digests: it tells a whole snapshot from a part without network,
and lets bytes be checked where a file system without symlinks doesn't keep the blobs' names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vitkit.errors import CheckpointError, ConfigError, VitkitError, list_faults, nearest
from vitkit.files import replace_file, sha256_of

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile, RepoSibling

__all__ = ["HubFolder", "HubSource", "download", "parse", "upload"]

_WEIGHTS, _WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
_OPENCLIP_WEIGHTS = "open_clip_model.safetensors"
_OTHERS = ("proof.safetensors", "merges.txt")
_PICKLE, _PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

# The Hub's rule for names: ASCII letters, digits, "-", "_", ".", neither first nor last a "-" or ".".
_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_SOURCE = re.compile(rf"(?:hf://(?:models/)?|hf-hub:)?(?P<repo_id>{_NAME}/{_NAME})(?:@(?P<revision>.*))?")
# Narrower than git's rule, and never a way out of the cache's refs folder.
_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9_.+@-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.+@-]*)*")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubSource:
    """A model on the Hub: `repo_id` is "org/name"; `revision` a branch, tag or commit, None for the default branch."""

    repo_id: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo_id if self.revision is None else f"{self.repo_id}@{self.revision}"


@dataclass(frozen=True)
class HubFolder:
    """A downloaded commit: `files` lie in `folder`, belong to `commit` (40 hexadecimal digits) and are checked."""

    folder: Path
    repo_id: str
    commit: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class _Listing:
    """The files of one commit and their digests: sha256, git's sha1, or "" where it isn't known."""

    commit: str
    digests: dict[str, str]

    @property
    def names(self) -> list[str]:
        """The files at the top level, sorted: nothing else is ever fetched."""
        return sorted(name for name in self.digests if "/" not in name)


def parse(source: str, *, revision: str | None = None) -> HubSource | None:
    """Reads "org/name" or "org/name@revision", also with "hf://" or "hf-hub:" before it; None if it can't be a Hub id.

    Raises ConfigError where `revision` contradicts the one in `source`, or can't be the name of one.
    """
    found = _SOURCE.fullmatch(source)
    if found is None or (repo_id := found["repo_id"]).endswith(".git") or "--" in repo_id or ".." in repo_id:
        return None
    named = found["revision"]
    if named is not None and revision is not None and named != revision:
        raise ConfigError(f"{source!r} names revision {named!r}, but the revision {revision!r} is asked for; give one")
    chosen = revision if named is None else named
    if chosen is not None and not _REVISION.fullmatch(chosen):
        raise ConfigError(f"{repo_id}: {chosen!r} can't be a revision; give a branch, a tag or a commit")
    return HubSource(repo_id, chosen)


def download(source: HubSource, *, allow_pickle: bool = False) -> HubFolder:
    """Brings the model's files into the client's cache, configuration first and weights last, and checks every one.

    The revision is resolved once and all files come from that commit, so a branch that moves meanwhile can't mix two
    versions. Only the top-level JSON files, `proof.safetensors`, `merges.txt` and the weights are fetched:
    `model.safetensors` or the shards its index names, else OpenCLIP's `open_clip_model.safetensors`, or, with
    `allow_pickle` and in their absence, the pickled file. Without a connection (or with HF_HUB_OFFLINE=1) the cached
    commit is used, if it is whole.

    Each load compares the bytes with the digest that the Hub states for the commit (sha256 of large files, git's sha1
    of small ones). Offline it is the digest noted at the download. For what another program cached it is the client's
    list of the snapshot or else the blob's name; where there is neither (by-file downloads on a file system without
    symlinks, as on Windows), and only there, a file goes unchecked, and it can't be told whether files are missing.

    Questions to the Hub time out after HF_HUB_ETAG_TIMEOUT seconds; a transfer that stands still for six times
    HF_HUB_DOWNLOAD_TIMEOUT (10 s each by default) ends. Raises CheckpointError, one line with the id and the remedy.
    """
    with _explaining(source):
        listing, online = _list_files(source)
        weights = _choose_weights(source, listing, allow_pickle=allow_pickle)
        names = [name for name in listing.names if name.endswith(".json") and not _is_index(name)]
        names += [name for name in listing.names if name in _OTHERS]
        for name in names:
            _fetch(source, listing, name, online=online)
        path = _fetch(source, listing, weights, online=online)
        names.append(weights)
        if _is_index(weights):
            shards = _read_shards(source, path)
            if missing := [shard for shard in shards if shard not in listing.names]:
                raise CheckpointError(f"{source}: {weights} names shards the model lacks: {list_faults(missing)}")
            for shard in shards:
                _fetch(source, listing, shard, online=online)
            names += shards
        if online:
            _remember(source, listing, path.parent)
        return HubFolder(path.parent, source.repo_id, listing.commit, tuple(names))


def upload(folder: Path, repo_id: str, *, private: bool = False, token: str | None = None, message: str) -> str:
    """Uploads the files of `folder` to the model "org/name", which is made if need be; returns the commit's URL.

    `private=False` leaves a new model's visibility to the account's default. Raises ConfigError for a wrong id or
    folder and CheckpointError, one line with the id and the remedy, for everything that the Hub or the way there does.
    """
    target = parse(repo_id)
    if target is None or target.revision is not None:
        raise ConfigError(f"{repo_id!r} isn't the id of a model to upload to; give it as ORG/NAME")
    if not folder.is_dir() or not any(folder.iterdir()):
        raise ConfigError(f"{repo_id}: can't upload {str(folder)!r}, no folder with files; save the model there first")
    with _explaining(target):
        from huggingface_hub import HfApi, constants, get_token
        from huggingface_hub.errors import RepositoryNotFoundError

        if token is None and get_token() is None:
            raise CheckpointError(
                f"{repo_id}: uploading needs an access token; log in with `hf auth login`, or set HF_TOKEN"
            )
        api = HfApi(token=token)
        # The client waits for create_repo's answer without a limit; this question shows whether the Hub answers.
        with contextlib.suppress(RepositoryNotFoundError):
            api.model_info(target.repo_id, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        api.create_repo(target.repo_id, private=private or None, exist_ok=True)
        with warnings.catch_warnings():
            # The client 2.4.0 sends large files with a keyword that its HTTP library has deprecated.
            warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)
            commit = api.upload_folder(repo_id=target.repo_id, folder_path=folder, commit_message=message)
        return commit.commit_url


def _list_files(source: HubSource) -> tuple[_Listing, bool]:
    """Asks the Hub which commit the revision is and what it holds, or else the cache; True if the Hub answered."""
    from huggingface_hub import HfApi, constants

    try:
        info = HfApi().model_info(
            source.repo_id, revision=source.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
    except Exception as error:
        if not _is_unreachable(error):
            raise
        return _recall(source, error), False
    if not _COMMIT.fullmatch(info.sha or ""):
        raise CheckpointError(f"{source}: {constants.ENDPOINT} names no commit ({info.sha!r}); check HF_ENDPOINT")
    return _Listing(str(info.sha), {file.rfilename: _digest(file) for file in info.siblings or ()}), True


def _digest(file: RepoSibling | RepoFile) -> str:
    """What the Hub calls the bytes: a large file's sha256 (its blob_id is a pointer's), of the others git's sha1."""
    return (file.blob_id if file.lfs is None else file.lfs.sha256) or ""


def _recall(source: HubSource, unreachable: Exception) -> _Listing:
    """The cached commit of the revision: as noted at its download, else as the client listed it or as it lies there."""
    from huggingface_hub import constants, get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    try:
        # No pattern, no file asked for: this only resolves the revision. Whether the files are there, `_fetch` tells.
        folder = Path(
            snapshot_download(source.repo_id, revision=source.revision, local_files_only=True, allow_patterns=[])
        )
    except LocalEntryNotFoundError:
        fault, remedy = _explain(source, unreachable)
        raise CheckpointError(
            f"{source}: {fault}, and the cache {constants.HF_HUB_CACHE!r} doesn't hold it; {remedy}"
        ) from unreachable
    with contextlib.suppress(OSError, ValueError):
        return _Listing(folder.name, dict(json.loads(_note(folder).read_text(encoding="utf-8"))))
    with contextlib.suppress(CachedRepoTreeNotFoundError):  # the client keeps one of what it fetched as a snapshot
        tree = get_cached_repo_tree(source.repo_id, revision=folder.name)
        return _Listing(folder.name, {file.path: _digest(file) for file in tree})
    return _Listing(folder.name, {path.name: "" for path in folder.iterdir()})


def _remember(source: HubSource, listing: _Listing, folder: Path) -> None:
    """Notes the file list and then the revision, once all files are there: what can be found offline is whole."""
    branch = source.revision or "main"
    notes = {_note(folder): json.dumps(listing.digests, indent=1)}
    if not _COMMIT.fullmatch(branch):
        notes[folder.parents[1] / "refs" / branch] = listing.commit
    for path, text in notes.items():
        with contextlib.suppress(OSError):  # a cache shared read-only serves all the same
            if path.is_file() and path.read_text(encoding="utf-8") == text:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(path) as part:
                part.write_text(text, encoding="utf-8")


def _note(folder: Path) -> Path:
    """Where the file list of the snapshot in `folder` is noted."""
    return folder.parents[1] / "vitkit" / f"{folder.name}.json"


def _is_index(name: str) -> bool:
    return name.endswith(".index.json")


def _choose_weights(source: HubSource, listing: _Listing, *, allow_pickle: bool) -> str:
    """Names the file that holds the weights, or the index of its shards."""
    for name in (_WEIGHTS, _WEIGHTS_INDEX, _OPENCLIP_WEIGHTS):
        if name in listing.digests:
            return name
    pickles = [name for name in (_PICKLE, _PICKLE_INDEX) if name in listing.digests][:1]
    pickles = pickles or [name for name in listing.names if name.endswith((".pth", _PICKLE))]
    if not pickles:
        held = list_faults(listing.names) or "no files"
        raise CheckpointError(
            f"{source}: there are no weights to read, neither {_WEIGHTS} nor its shards; it holds {held}; "
            "choose a model with safetensors"
        )
    if not allow_pickle:
        raise CheckpointError(
            f"{source}: its weights are pickled ({list_faults(pickles)}), and unpickling can run code; "
            f"run `vitkit convert {source} -o FOLDER` once, which reads tensors only, and load FOLDER"
        )
    if len(pickles) > 1:
        raise CheckpointError(
            f"{source}: it holds several pickled files ({list_faults(pickles)}); download one and convert that file"
        )
    return pickles[0]


def _read_shards(source: HubSource, index: Path) -> list[str]:
    """The names of the shards in an index: {"weight_map": {tensor: file}}."""
    try:
        return sorted({str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{source}: {index.name} isn't an index of shards (a JSON object with a weight_map); use another revision"
        ) from error


def _fetch(source: HubSource, listing: _Listing, name: str, *, online: bool) -> Path:
    """The checked file's path in the cache, after downloading it if it isn't there."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    cached = try_to_load_from_cache(source.repo_id, name, revision=listing.commit)
    if isinstance(cached, str):
        path = Path(cached)
    elif online:
        # hf_hub_download asks again for up to six minutes where the Hub is silent; asked once, it is known in seconds.
        url = hf_hub_url(source.repo_id, name, revision=listing.commit)
        get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        path = Path(hf_hub_download(source.repo_id, name, revision=listing.commit))
    else:
        raise CheckpointError(
            f"{source}: the Hub can't be asked, and the cached copy isn't whole: {name} is missing; "
            "load it once with a connection (and without HF_HUB_OFFLINE)"
        )
    _check(source, path, listing.digests.get(name, ""))
    return path


def _check(source: HubSource, path: Path, listed: str) -> None:
    """Raises CheckpointError if the file's bytes aren't what the Hub calls by this digest."""
    # One step along the link, no more: a blob can itself point into a store shared by all models, where files are
    # named by a hash of another kind that has 64 digits too (xet's).
    expected = listed or (path.readlink().name if path.is_symlink() else "")
    if len(expected) == 64:
        kind, actual = "sha256", sha256_of(path)
    elif len(expected) == 40:
        data = path.read_bytes()
        kind, actual = "git sha1", hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    else:
        return
    if actual != expected:
        raise CheckpointError(
            f"{source}: the cached {path.name} is broken: its {kind} is {actual[:12]}, the Hub's {expected[:12]}; "
            f"delete {str(path.resolve())!r} and load again"
        )


@contextlib.contextmanager
def _explaining(source: HubSource) -> Iterator[None]:
    """Turns what the client raises inside into one line; meanwhile it logs no retries and draws only on a terminal."""
    from huggingface_hub import constants
    from huggingface_hub.utils import logging as client_logging
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    verbosity = client_logging.get_verbosity()
    client_logging.set_verbosity(logging.ERROR)
    drawing = constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not are_progress_bars_disabled()
    hidden = drawing and not (sys.stderr is not None and sys.stderr.isatty())
    if hidden:
        disable_progress_bars()
    try:
        yield
    except VitkitError:
        raise
    # The HTTP library's errors share no base with the client's own, and the library differs between its versions.
    except Exception as error:
        fault, remedy = _explain(source, error)
        raise CheckpointError(f"{source}: {fault}; {remedy}") from error
    finally:
        client_logging.set_verbosity(verbosity)
        if hidden:
            enable_progress_bars()


def _is_unreachable(error: Exception) -> bool:
    """Whether the Hub gave no answer of its own, so that the cache may speak for it: not where it refused."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    return isinstance(error, OfflineModeIsEnabled) or _is_transport(error)


def _is_transport(error: Exception) -> bool:
    """Whether it is the HTTP library's error (httpx's or httpx2's, by the client's version) for a failed connection."""
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


def _explain(source: HubSource, error: BaseException) -> tuple[str, str]:
    """The fault and its remedy, in a few words each."""
    from huggingface_hub import constants, errors

    while isinstance(error, errors.LocalEntryNotFoundError | RuntimeError) and error.__cause__ is not None:
        error = error.__cause__  # "An error happened while ...": what happened is the cause
    page = f"{constants.ENDPOINT}/{source.repo_id}"
    said = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    match error:
        case errors.OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set", "unset it to reach the Hub"
        case errors.GatedRepoError():
            return "the model is gated", f"ask for access at {page}, then log in with `hf auth login`"
        case errors.RepositoryNotFoundError():
            return (
                f"{constants.ENDPOINT} has no such model{_no_local_path(source.repo_id)}",
                "check the name; or if it is private: log in with `hf auth login`",
            )
        case errors.RevisionNotFoundError():
            return f"the model has no revision {source.revision!r}", f"choose a branch, tag or commit of {page}"
        case errors.HfHubHTTPError():
            status = error.response.status_code
            if status == 401:
                return "the Hub refuses the access token (401)", "log in again with `hf auth login`, or unset HF_TOKEN"
            if status == 403:
                return "the Hub forbids it (403)", "check what the access token may do, or `hf auth login` with another"
            if status == 429:
                return "the Hub asks for fewer requests (429)", "wait some minutes, or log in with `hf auth login`"
            if status >= 500:
                return f"the Hub is in trouble ({status})", "try again in a minute; what is downloaded is kept"
            return f"the Hub answers {status} for {error.response.url.path}", f"see {page}"
        case Exception() if _is_transport(error) and "Timeout" in type(error).__name__:
            waited_s = max(constants.HF_HUB_ETAG_TIMEOUT, constants.HF_HUB_DOWNLOAD_TIMEOUT)
            return (
                f"{constants.ENDPOINT} is silent for {waited_s} s",
                "try again, or give it longer: HF_HUB_ETAG_TIMEOUT=60 HF_HUB_DOWNLOAD_TIMEOUT=60",
            )
        case Exception() if _is_transport(error):
            return f"the connection to {constants.ENDPOINT} failed ({said})", "check the network and try again"
        case OSError() if error.errno is not None:
            return f"the cache {constants.HF_HUB_CACHE!r} can't be used ({said})", "free it, or set HF_HOME to another"
        case json.JSONDecodeError():
            return f"{constants.ENDPOINT} doesn't answer as a Hub does ({said})", "check HF_ENDPOINT and the network"
        case ValueError():
            return f"it is refused ({' '.join(str(error).split())})", "correct that and try again"
        case _:
            return f"the transfer failed ({said})", "try again"


def _no_local_path(name: str) -> str:
    """For error texts: the id may have been meant as a path, and where its folder exists the nearest entry helps."""
    parent = Path(name).parent
    entries = [path.as_posix() for path in parent.iterdir()] if parent.is_dir() else []
    return f", and there is no local path {name!r}{nearest(name, entries)}"
