"""Where an installation keeps its files. Paths only: nothing here opens or creates any of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class InstallationPaths:
    """One installation's directory. Volumes lie elsewhere; the configuration names them."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "ringvault.toml"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def grant_key(self) -> Path:
        """Private signing key, mode 0600; storage never reads it."""
        return self.keys / "grant.key"

    @property
    def grant_pub(self) -> Path:
        return self.keys / "grant.pub"

    @property
    def database(self) -> Path:
        return self.root / "db" / "ringvault.sqlite3"

    @property
    def index(self) -> Path:
        return self.root / "index"

    @property
    def damage(self) -> Path:
        """List of fragments found damaged, one JSON object a line (storage/volume/damage.py)."""
        return self.index / "damage.jsonl"

    @property
    def audit(self) -> Path:
        return self.root / "audit"

    @property
    def run(self) -> Path:
        """Sockets, pid and lock files of running processes; may be emptied when none runs."""
        return self.root / "run"
