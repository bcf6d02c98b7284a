"""Run an aarch64 wheel on this machine, by qemu's user mode.

    python aarch64.py [--smoke] WHEEL [PYTEST OPTION...]

With --smoke the smoke test alone. Else also the core's threads under memory-order stress, and the Python tests; then a
line for each reason to skip any. qemu is no weak machine, but it shows what does not start.

The interpreter is Debian's, unpacked below FASTMP_PYTHONS (/var/tmp/fastmp-pythons); qemu comes by apt, as root.
Children are started by a wrapper that runs qemu, so spawn works too.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parent
KEPT = Path(os.environ.get("FASTMP_PYTHONS", "/var/tmp/fastmp-pythons"))
SUITE, PYTHON = "bookworm", "python3.11"
TARGET = "aarch64-unknown-linux-gnu"
LIMIT = {"smoke": 300, "threads": 1200, "tests": 7200}  # seconds: a watchdog
# The stdlib is not under test. By spawn, the contract; what kills and repeats starts thousands of
# interpreters, nearly a second each, and is seen by fork.
REPEATED = "test_kill or test_leaks or test_lifetime or test_growth or test_foreign or test_soak or test_examples"
CHOSEN = f"not multiprocessing- and not (spawn and ({REPEATED}))"
# What is random or repeated, for less long: everything takes ten times as long.
STRESS = {
    "FASTMP_TEST_EMULATED": "1",
    "FASTMP_TEST_KILLS": "10",
    "FASTMP_TEST_CYCLES": "20",
    "FASTMP_TEST_SOAK": "3",
    "FASTMP_EXAMPLE_KILLS": "1",
}


def find_qemu():
    """Returns the path of qemu for aarch64, installed if need be."""
    names = "qemu-aarch64-static", "qemu-aarch64"
    for install in False, True:
        if install:
            if os.getuid():
                sys.exit("qemu-aarch64 is not here: install qemu-user or qemu-user-static")
            subprocess.run(["apt-get", "update", "-qq"], check=True)
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            command = [
                "apt-get",
                "install",
                "-y",
                "-qq",
                "-o",
                "DPkg::Lock::Timeout=600",
                "--no-install-recommends",
                "qemu-user-static",
            ]
            subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        for name in names:
            if found := shutil.which(name):
                return found
    sys.exit("qemu-user-static has no qemu-aarch64")


def install(wheel, site, packages):
    """Puts the wheel and packages for aarch64 into the folder `site`."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", site, "--only-binary=:all:"]
    pip += ["--python-version", PYTHON.removeprefix("python"), "--implementation", "cp"]
    for oldest in 17, 28:
        pip += ["--platform", f"manylinux_2_{oldest}_aarch64"]
    subprocess.run([*pip, "--platform", "manylinux2014_aarch64", "--no-deps", "--no-index", wheel], check=True)
    if packages:
        subprocess.run([*pip, *packages], check=True)


def make_wrapper(scratch, qemu, root, site):
    """Returns a command that runs the interpreter, and is `sys.executable` there."""
    wrapper = scratch / "python"
    path = f'"{site}${{PYTHONPATH:+:$PYTHONPATH}}"'
    wrapper.write_text(f'#!/bin/sh\nexec "{qemu}" -L "{root}" -E PYTHONPATH={path} "{root}/usr/bin/{PYTHON}" "$@"\n')
    wrapper.chmod(0o755)
    (site / "sitecustomize.py").write_text(f"import sys\nsys.executable = sys._base_executable = {str(wrapper)!r}\n")
    return wrapper


def test_threads(qemu, root):
    """Builds the core's threads for aarch64 and runs them; returns whether all went well."""
    if shutil.which("rustup"):
        subprocess.run(["rustup", "target", "add", TARGET], cwd=REPO, check=True)
    runner = f"{qemu} -L {root}"
    environment = {
        **os.environ,
        "CARGO_TARGET_DIR": str(REPO / "target" / "aarch64"),
        "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER": runner,
        "FASTMP_STRESS": os.environ.get("FASTMP_STRESS", "10"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = ["cargo-zigbuild", "test", "--quiet", "--target", TARGET, "--package", "fastmp-core", "--test", "threads"]
    return not subprocess.run(command, cwd=REPO, env=environment, check=False, timeout=LIMIT["threads"]).returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("wheel", type=Path)
    options, pytest_options = parser.parse_known_args()
    root = KEPT / "aarch64"
    subprocess.run([HERE / "debian-root", "unpack", root, "arm64", SUITE, PYTHON], check=True)
    qemu = find_qemu()
    with tempfile.TemporaryDirectory(prefix="fastmp-aarch64-") as directory:
        scratch = Path(directory)
        scratch.chmod(0o755)
        site = scratch / "site"
        # As the group `test` of pyproject.toml.
        packages = [] if options.smoke else ["hypothesis", "numpy", "pytest", "pytest-timeout", "rich"]
        install(options.wheel.resolve(), site, packages)
        python = make_wrapper(scratch, qemu, root, site)
        well = not subprocess.run(
            [python, HERE / "smoke.py"], cwd=scratch, check=False, timeout=LIMIT["smoke"]
        ).returncode
        if not options.smoke:
            well = test_threads(qemu, root) and well
            command = [
                python,
                "-m",
                "pytest",
                "-p",
                "no:cacheprovider",
                "-q",
                "--color=no",
                "-rs",
                "-k",
                CHOSEN,
                REPO / "tests",
            ]
            command += [f"--junit-xml={scratch}/report.xml", *(pytest_options or [])]
            environment = {**STRESS, **os.environ, "PYTHONPYCACHEPREFIX": f"{scratch}/pycache"}
            done = subprocess.run(command, cwd=scratch, env=environment, check=False, timeout=LIMIT["tests"])
            well = not done.returncode and well
    return not well


if __name__ == "__main__":
    sys.exit(main())
