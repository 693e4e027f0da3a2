"""THIRD-PARTY.md: what the repository, and what it makes, has of others, and under which licences."""

from __future__ import annotations

import json
from collections import defaultdict

from tests.support import ROOT

#: Files in the repository that are, or change, the work of others: of whom, and the licence (SPDX).
OF_OTHERS = {
    "LICENSE": ("the text of the licence itself", "Apache-2.0"),
    "images/reference/kernel.config": ("options of Linux, as its `make savedefconfig` writes them", "GPL-2.0-only"),
    "images/reference/prepare-root.patch": ("a change to ostree-prepare-root of OSTree", "LGPL-2.0-or-later"),
}
#: Files of the kinds that are often copied from others, and are this project's own.
OWN = (
    "docs/floors.svg", "lifsea_testbed/perf/site/app.js", "lifsea_testbed/perf/site/base.js",
    "lifsea_testbed/perf/site/charts.js", "lifsea_testbed/perf/site/index.html",
    "lifsea_testbed/perf/site/style.css", "lifsea_testbed/perf/site/views.js", "tests/support/junit-10.xsd",
)  # fmt: skip
#: Licences under which the tools of ci/npm may be (SPDX): all let them be passed on with their notice.
ACCEPTED = ("(MPL-2.0 OR Apache-2.0)", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BlueOak-1.0.0", "ISC", "MIT",
            "Python-2.0")  # fmt: skip
_PAGE = """\
# Third-party work

The project is under Apache-2.0 (LICENSE). `python -m tests.support.generate` writes this page.

## In the repository

| file | of others | licence |
|---|---|---|
{files}

The dashboard has no script, style sheet or font of others, and loads none from elsewhere. These are this project's own:
{own}.

## In the reports

`ci/publish` makes `allure-report/` with these npm packages (ci/npm/package-lock.json); its pages have scripts of some.

{packages}

## In the images

`python -m images build NAME -o NAME.qcow2` writes what the image is made of, with licences, to `NAME.spdx.json`.
Images are built on the host that tests them, and are not passed on with this project.
"""


def npm_licences() -> dict[str, list[str]]:
    """The npm packages, as `NAME VERSION`, by licence."""
    lock = json.loads((ROOT / "ci/npm/package-lock.json").read_text("utf-8"))
    found: defaultdict[str, list[str]] = defaultdict(list)
    for place, package in lock["packages"].items():
        if place:
            name = place.rpartition("node_modules/")[2]
            found[package.get("license", "not stated")].append(f"{name} {package['version']}")
    return {licence: sorted(set(names)) for licence, names in sorted(found.items())}


def text() -> str:
    """Returns the page."""
    files = "\n".join(f"| {name} | {whose} | {licence} |" for name, (whose, licence) in OF_OTHERS.items())
    packages = "\n\n".join(f"**{licence}**: {', '.join(names)}." for licence, names in npm_licences().items())
    return _PAGE.format(files=files, own=", ".join(OWN), packages=packages)
