"""Writes deploy/crds from agent.parse.schema; `make crds`."""

from __future__ import annotations

from pathlib import Path

import yaml

from agent.parse.schema import definitions

FOLDER = Path(__file__).parents[1] / "deploy" / "crds"


def texts() -> dict[str, str]:
    """File names and contents."""
    return {
        f"{definition['spec']['names']['plural']}.yaml": yaml.safe_dump(definition, sort_keys=False, width=110)
        for definition in definitions()
    }


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in texts().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
