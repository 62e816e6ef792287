"""Compares the answers of `qus which` with execve(2), for the files below a root directory with /qus in it.

A program is stopped as soon as the kernel has started it. Only foreign ELF programs run on, with `--help`, because
what their emulator says counts as well.
"""

import ctypes
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time

PTRACE_TRACEME, PTRACE_DETACH = 0, 17
# What an emulator prints if it cannot run a program.
EMULATOR_FAILS = (b"Could not open", b"Error while loading", b"Invalid ELF image", b"qemu: uncaught target signal")
libc = ctypes.CDLL(None, use_errno=True)


def files(limit):
    """Returns the paths of files and links: all that are executable, and others up to the limit."""
    programs, others = [], []
    for directory, _, names in os.walk("/"):
        if directory.startswith(("/dev", "/proc", "/tmp")):
            continue
        for name in sorted(names):
            path = os.path.join(directory, name)
            (programs if os.access(path, os.X_OK) else others).append(path)
    return (programs + others)[:limit]


def start(path, errors):
    """Calls execve. Returns the stopped process, or None and the name of the error."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(errors, 1)
        os.dup2(errors, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
        libc.ptrace(PTRACE_TRACEME, 0, None, None)
        try:
            os.execve(path, [path, "--help"], {"PATH": "/usr/bin:/bin"})
        except OSError as error:
            os.write(writer, errno.errorcode[error.errno].encode())
        os._exit(1)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    failure = os.read(reader, 20).decode()
    os.close(reader)
    if os.WIFSTOPPED(status):
        return child, None
    return None, failure or f"signal {os.WTERMSIG(status)}"


def finish(child):
    """Lets a stopped process run on for at most five seconds, and returns its wait status; None if it is killed then."""
    libc.ptrace(PTRACE_DETACH, child, None, None)
    for _ in range(500):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.01)
    kill(child)
    return None


def kill(child):
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def disagreement(answer, log):
    """Returns how the kernel or the emulator contradicts an answer; None if they agree."""
    errors = os.open(log, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        child, failure = start(answer["file"], errors)
        if child is None:
            if answer["runs"] is None or answer["runs"] is False and answer["errno"] in (failure, None):
                return None
            return failure
        if answer["runs"] is False and answer["errno"] is not None:
            kill(child)
            return "execve succeeds"
        if "ELF" not in answer["kind"] or answer["handler"] is None or answer["runs"] is None:
            kill(child)
            return None if answer["runs"] is not False else "execve succeeds"
        status = finish(child)
        text = os.pread(errors, 100000, 0)
        fails = any(words in text for words in EMULATOR_FAILS) or status is not None and os.WIFSIGNALED(status)
        if fails == answer["runs"]:
            return f"wait status {status}, output {text[:200]!r}"
        return None
    finally:
        os.close(errors)


def main():
    root, limit = sys.argv[1], int(sys.argv[2])
    # The interpreter may need modules later, which are outside of the new root directory.
    "".encode("idna")
    os.chroot(root)
    os.chdir("/")
    paths = files(limit)
    names = b"".join(os.fsencode(path) + b"\0" for path in paths)
    which = subprocess.run(["/qus", "which", "--json", "--files0-from", "-"], input=names, stdout=subprocess.PIPE)
    answers = json.loads(which.stdout)["answers"]
    assert [answer["file"] for answer in answers] == paths, "an answer is missing"
    count = {}
    wrong = 0
    for answer in answers:
        reason = disagreement(answer, "/tmp/log")
        if reason is not None:
            wrong += 1
            print(f"{answer['file']}: {reason}; qus which: {answer}", flush=True)
        count[answer["runs"]] = count.get(answer["runs"], 0) + 1
    print(f"compared {len(answers)} files: {count.get(True, 0)} run, {count.get(False, 0)} do not, "
          f"{count.get(None, 0)} unknown, {wrong} disagreements", flush=True)
    sys.exit(wrong > 0)


main()
