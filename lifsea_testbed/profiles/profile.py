"""Profiles: the promises of one OS as data, one TOML file each, validated before anything boots."""

from __future__ import annotations

import enum
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from lifsea_testbed.errors import NotJudged, ProfileRefused, Reason
from lifsea_testbed.profiles import profile_files
from lifsea_testbed.profiles.claims import Need, catalogue
from lifsea_testbed.profiles.profile_files import DOCUMENTED
from lifsea_testbed.profiles.profile_files import names as names
from lifsea_testbed.profiles.versions import VersionRange
from lifsea_testbed.support import guest_paths
from lifsea_testbed.support.firmware import Firmware

T = TypeVar("T")
_BASELINE = "add the keys, drop the claims, or let lifsea-testbed baseline read what a released image has"


def _compilable(text: str) -> str:
    try:
        re.compile(f"(?:{text})")  # patterns are joined, so that flags for all of one, such as (?i), cannot be in it
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from None
    return text


def _range(text: str) -> str:
    VersionRange.parse(text)
    return text


#: A regular expression of Python's `re`.
Regex = Annotated[str, AfterValidator(_compilable)]


#: An absolute path that a script may hold without quotes.
GuestPath = Annotated[str, Field(pattern=r"^(/[\w.-]+)+$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BootSection(_Section):
    """How long a first boot may take on real hardware (seconds), and the limits that it is judged by."""

    shell_within: float = Field(default=30.0, gt=0, description="from power-on until a root shell is open")
    ready_within: float = Field(default=30.0, gt=0, description="from the shell until the last ready sign")
    ready_line: Regex = Field(default="", description="without a shell: a console line of an OS that is up")
    firmware: Literal["auto"] | Firmware = Field(default="auto", description="auto: as the image's disk is made for; "
                                                 "--firmware overrides it")
    promised: float = Field(default=2.0, gt=0, description="the first boot as advertised")
    instructions: float | None = Field(default=None, gt=0, description="limit for a first boot under emulation")
    watched: float = Field(default=30.0, ge=0, description="seconds after the boot until late changes are looked for")
    late: float = Field(default=60.0, ge=0, description="seconds of uptime, at least, until they are looked for again")
    not_started: list[Regex] = Field(default=[], description="units of timers, and jobs, that are not started then")
    allowed_kernel_errors: list[Regex] = Field(default=[], description="regular expressions of harmless messages")


class AccessMethod(enum.StrEnum):
    """The built-in access methods: how the test bed gets a root shell. A plugin may register others by name."""

    USER_DATA = "user-data"
    BOOTSTRAP = "bootstrap"
    LOGIN = "login"
    PROMPT = "prompt"
    NONE = "none"


#: The access methods by which the guest opens its shell by itself, since its user-data says so.
OPENED_BY_USER_DATA: frozenset[str] = frozenset({AccessMethod.USER_DATA, AccessMethod.BOOTSTRAP})


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
    directory: GuestPath = Field(default=guest_paths.DIRECTORY, description="where user-data puts the shell's script")
    units: GuestPath = Field(default="/etc/systemd/system",
                             description="where it puts the unit that starts it: systemd reads it at each boot")

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

    Marks are texts in such a program or its libraries, messages among them, which a stripped program keeps; files are
    shell patterns of what comes with it and nothing else; key lines make a small file a host key.
    """

    ssh: list[Regex] = [r"sshd(?:-.*)?", "dropbear.*", "tinysshd.*", "sftp-server", "lshd", "wolfsshd"]
    python: list[Regex] = [r"python(?:[\d.]*)?", r"pypy[\d.]*", "micropython", "rustpython", "graalpy"]
    interpreters: list[Regex] = [r"(?:mini)?perl(?:[\d.]*)?", r"[jm]?ruby(?:[\d.]*)?", "m?irb", "truffleruby"]
    package_managers: list[Regex] = [
        "yum", r"dnf[-\d]*", "microdnf", "tdnf", "rpm-ostree", "zypper", "apt", "apt-get", "aptitude", "dpkg", "pkcon",
        r"apk(?:\.static)?", "pacman", "opkg", "xbps-install", "emerge", "swupd", "urpmi", "nix-env", "guix"]
    debug_tools: list[Regex] = [
        "tcpdump", "dumpcap", "tshark", r"strace(?:64)?", "ltrace", r"gdb(?:server|tui)?", "lldb.*",
        r"perf(?:_[\d.]+)?", "bpftrace", "nmap",
        r"(?:.+-linux-gnu-)?(?:objdump|readelf|nm|objcopy|ld(?:\.bfd|\.gold)|as|strings|addr2line)"]
    ssh_marks: list[str] = [
        "no hostkeys available", "Dropbear server v", "tinysshd", "SSH-2.0-wolfSSH", "SSH-2.0-russh",
        "github.com/gliderlabs/ssh", "github.com/charmbracelet/ssh", "tailscale.com/ssh/"]
    python_marks: list[str] = ["Py_BytesMain", "Fatal Python error: ", "MicroPython v", "RPython traceback", "_MEIPASS"]
    interpreter_marks: list[str] = ["perl_parse", "This is perl 5, version", "ruby_run_node", "ruby - Copyright ("]
    package_manager_marks: list[str] = [
        "libapt-pkg.so", "libdnf.so", "libdnf5.so", "libzypp.so", "libalpm.so", "apk-tools ", "libtdnf.so", "opkg_conf",
        "package architecture (%s) does not match system (%s)"]
    debug_tool_marks: list[str] = [
        "packet%s dropped by kernel", "PTRACE_SETOPTIONS", "This GDB was configured as follows", "perf.data.guest",
        "BPFTRACE_STRLEN", "libbfd-", "BFD header file version ", "<option(s)> elf-file(s)"]
    debug_packages: list[Regex] = [
        r"tcpdump|wireshark-cli|tshark|strace|ltrace|bpftrace|nmap|perf|linux-perf(?:-.*)?|binutils(?:-.*)?",
        r"gdb(?:-minimal|-headless|-gdbserver|server)?|lldb.*"]
    shells: list[Regex] = [r"(?:ba|da|a|z|k|mk|pdk|c|tc|r|rba|fi|nu)?sh", "busybox.*", "toybox.*"]
    shell_marks: list[str] = ["GNU bash, version", "a tracked alias for", "BusyBox v", "MIRBSD KSH", "ZSH_EVAL_CONTEXT"]
    python_files: list[str] = ["libpython*", "_collections_abc.*", "_abcoll.*", "python[23]*.zip", "base_library.zip"]
    interpreter_files: list[str] = ["libperl.so*", "strict.pm", "perl5db.pl", "libruby*", "rubygems.rb", "libmruby*"]
    host_keys: list[str] = ["ssh_host_*_key*", "dropbear_*_host_key", "ed25519.sk"]
    key_lines: list[str] = ["-----BEGIN OPENSSH PRIVATE KEY-----"]


class OperationsSection(_Section):
    """The operations container: the commands that drive it (arguments for the shell) and the log of their use."""

    start: str = ""
    stop: str = ""
    status: str = ""
    running: str = Field(default="", description="what `status` prints when it runs")
    audit_log: str = ""


class ContainersSection(_Section):
    """How to start a privileged container with the host's root mounted at /host, as an intruder would."""

    escape: str = Field(default="", description="the command; a script is appended as its last argument")


class SecuritySection(_Section):
    """The allow-lists; a list that is left out is not judged."""

    listeners: list[Regex] | None = Field(default=None, description="regular expressions: `tcp 127.0.0.1:53 program`")
    selinux: Literal["enforcing", "permissive"] | None = Field(default=None, description="the mode of SELinux")
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

    files: list[Regex] = Field(default=[
        r"/run/lifsea-testbed.*", r"/(run|var)/log/journal.*", r"/run/systemd/(journal|units)/?.*", r"/run/udev.*",
        # What systemd makes when a timer starts a unit, as systemd-tmpfiles-clean a quarter of an hour after the boot.
        r"/run/credentials(/.*)?",
        r"/run/systemd(/transient(/(kubepods.*|run-r[0-9a-f]+\.scope))?)?", r"/var/lib/chrony/.*",
        # What a kubelet makes when it starts, which takes half a minute on a busy host; it writes a file of state first
        # under a name of a dot and digits (pkg/kubelet/util/store/filestore.go of Kubernetes, tmpPrefix).
        r"/var/lib/kubelet(/(cpu|memory)_manager_state|/\.\d+)?",
        r"/var/lib/kubelet/(device-plugins|pki|plugins|pod-resources|pods|volumeplugins).*",
        r"/var/log(/(containers|pods))?", r"/var/lib/containerd(/io\.containerd\.grpc\.v1\.introspection.*)?",
    ], description="files that may be written, below the writable paths")  # fmt: skip
    processes: list[Regex] = Field(default=[r"\(sd-.*", "systemd-tmpfile", "systemd-run", "ip6?tables", "mount"],
                                 description="processes that may start and end, by name")  # fmt: skip
    # A file system that was grown at the first boot has its tables written in the background for minutes.
    disk: float = Field(default=256.0, ge=0, description="MiB that may be written to the disk during one test")


class NodesSection(_Section):
    """The files that must differ between two machines of one image, as patterns; one without a wildcard must exist."""

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


class ClockSection(_Section):
    """How right the clock is kept (seconds), once the time servers answer."""

    offset: float = Field(default=0.1, gt=0, description="the most that the clock may be off")
    corrected_within: float = Field(default=60.0, gt=0, description="from the shell until a wrong clock is right")


class IdentitySection(_Section):
    """How an image is recognised: by os-release and /etc/system-release, and by files where those leave it open."""

    os_id: str = Field(description="ID in os-release")
    variant_id: str = Field(default="", description="VARIANT_ID in os-release; empty: any")
    versions: Annotated[str, AfterValidator(_range)] = Field(default="", description=">=A, <B; empty: any")
    system_release: str = Field(default="", description="what /etc/system-release starts with, whatever the ID")
    has: list[str] = Field(default=[], description="files of an image whose version is only known roughly")
    lacks: list[str] = Field(default=[], description="files that such an image does not have")

    @property
    def range(self) -> VersionRange:
        """The versions."""
        return VersionRange.parse(self.versions)


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
    clock: ClockSection = ClockSection()
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


def load(name: str) -> Profile:
    """Returns the built-in profile of that name, or the profile in the TOML file at that path.

    Raises:
        ProfileRefused: it does not exist, is not valid, or makes a claim without the data to judge it.
    """
    fields = profile_files.read(name)
    try:
        profile = Profile.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place, message = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise ProfileRefused(f"profile {name}: {place}: {message}", hint=DOCUMENTED) from None
    if unknown := [claim for claim in profile.claims if claim not in catalogue()]:
        raise ProfileRefused(f"profile {name}: unknown claims {', '.join(unknown)}",
                             hint="lifsea-testbed explain lists the claims")
    if missing := missing_data(profile):
        needs = "; ".join(f"{claim} needs {', '.join(keys)}" for claim, keys in missing.items())
        raise ProfileRefused(f"profile {name}: makes claims without the data to judge them: {needs}", hint=_BASELINE)
    return profile


def missing_data(profile: Profile) -> dict[str, tuple[str, ...]]:
    """Returns, for each claim of the profile that cannot be judged by it, the keys that it has no value for."""
    found = {claim: tuple(need.key for need in catalogue()[claim].needs if _lacks(profile, need))
             for claim in profile.claims}  # fmt: skip
    return {claim: keys for claim, keys in found.items() if keys}


def value_of(profile: Profile, key: str) -> Any:
    """Returns the value of a key such as `security.listeners`."""
    section, _, name = key.partition(".")
    return getattr(getattr(profile, section), name)


def _lacks(profile: Profile, need: Need) -> bool:
    """Whether the profile has no value where it needs one; an empty list is one where leaving it out is another."""
    if need.only_if and value_of(profile, need.only_if[0]) != need.only_if[1]:
        return False
    section, _, name = need.key.partition(".")
    optional = type(getattr(profile, section)).model_fields[name].default is None
    value = value_of(profile, need.key)
    return value is None if optional else value in ("", [], {})
