"""A model as a folder, as the Hugging Face hub keeps them, and the hub itself.

    model.safetensors    as Clippo.save writes it: everything that decides what it computes
    config.json          the same facts once more, for people and for the hub's search; not read
    README.md            the model card (`card.py`)

huggingface_hub, which comes with timm, does the transfers, caches them, and says who one is. A
repository's name becomes `hf-hub:ORG/NAME@COMMIT`, so that what was loaded can be loaded again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clippo_core import storage
from clippo_core.errors import ConfigError, NotFoundError, StorageError
from clippo_core.untrusted.names import reason, refusal

HUB = "hf-hub:"
"""How the address of a repository begins, as in timm and open_clip."""
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def fetch_pretrained(address: str) -> tuple[str, str]:
    """(address with its commit, local file of the weights) of `hf-hub:ORG/NAME[@REVISION]`; from
    huggingface_hub's cache where the file is there already. Raises ConfigError for another form,
    NotFoundError, StorageError.
    """
    import huggingface_hub
    from huggingface_hub import errors

    found = _REPOSITORY.fullmatch(address.removeprefix(HUB))
    if not found:
        raise ConfigError(f"{address!r} is no repository of the hub; write {HUB}ORG/NAME@REVISION.")
    name, revision = found.groups()
    try:
        path = huggingface_hub.hf_hub_download(name, WEIGHTS, revision=revision)
    except errors.LocalEntryNotFoundError as error:
        fault = "it is not on this machine, and the hub cannot be reached"
        raise refusal(
            StorageError, address, fault, "check the network, or HF_HUB_OFFLINE"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        fault = "there is no such repository or revision, or it is private"
        raise refusal(NotFoundError, address, fault, "check the name, or log in") from error
    except errors.EntryNotFoundError as error:
        fault = f"the repository has no {WEIGHTS}"
        remedy = "give one that Clippo.push_to_hub or save_pretrained made"
        raise refusal(NotFoundError, address, fault, remedy) from error
    except Exception as error:  # of the hub and the network
        fault = f"it cannot be read from the hub ({reason(error)})"
        raise refusal(StorageError, address, fault, "try again later") from error
    return f"{HUB}{name}@{Path(path).parent.name}", path


def write_folder(
    folder: str, save: Callable[[str], None], facts: Mapping[str, Any], card: str
) -> None:
    """Write a model's folder (local or s3://), each file whole or not at all. save: writes the
    weights to the address that it is given. Raises StorageError.
    """
    save(storage.join(folder, WEIGHTS))
    about = {"model_type": "clippo", "library_name": "clippo-flyte", **facts}
    storage.write_text(
        storage.join(folder, CONFIG), json.dumps(about, indent=1, sort_keys=True) + "\n"
    )
    storage.write_text(storage.join(folder, CARD), card)


def push_folder(folder: str, name: str, *, private: bool, token: str | None, message: str) -> str:
    """Put a local folder into the repository ORG/NAME, which is made where it is not there; its
    address with the commit. Raises ConfigError, StorageError.
    """
    import huggingface_hub

    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise ConfigError(f"{name!r} is no name of a repository; write ORG/NAME.")
    try:
        hub = huggingface_hub.HfApi(token=token)
        hub.create_repo(name, private=private, exist_ok=True)
        commit = hub.upload_folder(repo_id=name, folder_path=folder, commit_message=message)
    except Exception as error:  # of the hub and the network
        fault = f"it cannot be pushed to the hub ({reason(error, 300)})"
        raise refusal(StorageError, name, fault, "log in with `hf auth login`") from error
    return f"{HUB}{name}@{commit.oid}"
