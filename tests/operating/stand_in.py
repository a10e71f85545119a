#!/usr/bin/env python3
"""systemctl, systemd-run, sudo and mount on a machine that is a folder, which the variable MACHINE
names.

With the units that are installed there they do what the real ones do, as far as docs/operating.md
needs it: user, groups, environment, folders, start, reload and stop. The service runs as nobody."""

import glob
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

ROOT = os.environ.get("MACHINE", "")
UNITS = f"{ROOT}/etc/systemd/system"
STOP_SECONDS_MAX = 45


def unit_of(name):
    """The directives of a unit and its drop-ins, each with all its values."""
    if "." not in name:
        name += ".service"
    directives = {}
    for path in [f"{UNITS}/{name}", *sorted(glob.glob(f"{UNITS}/{name}.d/*.conf"))]:
        with open(path) as file:
            for line in file:
                if "=" in line and not line.startswith("#"):
                    key, value = line.strip().split("=", 1)
                    directives.setdefault(key, []).append(value)
    return directives


def run_as_unit(command, directives, folder="/", **options):
    """Starts a command as a service with these directives."""
    assert directives["DynamicUser"] == ["yes"]
    assert directives.get("User", ["imagewell"]) == ["imagewell"]
    groups = [
        group for value in directives.get("SupplementaryGroups", []) for group in value.split()
    ]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    environment.update(value.split("=", 1) for value in directives.get("Environment", []))
    for path in directives.get("EnvironmentFile", []):
        if os.path.exists(path.lstrip("-")):
            with open(path.lstrip("-")) as file:
                environment.update(line.strip().split("=", 1) for line in file if "=" in line)
    for name in " ".join(directives.get("StateDirectory", [])).split():
        path = f"{ROOT}/var/lib/private/{name}"
        os.makedirs(path, exist_ok=True)
        if not os.path.islink(f"{ROOT}/var/lib/{name}"):
            os.symlink(path, f"{ROOT}/var/lib/{name}")
        shutil.chown(path, "nobody", "nogroup")
        os.chmod(path, int(directives["StateDirectoryMode"][-1], 8))
    user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--no-new-privs"]
    user += ["--groups", ",".join(groups)] if groups else ["--clear-groups"]
    return subprocess.Popen([*user, "--", *command], env=environment, cwd=folder, **options)


def pid_file(name):
    return f"{ROOT}/run/{name}.pid"


def running(name):
    """The process of a service, if it lives."""
    try:
        with open(pid_file(name)) as file:
            pid = int(file.read())
        with open(f"/proc/{pid}/stat") as file:
            return None if file.read().rsplit(")", 1)[1].split()[0] == "Z" else pid
    except (FileNotFoundError, ProcessLookupError):
        return None


def start(name):
    if name.endswith(".timer"):
        assert unit_of(name)["OnCalendar"], "it never elapses"
        return
    directives = unit_of(name)
    for path in directives.get("AssertPathIsMountPoint", []):
        if not os.path.ismount(path):
            sys.exit(f"Assertion failed on job for {name}.service.")
    command = shlex.split(directives["ExecStart"][-1])
    if directives["Type"] == ["oneshot"]:
        status = run_as_unit(command, directives).wait()
        if status != 0:
            sys.exit(
                f"Job for {name}.service failed because the control process exited with {status}"
            )
        return
    if running(name):
        return
    os.makedirs(f"{ROOT}/run", exist_ok=True)
    with open(f"{ROOT}/run/{name}.log", "ab") as log:
        process = run_as_unit(
            command,
            directives,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    with open(pid_file(name), "w") as file:
        file.write(str(process.pid))


def stop(name):
    pid = running(name)
    if not pid:
        return
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + STOP_SECONDS_MAX
    while running(name):
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            sys.exit(f"{name} had to be killed")
        time.sleep(0.05)


def reload(name):
    pid = running(name)
    if not pid:
        sys.exit(f"{name}.service is not active, cannot reload.")
    for word in unit_of(name)["ExecReload"]:
        subprocess.run(shlex.split(word.replace("$MAINPID", str(pid))), check=True)


def systemctl(arguments):
    verb, *rest = arguments
    options = [word for word in rest if word.startswith("--")]
    names = [word.removesuffix(".service") for word in rest if not word.startswith("--")]
    if verb == "show":
        values = unit_of(names[0]).get(options[0].removeprefix("--property="), [])
        print(" ".join(values))
        return
    if verb == "daemon-reload":
        return
    for name in names:
        if verb in ("restart", "stop") or (verb, options) == ("disable", ["--now"]):
            stop(name)
        if verb in ("restart", "start") or (verb, options) == ("enable", ["--now"]):
            start(name)
        if verb == "reload":
            reload(name)
        if verb == "enable":
            unit_of(name)
        assert verb in ("restart", "stop", "disable", "start", "enable", "reload"), verb


def systemd_run(arguments):
    directives, folder = {}, "/"
    while arguments and arguments[0].startswith("--"):
        option, _, value = arguments.pop(0).partition("=")
        if option == "--property":
            key, value = value.split("=", 1)
            directives.setdefault(key, []).append(value)
        elif option == "--working-directory":
            folder = value
        else:
            assert option in ("--quiet", "--collect", "--wait", "--pipe"), option
    sys.exit(run_as_unit(arguments, directives, folder).wait())


def sudo(arguments):
    assert arguments[0] == "-u", arguments
    os.environ["PGUSER"] = arguments[1]
    os.execvp(arguments[2], arguments[2:])


def mount(arguments):
    """A disk in memory, if the machine's table of file systems has one for there."""
    with open(f"{ROOT}/etc/fstab") as table:
        assert [line.split()[1] for line in table] == arguments, arguments
    os.execv("/bin/mount", ["mount", "-t", "tmpfs", "backup", *arguments])


if __name__ == "__main__":
    commands = {"systemctl": systemctl, "systemd-run": systemd_run, "sudo": sudo, "mount": mount}
    commands[os.path.basename(sys.argv[0])](sys.argv[1:])
