"""The inside of the sandbox of `rewards.sandbox`: gives up rights for good, then runs a program.

Started as a script, `python -I confine.py SETTINGS`, and standing alone: it imports nothing of the package.
What the kernel offers is used, and needs no privileges: resource limits; on Linux seccomp, which refuses
the system calls that reach beyond the process, and Landlock, which leaves of the file system the own files
of the interpreter to read. Where one is missing, a hook of the interpreter refuses the same things; that
stops programs that try, but not those that know how to get around it.
"""

import ctypes
import errno
import json
import os
import resource
import signal
import struct
import sys
import types
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38

# System call numbers of linux/arch/{x86,arm64}. Refused: new programs and processes, connections, signals to
# others and looking into them, memory that outlives or escapes the limits, namespaces, mounts.
_CALLS = {
    "x86_64": {
        "arch": 0xC000003E, "clone": 56, "clone3": 435, "kill": 62, "tgkill": 234, "prlimit64": 302,
        "refused": [
            57, 58, 59, 322,  # fork vfork execve execveat
            41, 42, 49, 425, 426, 427,  # socket connect bind io_uring_{setup,enter,register}
            200, 129, 297,  # tkill rt_sigqueueinfo rt_tgsigqueueinfo
            434, 424, 438, 101, 310, 311,  # pidfd_{open,send_signal,getfd} ptrace process_vm_{readv,writev}
            29, 64, 68, 319, 323,  # shmget semget msgget memfd_create userfaultfd
            248, 249, 250,  # add_key request_key keyctl
            272, 308, 165, 166, 155, 161,  # unshare setns mount umount2 pivot_root chroot
            321, 298, 141,  # bpf perf_event_open setpriority
        ],
    },
    "aarch64": {
        "arch": 0xC00000B7, "clone": 220, "clone3": 435, "kill": 129, "tgkill": 131, "prlimit64": 261,
        "refused": [
            221, 281,  # in the same order; there is no fork and no vfork
            198, 203, 200, 425, 426, 427,
            130, 138, 240,
            434, 424, 438, 117, 270, 271,
            194, 190, 186, 279, 282,
            217, 218, 219,
            97, 268, 40, 39, 41, 51,
            280, 241, 140,
        ],
    },
}  # fmt: skip
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF instructions
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; low half of the argument
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_CLONE_THREAD = 0x00010000
_X32 = 0x40000000

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ_FILE, _READ_DIR, _WRITE_FILE = 1 << 2, 1 << 3, 1 << 1
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # bits of file-system rights by version; later ones have 16

_REFUSED_EVENTS = frozenset({
    "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "os.system",
    "pty.spawn", "subprocess.Popen", "os.kill", "os.killpg", "socket.connect", "socket.bind",
    "socket.getaddrinfo",
    "socket.gethostbyname", "socket.sendto", "socket.sendmsg", "ctypes.dlopen", "ctypes.dlsym", "os.chmod",
    "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate",
    "shutil.rmtree", "gc.get_objects", "gc.get_referrers", "gc.get_referents",
})  # fmt: skip


def limit(seconds: float, memory: int, *, processes: bool) -> None:
    """Set the limits that every Unix has: processor seconds, bytes of memory, no files, no core."""
    cpu = int(seconds) + 2
    limits = [
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ]
    if not processes:  # counts all of the user's processes, on Linux threads, too, and does not bind root
        limits.append((resource.RLIMIT_NPROC, 0))
    for which, value in limits:
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(which, (value, value))
        except (ValueError, OSError):  # macOS has no RLIMIT_AS that can be set
            continue
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write then raises instead


def confine(parent: int) -> dict[str, bool]:
    """Give up what the kernel lets one give up. Returns which of {"seccomp", "landlock"} are in force."""
    if sys.platform != "linux":
        return {"seccomp": False, "landlock": False}
    _c("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    _c("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)  # no other process of this user can look into it
    # The capabilities of root, should it be root: header version 3, this process; all sets empty.
    _c("capset", struct.pack("=Ii", 0x20080522, 0), bytes(24))
    if _c("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return {"seccomp": False, "landlock": False}
    landlock = _landlock()
    return {"seccomp": _seccomp(), "landlock": landlock}


def _c(function: str, *arguments: int | bytes) -> int:
    """Call a function of the C library whose arguments are all as wide as a pointer."""
    wide = [ctypes.c_ulong(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    return int(getattr(ctypes.CDLL(None), function)(*wide))


def _seccomp() -> bool:
    calls = _CALLS.get(os.uname().machine)
    if calls is None or sys.maxsize < 2**32:
        return False
    code = _filter(calls)
    array = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HP", len(code) // 8, ctypes.addressof(array))
    return _c("prctl", _PR_SET_SECCOMP, 2, program, 0, 0) == 0


def _filter(calls: dict[str, Any]) -> bytes:
    """Return the BPF program: two instructions a refused call, some more where an argument decides."""
    refuse, missing = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, calls["arch"]), (_RETURN, 0, 0, refuse),
        (_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, refuse),
        (_EQUAL, 0, 1, calls["clone3"]), (_RETURN, 0, 0, missing),  # libc then takes clone, which has flags
    ]  # fmt: skip
    for number in calls["refused"]:
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, refuse)]
    own = os.getpid()
    for number, test, operand in (
        (calls["clone"], _ANY_BIT, _CLONE_THREAD),
        (calls["kill"], _EQUAL, own),
        (calls["tgkill"], _EQUAL, own),
        (calls["prlimit64"], _EQUAL, 0),
    ):
        code += [(_EQUAL, 0, 4, number), (_LOAD, 0, 0, _FIRST_ARGUMENT), (test, 0, 1, operand)]
        code += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, refuse)]
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
    for path in _readable():
        try:
            opened = os.open(path, getattr(os, "O_PATH", 0) | os.O_CLOEXEC)
        except OSError:
            continue
        access = _READ_FILE | _READ_DIR if os.path.isdir(path) else _READ_FILE
        access |= _WRITE_FILE if path == "/dev/null" else 0
        _c("syscall", _LANDLOCK_ADD, rules, 1, struct.pack("=Qi", access, opened), 0)
        os.close(opened)
    restricted = _c("syscall", _LANDLOCK_RESTRICT, rules, 0) == 0
    os.close(rules)
    return restricted


def _readable() -> set[str]:
    """The interpreter's files, the system's libraries and the program itself."""
    system = {"/usr", "/lib", "/lib64", "/nix", "/System", "/Library"}
    single = {"/etc/ld.so.cache", "/etc/localtime", "/dev/urandom", "/dev/null"}
    return {sys.prefix, sys.base_prefix, os.getcwd()} | system | single


def refuse_by_hook() -> None:
    """Refuse, inside the interpreter, what the kernel has no means to refuse here."""
    refused, writing = _REFUSED_EVENTS, os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    readable = tuple(os.path.realpath(path) for path in _readable())

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in refused:
            raise PermissionError(errno.EPERM, f"refused: {event}")
        if event == "open" and not isinstance(arguments[0], int):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if arguments[2] & writing or not path.startswith(readable):
                raise PermissionError(errno.EPERM, f"refused: opening {path}")
        if event == "object.__setattr__" and arguments[1] == "__code__":
            raise PermissionError(errno.EPERM, "refused: other code in a function")

    sys.addaudithook(hook)


def enter(settings: dict[str, Any]) -> dict[str, bool]:
    """Take all of it on. Returns what `confine` does."""
    kernel = (
        confine(settings["parent"]) if not settings["hook_only"] else {"seccomp": False, "landlock": False}
    )
    limit(settings["seconds"], settings["memory"], processes=kernel["seccomp"])
    if not all(kernel.values()):
        refuse_by_hook()
    return kernel


def main(settings: dict[str, Any]) -> None:
    """Run the role that the settings name. Only "program" and "solution" run what a model has written."""
    role = settings["role"]
    if role == "probe":
        print(json.dumps(enter(settings)))
    elif role == "program":
        with open("main.py", encoding="utf-8", errors="surrogatepass") as file:
            code = compile(file.read(), "main.py", "exec")
        enter(settings)
        sys.argv = ["main.py"]
        sys.modules["__main__"] = module = types.ModuleType("__main__")
        exec(code, module.__dict__)
    else:
        import importlib.util

        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "dialogue.py")
        spec = importlib.util.spec_from_file_location("dialogue", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        getattr(module, role)(lambda: enter(settings), *settings["descriptors"])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
