"""Profiles: what one OS promises, as data; one TOML each, checked against a schema before anything boots."""

from __future__ import annotations

import enum
import importlib.resources
import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lifsea_testbed.errors import NotJudged, ProfileRefused
from lifsea_testbed.profiles.claims import CATALOGUE, catalogue

T = TypeVar("T")
_SUFFIX = ".toml"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Boot(_Table):
    """How long a first boot may take on real hardware, in seconds, and what it is held to."""

    shell_within: float = Field(default=30.0, gt=0, description="from power-on until a root shell is open")
    ready_within: float = Field(default=30.0, gt=0, description="from the shell until the last ready sign")
    ready_line: str = Field(default="", description="without a shell: a console line of an OS that is up")
    promised: float = Field(default=2.0, gt=0, description="the first boot as advertised")
    instructions: float | None = Field(default=None, gt=0, description="what a first boot may execute, emulated")
    watched: float = Field(default=30.0, ge=0, description="seconds of uptime at which a boot is judged that is quiet")
    allowed_kernel_errors: list[str] = Field(default=[], description="regular expressions of harmless messages")


class Road(enum.StrEnum):
    """How a root shell is come by."""

    USER_DATA = "user-data"
    LOGIN = "login"
    PROMPT = "prompt"
    NONE = "none"


class Line(enum.StrEnum):
    """What a root shell talks on: a virtio-serial port of its own, the serial console, or the virtio console."""

    PORT = "port"
    SERIAL = "ttyS0"
    VIRTIO = "hvc0"


class Access(_Table):
    """The roads to a root shell, tried in this order, and what they need."""

    roads: list[Road] = Field(default=[Road.USER_DATA], min_length=1)
    line: Line = Field(default=Line.PORT, description="what the shell talks on; login and prompt need a console")
    user: str = "root"
    password: str = ""
    become: str = Field(default="", description="the command that makes a shell of that user root's: sudo -n")

    @property
    def console(self) -> Line:
        """The console that login and prompt use."""
        return Line.SERIAL if self.line is Line.PORT else self.line

    @property
    def has_no_shell(self) -> bool:
        """Whether there is no road to a shell at all."""
        return self.roads == [Road.NONE]


class Packages(_Table):
    """How many packages the image may hold, and where its database lies."""

    least: int = Field(default=1, ge=0)
    most: int = Field(default=220, ge=1)
    databases: list[str] = Field(default=[], description="dpkg status files; an rpm database is found by rpm itself")


class Size(_Table):
    """How large the image may be; what is not known is left out."""

    most: float | None = Field(default=None, gt=0, description="MiB of the image file, compressed")


class Disks(_Table):
    """Which disks an instance has to have beside its system disk."""

    data: int = Field(default=0, ge=0, le=65536, description="GiB of an empty data disk; 0: none")


class Budget(_Table):
    """How much of systemd and udev may be left; what is not known is left out."""

    units: int | None = Field(default=None, ge=1, description="unit files")
    udev_rules: int | None = Field(default=None, ge=0, description="rules, in all files together")


class Paths(_Table):
    """Which paths can be written, which lie in memory, which are links into /var, and where the image lies."""

    writable: list[str] = ["/dev", "/etc", "/run", "/tmp", "/var"]
    memory: list[str] = ["/run", "/tmp"]
    into_var: list[str] = ["/home", "/mnt", "/opt", "/root", "/usr/local"]
    image: list[str] = [
        "/", "/usr", "/usr/bin", "/usr/lib", "/usr/etc", "/boot", "/sysroot", "/sysroot/ostree/deploy",
    ]  # fmt: skip


class Absent(_Table):
    """Names of executables that must not exist, as regular expressions over the whole file name.

    Marks are texts by which such a program is known whatever its name; host keys are patterns of the shell.
    """

    ssh: list[str] = [r"sshd(?:-.*)?", "dropbear.*", "tinysshd.*", "sftp-server"]
    python: list[str] = [r"python(?:[\d.]*)?", r"pypy[\d.]*", "micropython"]
    interpreters: list[str] = [r"perl(?:[\d.]*)?", r"ruby(?:[\d.]*)?"]
    package_managers: list[str] = [
        "yum", r"dnf[-\d]*", "microdnf", "rpm-ostree", "zypper", "apt", "apt-get", "dpkg", "apk", "pacman",
    ]  # fmt: skip
    ssh_marks: list[str] = ["no hostkeys available", "Dropbear server v", "tinysshd"]
    python_marks: list[str] = ["Py_BytesMain", "MicroPython v"]
    interpreter_marks: list[str] = ["perl_parse", "ruby_run_node"]
    package_manager_marks: list[str] = ["libapt-pkg.so", "libdnf.so"]
    host_keys: list[str] = ["ssh_host_*_key*", "dropbear_*_host_key", "ed25519.sk"]


class Operations(_Table):
    """The operations container: the commands that drive it (arguments for the shell) and the log of their use."""

    start: str = "lifseacli container start"
    stop: str = "lifseacli container stop"
    status: str = "lifseacli container status"
    running: str = Field(default="running", description="what `status` prints when it runs")
    audit_log: str = "/var/log/lifsea/operations.log"


class Containers(_Table):
    """How a container is started that an intruder would like: privileged, the host's root at /host."""

    escape: str = Field(default="", description="the command, up to and without the script that it runs")


class Security(_Table):
    """What is on the allow-lists; a list that is not known is left out, and then not judged."""

    listeners: list[str] | None = Field(default=None, description="regular expressions: `tcp 127.0.0.1:53 program`")
    setuid: list[str] | None = Field(default=None, description="files that give privileges to whoever starts them")
    sysctls: dict[str, int | Literal["absent"]] = Field(default={}, description="absent: the kernel has no such one")


class UpgradeTool(enum.StrEnum):
    """What upgrades an OS."""

    OSTREE = "ostree"
    RPM_OSTREE = "rpm-ostree"
    COMMANDS = "commands"


class Upgrades(_Table):
    """How an OS is upgraded and rolled back: by a tool that is known, or by commands (upgrade/way.py)."""

    tool: UpgradeTool = UpgradeTool.OSTREE
    deploy: str = Field(default="", description="what is on offer is in $OFFER_URL, _BRANCH, _COMMIT and _VERSION")
    roll_back: str = ""
    running: str = Field(default="", description="prints what runs (default: VERSION_ID of os-release)")
    boots_next: str = Field(default="", description="prints, in the same way, what boots next")
    confirm: str = Field(default="", description="tells the OS that it came up well: for people to look up")


class Sharing(_Table):
    """What may change on a machine by itself while tests share it: regular expressions over whole paths and names."""

    files: list[str] = Field(default=[
        r"/run/lifsea-testbed.*", r"/(run|var)/log/journal.*", r"/run/systemd/(journal|units)/?.*", r"/run/udev.*",
        r"/run/systemd/transient(/kubepods.*)?", r"/var/lib/chrony/.*",
        r"/var/lib/kubelet(/(cpu|memory)_manager_state|/device-plugins.*)?",
    ], description="what is written, below the paths that can be")  # fmt: skip
    processes: list[str] = Field(default=[r"\(sd-.*", "systemd-tmpfile", "iptables", "ip6tables", "mount"],
                                 description="what comes and goes, by name")  # fmt: skip
    # A file system that was grown at the first boot has its tables written in the background for minutes.
    disk: float = Field(default=256.0, ge=0, description="MiB that the disk may take in while one test runs")


class Nodes(_Table):
    """What has to differ between two machines of one image: patterns of files, where they exist."""

    differ: list[str] = ["/etc/machine-id", "/var/lib/systemd/random-seed", "/etc/ssh/ssh_host_*_key"]


class Cluster(_Table):
    """How a machine joins a cluster, what its pods are made of, and where its container runtime answers."""

    join: str = Field(default="", description="script of the user-data; finds $CLUSTER_NODE, _ADDRESS, _KUBECONFIG, "
                      "_AUTHORITY, _LABELS")  # fmt: skip
    ready_within: float = Field(default=60.0, gt=0, description="seconds from power-on until the node is Ready")
    kubeconfig: str = Field(default="/etc/kubernetes/kubelet.conf", description="where the script puts that")
    socket: str = "/run/containerd/containerd.sock"
    manifests: str = Field(default="/etc/kubernetes/manifests", description="where the kubelet looks for static pods")
    networks: str = Field(default="/etc/cni/net.d", description="where the runtime looks for the network of pods")
    pause: str = Field(default="", description="the image on board that each pod needs")
    workload: str = Field(default="", description="an image with a POSIX shell and wget, for pods")
    prepare: str = Field(default="", description="a script that makes the workload known to the container runtime")


class Metadata(_Table):
    """How the metadata service meets the OS: an instance can be set to answer nobody without a token (HttpTokens)."""

    token: Literal["optional", "required"] = "optional"


class Identity(_Table):
    """By what an image is known: ID in os-release, and the release line that VERSION_ID starts with."""

    os_id: str
    version_prefix: str = ""


class Profile(_Table):
    """Everything that the suites need to know of an OS."""

    name: str
    title: str
    claims: list[str] = Field(min_length=1)
    identity: Identity
    access: Access = Access()
    boot: Boot = Boot()
    image: Size = Size()
    disks: Disks = Disks()
    packages: Packages = Packages()
    budget: Budget = Budget()
    paths: Paths = Paths()
    absent: Absent = Absent()
    operations: Operations = Operations()
    containers: Containers = Containers()
    security: Security = Security()
    nodes: Nodes = Nodes()
    sharing: Sharing = Sharing()
    upgrades: Upgrades = Upgrades()
    cluster: Cluster = Cluster()
    metadata: Metadata = Metadata()
    budgets: dict[str, float] = Field(default={}, description="metric → the value that its median must keep to")


def known(value: T | None, what: str) -> T:
    """Returns what a profile says.

    Raises:
        NotJudged: it does not say it.
    """
    if value is None:
        raise NotJudged(f"the profile does not know {what}")
    return value


def names() -> list[str]:
    """Returns the names of the profiles that come with the test bed."""
    files = {entry.name for entry in importlib.resources.files("lifsea_testbed.profiles").iterdir()} - {CATALOGUE}
    return sorted(name.removesuffix(_SUFFIX) for name in files if name.endswith(_SUFFIX))


def load(name: str) -> Profile:
    """Returns the profile of that name, or the one in the TOML file of that path.

    Raises:
        ProfileRefused: there is none, or it does not hold together.
    """
    fields = _read(name)
    try:
        profile = Profile.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ProfileRefused(f"profile {name}: {place}: {first['msg']}", hint="see docs/profiles.md") from None
    unknown = [claim for claim in profile.claims if claim not in catalogue()]
    if unknown:
        raise ProfileRefused(f"profile {name}: unknown claims {', '.join(unknown)}", hint="see claims.toml")
    return profile


def matching(os_release: dict[str, str]) -> Profile | None:
    """Returns the profile whose identity fits best to the fields of an os-release file, if one fits."""
    fitting = [
        profile
        for profile in map(load, names())
        if profile.identity.os_id == os_release.get("ID", "")
        and os_release.get("VERSION_ID", "").startswith(profile.identity.version_prefix)
    ]
    return max(fitting, key=lambda profile: len(profile.identity.version_prefix), default=None)


def _read(name: str, *above: str) -> dict[str, Any]:
    if name in above:
        raise ProfileRefused(f"profile {name} extends itself", hint="see docs/profiles.md")
    path = Path(name)
    if not name.endswith(_SUFFIX):
        if name not in names():
            raise ProfileRefused(f"unknown profile {name!r}", hint=f"one of {', '.join(names())}, or a path to a .toml")
        text = importlib.resources.files("lifsea_testbed").joinpath("profiles", name + _SUFFIX).read_text("utf-8")
    elif path.is_file():
        text = path.read_text("utf-8", errors="replace")
    else:
        raise ProfileRefused(f"{name}: no such profile file", hint=f"one of {', '.join(names())}")
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileRefused(f"profile {name}: not TOML: {error}", hint="see docs/profiles.md") from None
    base = fields.pop("extends", None)
    return _merged(_read(str(base), name, *above), fields) if base else fields


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """The base with what is over it: tables are merged key by key, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
