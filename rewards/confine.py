"""The inside of the sandbox of `rewards.sandbox`: gives up rights for good, then runs a program.

Started as a script, `python -I confine.py ROLE ...`, and standing alone but for the modules of its role. What
the kernel offers is used, and needs no privileges: resource limits; on Linux seccomp, which refuses the
system calls that reach beyond the process, and Landlock, which leaves of the file system the own files of
the interpreter to read. Where one is missing, a hook of the interpreter refuses the same things; that
stops programs that try, but not those that know how to get around it.
"""

import ctypes
import errno
import os
import resource
import signal
import struct
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38

_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column below, AUDIT_ARCH
# Refused on all machines: the numbers on x86-64 and on arm64, from the kernel's tables.
_REFUSED: list[tuple[str, int, int | None]] = [
    # New programs and processes; what goes out of the process, and the system's other queues of requests.
    ("fork", 57, None), ("vfork", 58, None), ("execve", 59, 221), ("execveat", 322, 281),
    ("socket", 41, 198), ("connect", 42, 203), ("bind", 49, 200), ("sendmsg", 46, 211),
    ("sendmmsg", 307, 269), ("io_uring_setup", 425, 425), ("io_uring_enter", 426, 426),
    ("io_uring_register", 427, 427), ("io_setup", 206, 0), ("bpf", 321, 280), ("perf_event_open", 298, 241),
    ("userfaultfd", 323, 282),
    # Signals to others, looking into them, and changing how they are run.
    ("tkill", 200, 130), ("rt_sigqueueinfo", 129, 138), ("rt_tgsigqueueinfo", 297, 240),
    ("pidfd_open", 434, 434), ("pidfd_send_signal", 424, 424), ("pidfd_getfd", 438, 438),
    ("ptrace", 101, 117), ("process_vm_readv", 310, 270), ("process_vm_writev", 311, 271), ("kcmp", 312, 272),
    ("setpriority", 141, 140), ("ioprio_set", 251, 30), ("sched_setaffinity", 203, 122),
    ("sched_setparam", 142, 118), ("sched_setscheduler", 144, 119), ("sched_setattr", 314, 274),
    ("migrate_pages", 256, 238), ("move_pages", 279, 239),
    # What was set up here, such as the signal at the parent's death.
    ("prctl", 157, 167), ("personality", 135, 92), ("modify_ldt", 154, None),
    # Memory and messages that outlive the process or escape its limits.
    ("shmget", 29, 194), ("shmat", 30, 196), ("shmctl", 31, 195), ("semget", 64, 190), ("semop", 65, 193),
    ("semctl", 66, 191), ("semtimedop", 220, 192), ("msgget", 68, 186), ("msgsnd", 69, 189),
    ("msgrcv", 70, 188), ("msgctl", 71, 187), ("mq_open", 240, 180), ("mq_unlink", 241, 181),
    ("memfd_create", 319, 279), ("add_key", 248, 217), ("request_key", 249, 218), ("keyctl", 250, 219),
    # Namespaces and mounts.
    ("unshare", 272, 97), ("setns", 308, 268), ("chroot", 161, 51), ("pivot_root", 155, 41),
    ("mount", 165, 40), ("umount2", 166, 39), ("open_tree", 428, 428), ("move_mount", 429, 429),
    ("fsopen", 430, 430), ("fsconfig", 431, 431), ("fsmount", 432, 432), ("fspick", 433, 433),
    # Files: rights, owners, times and attributes, which Landlock leaves alone; watches; space on the disk.
    ("chmod", 90, None), ("fchmod", 91, 52), ("fchmodat", 268, 53), ("chown", 92, None), ("fchown", 93, 55),
    ("lchown", 94, None), ("fchownat", 260, 54), ("utime", 132, None), ("utimes", 235, None),
    ("futimesat", 261, None), ("utimensat", 280, 88), ("setxattr", 188, 5), ("lsetxattr", 189, 6),
    ("fsetxattr", 190, 7), ("removexattr", 197, 14), ("lremovexattr", 198, 15), ("fremovexattr", 199, 16),
    ("fanotify_init", 300, 262), ("inotify_init", 253, None), ("inotify_init1", 294, 26),
    ("name_to_handle_at", 303, 264), ("open_by_handle_at", 304, 265),
    ("fallocate", 285, 47), ("sync", 162, 81), ("syncfs", 306, 267),
    # What Landlock refuses as well, where there is Landlock; the flags of openat2 cannot be seen.
    ("openat2", 437, 437), ("creat", 85, None), ("mknod", 133, None), ("mknodat", 259, 33),
    ("mkdir", 83, None), ("mkdirat", 258, 34), ("rmdir", 84, None), ("unlink", 87, None),
    ("unlinkat", 263, 35), ("rename", 82, None), ("renameat", 264, 38), ("renameat2", 316, 276),
    ("link", 86, None), ("linkat", 265, 37), ("symlink", 88, None), ("symlinkat", 266, 36),
    ("truncate", 76, 45),
]  # fmt: skip
_CLONE3 = 435
_UNKNOWN = 442
"""From here on, calls are newer than this list; above are those of x32, another form of x86-64."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF instructions
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_REFUSE, _NO_SUCH_CALL = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
_CLONE_THREAD = 0x00010000
_SOCK_DGRAM = 2
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX = 8, 10, 15
_FIOSETOWN, _SIOCSPGRP = 0x8901, 0x8902
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ_FILE, _READ_DIR, _WRITE_FILE = 1 << 2, 1 << 3, 1 << 1
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # bits of file-system rights by version; later ones have 16

_REFUSED_EVENTS = frozenset({
    "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "os.system",
    "pty.spawn", "subprocess.Popen", "os.kill", "os.killpg", "socket.connect", "socket.bind",
    "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo",
    "socket.sendto", "socket.sendmsg", "syslog.openlog", "syslog.syslog", "ctypes.dlopen", "ctypes.dlsym",
    "os.chmod", "os.chown", "os.chflags", "os.utime", "os.setxattr", "os.removexattr", "os.chdir", "os.link",
    "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate", "shutil.rmtree",
    "sqlite3.connect", "fcntl.fcntl", "fcntl.ioctl", "gc.get_objects", "gc.get_referrers", "gc.get_referents",
    "cpython.PyInterpreterState_New",
})  # fmt: skip
# They open files on their own, or start another interpreter, which would have no hook.
_REFUSED_MODULES = frozenset({"_sqlite3", "_dbm", "_gdbm", "readline", "_interpreters", "_xxsubinterpreters"})


def limit(seconds: float, memory: int) -> None:
    """Set the limits that every Unix has: processor seconds, bytes of memory, no files, no core."""
    cpu = int(seconds) + 2
    limits = [
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ]
    if sys.platform != "linux":  # there it counts threads, those of the user's other processes as well
        limits.append((resource.RLIMIT_NPROC, 0))
    for which, value in limits:
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(which, (value, value))
        except (ValueError, OSError):  # macOS has no RLIMIT_AS that can be set
            continue
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write then raises instead


def confine(parent: int) -> set[str]:
    """Give up what the kernel lets one give up. Returns which of "seccomp" and "landlock" are in force."""
    if sys.platform != "linux":
        return set()
    _c("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    _c("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)  # no other process of this user can look into it
    # The capabilities of root, should it be root: header version 3, this process; all sets empty.
    _c("capset", struct.pack("=Ii", 0x20080522, 0), bytes(24))
    if _c("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return set()
    held = {"landlock"} if _landlock() else set()
    return held | {"seccomp"} if _seccomp(may_write=bool(held)) else held


def _c(function: str, *arguments: int | bytes) -> int:
    """Call a function of the C library whose arguments are all as wide as a pointer."""
    wide = [ctypes.c_ulong(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    return int(getattr(ctypes.CDLL(None), function)(*wide))


class _Rule(NamedTuple):
    """What an argument of a call decides: `then`, if one of the tests on it holds, else the opposite."""

    call: int | None
    argument: int
    test: int
    operands: tuple[int, ...]
    then: int


def _rules(column: int, own: int, may_write: bool) -> list[_Rule]:
    """The calls that are refused or allowed by an argument, on the machine of this column."""

    def rule(calls: tuple[int, int], argument: int, test: int, operands: tuple[int, ...], then: int) -> _Rule:
        return _Rule(calls[column], argument, test, operands, then)

    rules = [
        rule((56, 220), 0, _ANY_BIT, (_CLONE_THREAD,), _ALLOW),  # clone
        rule((62, 129), 0, _EQUAL, (own,), _ALLOW),  # kill
        rule((234, 131), 0, _EQUAL, (own,), _ALLOW),  # tgkill
        rule((302, 261), 0, _EQUAL, (0,), _ALLOW),  # prlimit64
        # A datagram socket of a pair can send to any address; signals of a file can go to any process.
        rule((53, 199), 1, _ANY_BIT, (_SOCK_DGRAM,), _REFUSE),  # socketpair
        rule((72, 25), 1, _EQUAL, (_F_SETOWN, _F_SETSIG, _F_SETOWN_EX), _REFUSE),  # fcntl
        rule((16, 29), 1, _EQUAL, (_FIOSETOWN, _SIOCSPGRP), _REFUSE),  # ioctl
    ]
    if may_write:  # as far as Landlock lets it
        return rules
    return [
        *rules,
        _Rule((2, None)[column], 1, _ANY_BIT, (_WRITING,), _REFUSE),  # open
        rule((257, 56), 2, _ANY_BIT, (_WRITING,), _REFUSE),  # openat
    ]


def _seccomp(*, may_write: bool) -> bool:
    machine = _MACHINES.get(os.uname().machine)
    if machine is None or sys.maxsize < 2**32:
        return False
    code = _filter(*machine, may_write)
    array = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HP", len(code) // 8, ctypes.addressof(array))
    return _c("prctl", _PR_SET_SECCOMP, 2, program, 0, 0) == 0


def _filter(column: int, architecture: int, may_write: bool) -> bytes:
    """Return the BPF program: two instructions a refused call, some more where an argument decides."""
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _REFUSE),
        (_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, _UNKNOWN), (_RETURN, 0, 0, _NO_SUCH_CALL),
        (_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _NO_SUCH_CALL),  # libc then takes clone, which has flags
    ]  # fmt: skip
    for _, *numbers in _REFUSED:
        number = numbers[column]
        if number is not None:
            code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE)]
    for call, argument, test, operands, then in _rules(column, os.getpid(), may_write):
        if call is not None:
            code += [(_EQUAL, 0, 2 + 2 * len(operands), call), (_LOAD, 0, 0, _ARGUMENTS + 8 * argument)]
            for operand in operands:
                code += [(test, 0, 1, operand), (_RETURN, 0, 0, then)]
            code.append((_RETURN, 0, 0, _REFUSE if then == _ALLOW else _ALLOW))
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def _landlock() -> bool:
    """Leave the interpreter's own files to be read and nothing to be written."""
    version = _c("syscall", _LANDLOCK_CREATE, 0, 0, 1)
    if version < 1:
        return False
    rights = (1 << _RIGHTS.get(version, 16)) - 1
    # From version 4 on TCP, from 6 on abstract sockets and signals are ruled as well.
    attributes = struct.pack("QQQ", rights, 3, 3)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = _c("syscall", _LANDLOCK_CREATE, attributes, len(attributes), 0)
    if rules < 0:
        return False
    _c("syscall", _LANDLOCK_ADD, rules, 1, struct.pack("=Qi", _READ_FILE, 0), 0)  # opened as /dev/stdin
    for path in _readable():
        try:
            opened = os.open(path, getattr(os, "O_PATH", 0) | os.O_CLOEXEC)
        except OSError:
            continue
        access = _READ_FILE | _READ_DIR if os.path.isdir(path) else _READ_FILE
        access |= _WRITE_FILE if path == os.devnull else 0
        _c("syscall", _LANDLOCK_ADD, rules, 1, struct.pack("=Qi", access, opened), 0)
        os.close(opened)
    restricted = _c("syscall", _LANDLOCK_RESTRICT, rules, 0) == 0
    os.close(rules)
    return restricted


def _readable() -> set[str]:
    """The interpreter's modules, the system's libraries and the program itself.

    Not all that is beside them: data, this project's say, may lie in the folder of an environment.
    """
    own = {
        os.path.join(prefix, name) for prefix in (sys.prefix, sys.base_prefix) for name in ("lib", "lib64")
    }
    own |= set(filter(os.path.isabs, os.environ.get("LD_LIBRARY_PATH", "").split(":")))
    system = {"/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share", "/lib", "/lib64", "/nix/store"}
    single = {"/etc/ld.so.cache", "/etc/localtime", "/dev/urandom", os.devnull}
    return {os.getcwd(), "/System", "/Library"} | own | system | single


def refuse_by_hook() -> None:
    """Refuse, inside the interpreter, what the kernel has no means to refuse here."""
    # The hook uses what is bound here: what modules and `builtins` hold is the program's to replace.
    events, modules, kind, text, data = _REFUSED_EVENTS, _REFUSED_MODULES, type, str, bytes
    denied, missing, number, null = PermissionError, ImportError, errno.EPERM, os.devnull
    paths = {path for each in _readable() for path in (each, os.path.realpath(each))}
    single = frozenset({*paths, "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"})
    folders = tuple(f"{path}/" for path in paths)
    writing, files, listings = _WRITING, "open", frozenset({"os.listdir", "os.scandir"})

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in events:
            raise denied(number, f"refused: {event}")
        if event == "import" and arguments[0] in modules:
            raise missing(f"refused: {arguments[0]}")
        if event == files or event in listings:
            path, flags = arguments[0], arguments[2] if event == files else 0
            if kind(path) is data:
                path = path.decode("utf-8", "surrogateescape")
            if kind(path) is text:
                # A relative path is one of the program's own folder, as it cannot go to another.
                inside = path in single or path[:1] != "/" or path.startswith(folders)
                if inside and ".." not in path and (path == null or not flags & writing):
                    return
            elif path is None or kind(path) is int:
                return
            raise denied(number, f"refused: opening {path}")

    sys.addaudithook(hook)


def enter(parent: int, hook_only: bool, seconds: float, memory: int) -> set[str]:
    """Take all of it on. Returns what `confine` does."""
    held = set() if hook_only else confine(parent)
    limit(seconds, memory)
    if len(held) < 2:
        refuse_by_hook()
    return held


def main(role: str, parent: str, hook_only: str, seconds: str, memory: str, *descriptors: str) -> None:
    """Run a role. Only "program" and "solution" run what a model has written."""

    def confined() -> set[str]:
        return enter(int(parent), hook_only == "True", float(seconds), int(memory))

    sys.argv = ["main.py"]
    if role == "probe":
        print("held by:", *confined())
    elif role == "program":
        _run(confined)
    else:
        import importlib

        # The package without its __init__, which would load all rewards.
        package = sys.modules["rewards"] = types.ModuleType("rewards")
        package.__path__ = [os.path.dirname(os.path.abspath(__file__))]
        module = importlib.import_module(f"rewards.{role}")
        module.main(confined, *map(int, descriptors))


def _run(confined: Callable[[], Any]) -> None:
    with open("main.py", encoding="utf-8", errors="surrogatepass") as file:
        source = file.read()
    confined()
    sys.modules["__main__"] = module = types.ModuleType("__main__")
    exec(compile(source, "main.py", "exec"), module.__dict__)


if __name__ == "__main__":
    main(*sys.argv[1:])
