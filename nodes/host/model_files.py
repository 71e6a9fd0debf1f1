"""The folder of model files, `models/lazydiffusion/`, and the pack's own."""

from __future__ import annotations

from pathlib import Path

import folder_paths

FOLDER = "lazydiffusion"
SHIPPED = Path(__file__).parent.parent.parent / "models"


def register_model_folder() -> None:
    """`models/lazydiffusion/` beside the host's other model folders, then the pack's own `models/`; a user's extra
    paths are kept.
    """
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))
    folder_paths.add_model_folder_path(FOLDER, str(SHIPPED.resolve()))
    folder_paths.folder_names_and_paths[FOLDER][1].update({".safetensors"})


def model_names() -> list[str]:
    return folder_paths.get_filename_list(FOLDER)


def model_path(name: str) -> Path:
    return Path(folder_paths.get_full_path_or_raise(FOLDER, name))
