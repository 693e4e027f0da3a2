"""Writes the pages that are generated: `python -m tests.support.generate`."""

from __future__ import annotations

from tests.support import ROOT, api_page, faults, house, third_party

#: Each generated file, and what returns its text.
GENERATED = {ROOT / "docs/floors.svg": house.picture, ROOT / "docs/api.md": api_page.text,
             ROOT / "docs/faults.md": faults.page, ROOT / "THIRD-PARTY.md": third_party.text}


def main() -> None:
    """Writes every file."""
    for path, make in GENERATED.items():
        path.write_text(make(), "utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
