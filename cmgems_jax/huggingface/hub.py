"""Puts an export on the HuggingFace hub."""

from pathlib import Path

import huggingface_hub
from huggingface_hub import errors, utils

from cmgems_jax.errors import InputError

_TIMEOUT_S = 60.0  # of one answer; the library by itself waits without end


def check_name(repo: str) -> None:
    """Raises `InputError` where a repository cannot have that name, before any work."""
    try:
        utils.validate_repo_id(repo)
    except errors.HFValidationError as error:
        raise InputError(f"--push_to_hub={repo}: expected OWNER/NAME ({error})") from None


def push(
    folder: Path | str,
    repo: str,
    *,
    private: bool = False,
    endpoint: str | None = None,
    token: str | None = None,
) -> str:
    """Uploads an export to a model repository, made where it is missing; returns the commit's URL.

    Args:
      private: whether a new repository is.
      endpoint: of the hub; None = huggingface_hub's own (HF_ENDPOINT).
      token: None = huggingface_hub's own (HF_TOKEN, or that of `hf auth login`).

    Raises:
      InputError: no token, no network, no such owner, or not allowed; the export
        is left as it is.
    """
    folder = Path(folder)
    check_name(repo)
    huggingface_hub.get_session().timeout = _TIMEOUT_S
    api = huggingface_hub.HfApi(endpoint=endpoint, token=token)
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo, folder_path=folder))
    except Exception as error:  # of the hub's server, and of the network below it
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        flag = " --private" if private else ""
        raise InputError(
            f"--push_to_hub={repo}: not uploaded ({reason[:300]}). The export in {folder} is "
            "complete. Log in by `hf auth login` or HF_TOKEN, then "
            f"`hf upload {repo} {folder}{flag}`"
        ) from None
