"""Where this program keeps what it can make again."""

from __future__ import annotations

from pathlib import Path


def cache_folder() -> Path:
    """Return the user's cache folder of this program; nothing is created."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("edge-denoise", appauthor=False))
