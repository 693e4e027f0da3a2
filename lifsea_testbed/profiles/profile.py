"""Profiles: the promises of one OS as data, one TOML file each, validated before anything boots."""

from __future__ import annotations

import enum
import importlib.resources
import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lifsea_testbed.errors import NotJudged, ProfileRefused, Reason
from lifsea_testbed.profiles.claims import CATALOGUE, catalogue

T = TypeVar("T")
_SUFFIX = ".toml"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BootSection(_Section):
    """How long a first boot may take on real hardware (seconds), and the limits that it is judged by."""

    shell_within: float = Field(default=30.0, gt=0, description="from power-on until a root shell is open")
    ready_within: float = Field(default=30.0, gt=0, description="from the shell until the last ready sign")
    ready_line: str = Field(default="", description="without a shell: a console line of an OS that is up")
    promised: float = Field(default=2.0, gt=0, description="the first boot as advertised")
    instructions: float | None = Field(default=None, gt=0, description="limit for a first boot under emulation")
    watched: float = Field(default=30.0, ge=0, description="seconds of uptime until late changes are looked for")
    allowed_kernel_errors: list[str] = Field(default=[], description="regular expressions of harmless messages")


class AccessMethod(enum.StrEnum):
    """The built-in access methods: how the test bed gets a root shell. A plugin may register others by name."""

    USER_DATA = "user-data"
    LOGIN = "login"
    PROMPT = "prompt"
    NONE = "none"


class ChannelDevice(enum.StrEnum):
    """The device that carries the command channel: a virtio-serial port, the serial console or the virtio console."""

    PORT = "port"
    SERIAL = "ttyS0"
    VIRTIO = "hvc0"


class AccessSection(_Section):
    """The access methods, tried in this order, and their settings.

    A method is a plain name: a plugin may register more (`pytest_lifsea_access_methods`), and an unknown name is
    refused on use (machine/access.py).
    """

    methods: list[str] = Field(default=[AccessMethod.USER_DATA], min_length=1)
    line: ChannelDevice = Field(default=ChannelDevice.PORT,
                                description="the device of the command channel; login and prompt need a console")
    user: str = "root"
    password: str = ""
    become: str = Field(default="", description="the command by which that user becomes root: sudo -n")

    @property
    def console(self) -> ChannelDevice:
        """The console that the methods login and prompt use."""
        return ChannelDevice.SERIAL if self.line is ChannelDevice.PORT else self.line

    @property
    def has_no_shell(self) -> bool:
        """Whether the image offers no way to a shell."""
        return self.methods == [AccessMethod.NONE]


class PackagesSection(_Section):
    """How many packages the image may hold, and where its package database is."""

    least: int = Field(default=1, ge=0)
    most: int = Field(default=220, ge=1)
    databases: list[str] = Field(default=[], description="dpkg status files; an rpm database is found by rpm itself")


class ImageSection(_Section):
    """How large the image may be; an unknown limit is left out."""

    most: float | None = Field(default=None, gt=0, description="MiB of the image file, compressed")


class DisksSection(_Section):
    """The disks that an instance needs beside its system disk."""

    data: int = Field(default=0, ge=0, le=65536, description="GiB of an empty data disk; 0: none")


class BudgetSection(_Section):
    """How many unit files and udev rules may be left; an unknown limit is left out."""

    units: int | None = Field(default=None, ge=1, description="unit files")
    udev_rules: int | None = Field(default=None, ge=0, description="rules, in all files together")


class PathsSection(_Section):
    """The writable paths, those in memory, the links into /var, and the paths of the image itself."""

    writable: list[str] = ["/dev", "/etc", "/run", "/tmp", "/var"]
    memory: list[str] = ["/run", "/tmp"]
    into_var: list[str] = ["/home", "/mnt", "/opt", "/root", "/usr/local"]
    image: list[str] = [
        "/", "/usr", "/usr/bin", "/usr/lib", "/usr/etc", "/boot", "/sysroot", "/sysroot/ostree/deploy",
    ]  # fmt: skip


class AbsentSection(_Section):
    """Names of programs that must not exist, as regular expressions over the whole file name.

    Marks are texts in such a program, or in a library or archive of it, by which it is recognised under any name; they
    include messages, which a program keeps when it is linked statically and stripped. Files are shell patterns of what
    comes with such a program and nothing else: its libraries, its standard library, its keys.
    """

    ssh: list[str] = [r"sshd(?:-.*)?", "dropbear.*", "tinysshd.*", "sftp-server", "lshd", "wolfsshd"]
    python: list[str] = [r"python(?:[\d.]*)?", r"pypy[\d.]*", "micropython", "rustpython", "graalpy"]
    interpreters: list[str] = [r"(?:mini)?perl(?:[\d.]*)?", r"[jm]?ruby(?:[\d.]*)?", "m?irb", "truffleruby"]
    package_managers: list[str] = [
        "yum", r"dnf[-\d]*", "microdnf", "tdnf", "rpm-ostree", "zypper", "apt", "apt-get", "aptitude", "dpkg",
        r"apk(?:\.static)?", "pacman", "opkg", "xbps-install", "emerge", "swupd", "urpmi", "nix-env", "guix", "pkcon",
    ]  # fmt: skip
    ssh_marks: list[str] = ["no hostkeys available", "Dropbear server v", "tinysshd", "SSH-2.0-wolfSSH",
                            "github.com/gliderlabs/ssh", "github.com/charmbracelet/ssh", "tailscale.com/ssh/",
                            "SSH-2.0-russh"]  # fmt: skip
    python_marks: list[str] = ["Py_BytesMain", "Fatal Python error: ", "MicroPython v", "RPython traceback",
                               "RustPython ", "_MEIPASS"]  # fmt: skip
    interpreter_marks: list[str] = ["perl_parse", "This is perl 5, version", "ruby_run_node", "ruby - Copyright (",
                                    "mrb_load_nstring"]  # fmt: skip
    package_manager_marks: list[str] = [
        "libapt-pkg.so", "libdnf.so", "libdnf5.so", "libzypp.so", "libalpm.so", "apk-tools ", "libtdnf.so", "opkg_conf",
        "package architecture (%s) does not match system (%s)",
    ]  # fmt: skip
    python_files: list[str] = ["libpython*", "_collections_abc.*", "_abcoll.*", "python[23]*.zip", "base_library.zip"]
    interpreter_files: list[str] = ["libperl.so*", "strict.pm", "perl5db.pl", "libruby*", "rubygems.rb", "libmruby*"]
    host_keys: list[str] = ["ssh_host_*_key*", "dropbear_*_host_key", "ed25519.sk"]
    key_lines: list[str] = ["-----BEGIN OPENSSH PRIVATE KEY-----"]


class OperationsSection(_Section):
    """The operations container: the commands that drive it (arguments for the shell) and the log of their use."""

    start: str = "lifseacli container start"
    stop: str = "lifseacli container stop"
    status: str = "lifseacli container status"
    running: str = Field(default="running", description="what `status` prints when it runs")
    audit_log: str = "/var/log/lifsea/operations.log"


class ContainersSection(_Section):
    """How to start a privileged container with the host's root mounted at /host, as an intruder would."""

    escape: str = Field(default="", description="the command; a script is appended as its last argument")


class SecuritySection(_Section):
    """The allow-lists; a list that is left out is not judged."""

    listeners: list[str] | None = Field(default=None, description="regular expressions: `tcp 127.0.0.1:53 program`")
    setuid: list[str] | None = Field(default=None, description="files that give privileges to their callers")
    sysctls: dict[str, int | Literal["absent"]] = Field(default={}, description="absent: the kernel has none")


class UpgradesSection(_Section):
    """How an OS is upgraded and rolled back: by a tool, built in or a plugin's, or by commands (upgrade/tools.py)."""

    tool: str = Field(default="ostree", min_length=1,
                      description="ostree, rpm-ostree, commands, or a tool that a plugin registers by name")
    deploy: str = Field(default="", description="finds the offer in $OFFER_URL, _BRANCH, _COMMIT and _VERSION")
    roll_back: str = ""
    running: str = Field(default="", description="prints the running version (default: VERSION_ID of os-release)")
    boots_next: str = Field(default="", description="prints the version that boots next")
    confirm: str = Field(default="", description="marks the boot as successful; for people, nothing runs it")


class SharingSection(_Section):
    """What may change by itself on a machine that tests share: regular expressions over whole paths and names."""

    files: list[str] = Field(default=[
        r"/run/lifsea-testbed.*", r"/(run|var)/log/journal.*", r"/run/systemd/(journal|units)/?.*", r"/run/udev.*",
        r"/run/systemd(/transient(/(kubepods.*|run-r[0-9a-f]+\.scope))?)?", r"/var/lib/chrony/.*",
        # What a kubelet makes when it starts, which takes half a minute on a busy host.
        r"/var/lib/kubelet(/(cpu|memory)_manager_state|/(device-plugins|pki|plugins|pod-resources|pods|volumeplugins).*)?",
        r"/var/log(/(containers|pods))?", r"/var/lib/containerd(/io\.containerd\.grpc\.v1\.introspection.*)?",
    ], description="files that may be written, below the writable paths")  # fmt: skip
    processes: list[str] = Field(default=[r"\(sd-.*", "systemd-tmpfile", "systemd-run", "ip6?tables", "mount"],
                                 description="processes that may start and end, by name")  # fmt: skip
    # A file system that was grown at the first boot has its tables written in the background for minutes.
    disk: float = Field(default=256.0, ge=0, description="MiB that may be written to the disk during one test")


class NodesSection(_Section):
    """The files that must differ between two machines of one image if they exist, as patterns."""

    differ: list[str] = ["/etc/machine-id", "/var/lib/systemd/random-seed", "/etc/ssh/ssh_host_*_key"]


class ClusterSection(_Section):
    """How a machine joins a cluster, the images of its pods, and the socket of its container runtime."""

    join: str = Field(default="", description="script of the user-data; finds $CLUSTER_NODE, _ADDRESS, _KUBECONFIG, "
                      "_AUTHORITY, _LABELS")  # fmt: skip
    ready_within: float = Field(default=60.0, gt=0, description="seconds from power-on until the node is Ready")
    kubeconfig: str = Field(default="/etc/kubernetes/kubelet.conf", description="where the script writes it")
    socket: str = "/run/containerd/containerd.sock"
    manifests: str = Field(default="/etc/kubernetes/manifests", description="where the kubelet looks for static pods")
    networks: str = Field(default="/etc/cni/net.d", description="where the runtime looks for the network of pods")
    pause: str = Field(default="", description="the image on board that each pod needs")
    workload: str = Field(default="", description="an image with a POSIX shell and wget, for pods")
    prepare: str = Field(default="", description="a script that imports the workload into the container runtime")


class MetadataSection(_Section):
    """Whether the metadata service answers requests without a token (HttpTokens of an instance)."""

    token: Literal["optional", "required"] = "optional"


class IdentitySection(_Section):
    """How an image is recognised: ID in os-release, and the release line that VERSION_ID starts with."""

    os_id: str
    version_prefix: str = ""


class Profile(_Section):
    """All data about one OS that the suites use."""

    name: str
    title: str
    claims: list[str] = Field(min_length=1)
    identity: IdentitySection
    access: AccessSection = AccessSection()
    boot: BootSection = BootSection()
    image: ImageSection = ImageSection()
    disks: DisksSection = DisksSection()
    packages: PackagesSection = PackagesSection()
    budget: BudgetSection = BudgetSection()
    paths: PathsSection = PathsSection()
    absent: AbsentSection = AbsentSection()
    operations: OperationsSection = OperationsSection()
    containers: ContainersSection = ContainersSection()
    security: SecuritySection = SecuritySection()
    nodes: NodesSection = NodesSection()
    sharing: SharingSection = SharingSection()
    upgrades: UpgradesSection = UpgradesSection()
    cluster: ClusterSection = ClusterSection()
    metadata: MetadataSection = MetadataSection()
    budgets: dict[str, float] = Field(default={}, description="metric → the limit for its median")


def require(value: T | None, key: str) -> T:
    """Returns the value of a profile key, such as `security.listeners`.

    Raises:
        NotJudged: the profile does not have the key.
    """
    if value is None:
        raise NotJudged(f"the profile has no {key}: without it this cannot be judged (docs/profiles.md)",
                        Reason.PROFILE)
    return value


def names() -> list[str]:
    """Returns the names of the built-in profiles."""
    files = {entry.name for entry in importlib.resources.files("lifsea_testbed.profiles").iterdir()} - {CATALOGUE}
    return sorted(name.removesuffix(_SUFFIX) for name in files if name.endswith(_SUFFIX))


def load(name: str) -> Profile:
    """Returns the built-in profile of that name, or the profile in the TOML file at that path.

    Raises:
        ProfileRefused: it does not exist or is not valid.
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
        raise ProfileRefused(f"profile {name}: unknown claims {', '.join(unknown)}",
                             hint="lifsea-testbed explain lists the claims")
    return profile


def matching(os_release: dict[str, str]) -> Profile | None:
    """Returns the profile whose identity matches the fields of an os-release file most closely, or None."""
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
    """Returns the base overlaid with a profile: tables are merged key by key, other values are replaced."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
