"""Build all that is published, and check it.

    python wheels.py build DIST [--only REGEX]    wheels, the portable wheel and the sdist, as far as their names match
    python wheels.py profile                      the counts that a build goes by: target/profile/fastmp.profdata
    python wheels.py finish DIST                  what maturin has built elsewhere
    python wheels.py check DIST                   what is there, and that the sdist builds in an empty environment

Linked by zig, which brings the oldest C library of each kind; no interpreter but the one that runs this is needed.
Rust's standard library for another target comes by rustup. Prints a table; ends with 1 if something could not be built
or is not as it should be.
"""

import argparse
import concurrent.futures
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

REPO = Path(__file__).resolve().parent.parent
VERSION = re.search('^version = "(.+)"', (REPO / "Cargo.toml").read_text(), re.MULTILINE)[1]
SYSTEMS = {  # platform tag: Rust's target, the C library that it needs
    "manylinux_2_17_x86_64": ("x86_64-unknown-linux-gnu", "libc.so.6"),
    "manylinux_2_17_aarch64": ("aarch64-unknown-linux-gnu", "libc.so.6"),
    "musllinux_1_2_x86_64": ("x86_64-unknown-linux-musl", "libc.musl-x86_64.so.1"),
    "musllinux_1_2_aarch64": ("aarch64-unknown-linux-musl", "libc.musl-aarch64.so.1"),
}
# Python and ABI tag; the interpreter for which PyO3 and maturin make such a one, each in a run of
# its own, as one for several takes one stable ABI for all; how its extension's name ends. The third
# would serve 3.15 with the GIL too, and pip would choose it there: but it does without what the GIL
# allows, and `with lock` costs half as much again. So it is tagged for interpreters without the GIL
# alone, and those that have it go on with the first.
ABIS = {
    "cp311-abi3": ("python3.11", r"\.abi3\.so"),
    "cp314-cp314t": ("python3.14t", r"\.cpython-314t-[\w-]+\.so"),
    "cp315-abi3t": ("python3.15", r"\.abi3t(-[\w-]+)?\.so"),
}
MUSL = REPO / ".ci" / "musl-1.2.0.txt"  # those of its functions that we use: another one is to be looked up there
LARGEST = 1_000_000  # bytes of a wheel
# abi3audit takes the module's own entry point (PEP 793) for one of CPython's functions.
OWN = {"PyModExport__native"}
IN_WHEELS = ["fastmp/__init__.py", "fastmp/py.typed"]
IN_SDIST = ["Cargo.lock", "LICENSE", "README.md", "pyproject.toml", "rust/core/src/lib.rs", "python/fastmp/_native.pyi"]


class Failed(Exception):
    """Says what could not be done, or is not as it should be."""


def run(*command, **kwargs):
    """Runs it and returns what it prints.

    Raises:
        Failed: it did not end well; with the end of what it said.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)
    except FileNotFoundError:
        raise Failed(f"{command[0]} is not here") from None
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise Failed(f"{Path(command[0]).name}: " + " / ".join(said[-4:]))
    return done.stdout + done.stderr


def system_of(wheel):
    """The key in SYSTEMS of a wheel with an extension."""
    platforms = wheel.stem.rpartition("-")[2].split(".")
    [system] = [system for system in SYSTEMS if system in platforms] or [None]
    if system is None:
        raise Failed(f"is for {'.'.join(platforms)}")
    return system


# --- building ---


def make_profile():
    """Builds for this machine, counting; runs the workload; returns the file with the counts.

    Compilers of LLVM's kind lay out and inline by them. Small messages are a third faster for it.
    """
    run("rustup", "component", "add", "llvm-tools", cwd=REPO)
    host = re.search("^host: (.*)", run("rustc", "-vV", cwd=REPO), re.MULTILINE)[1]
    libraries = Path(run("rustc", "--print", "target-libdir", cwd=REPO).strip())
    folder = REPO / "target" / "profile"
    counts, profile = folder / "counts", folder / "fastmp.profdata"
    for old in counts, folder / "wheel", folder / "venv":
        shutil.rmtree(old, ignore_errors=True)
    environment = rust_environment(folder, f"-Cprofile-generate={counts}")
    options = ["--release", "--locked", "--target", host, "--interpreter", sys.executable]
    run("maturin", "build", *options, "--out", str(folder / "wheel"), cwd=REPO, env=environment)
    venv.create(folder / "venv", with_pip=True)
    python = str(folder / "venv" / "bin" / "python")
    run(python, "-m", "pip", "install", "--no-deps", *map(str, (folder / "wheel").glob("*.whl")))
    run(python, str(REPO / ".ci" / "workload.py"), cwd=folder)
    run(str(libraries.parent / "bin" / "llvm-profdata"), "merge", "--output", str(profile), str(counts))
    return profile


def rust_environment(folder, flags):
    """For cargo: own folder, own flags, and names of functions that are the same for every target."""
    environment = {**os.environ, "CARGO_TARGET_DIR": str(folder), "RUSTC_WRAPPER": str(REPO / ".ci" / "rustc-named")}
    # Inlined whatever its size is what makes up 97 % of the counts (by default 99), and for size
    # is what is not among 95 % of them (only what is cold, 99.9999). The rest is inlined at fewer
    # places (225).
    smaller = ("inline-threshold=40", "profile-summary-cutoff-hot=970000", "profile-summary-cutoff-cold=980000")
    smaller += ("pgso-lwss-only=false",)
    smaller = " ".join(f"-Cllvm-args=-{option}" for option in smaller)
    flags = [environment.get("RUSTFLAGS", ""), "-Csymbol-mangling-version=v0", smaller, flags]
    environment["RUSTFLAGS"] = " ".join(flags).strip()
    environment.pop("PYO3_PYTHON", None)  # that would be an interpreter for this machine's
    return environment


def build_system(system, abis, profile, dist):
    """Builds the wheels for one system; returns those that could not be built, with the reason."""
    target, _ = SYSTEMS[system]
    missing = {}
    # A folder of its own, or those that are built side by side would wait for each other.
    environment = rust_environment(REPO / "target" / "wheels-of" / target, f"-Cprofile-use={profile}")
    tag = system.removesuffix("_" + target.partition("-")[0])
    for abi in abis:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                options = ["--release", "--locked", "--zig", "--compatibility", tag, "--target", target]
                options += ["--interpreter", ABIS[abi][0], "--out", scratch]
                run("maturin", "build", *options, cwd=REPO, env=environment)
                [wheel] = Path(scratch).glob("*.whl")
                wheel = finish(wheel)
                shutil.move(wheel, dist / wheel.name)
                print(f"built {wheel.name}", flush=True)
            except Failed as reason:
                missing[f"{abi}-{system}"] = str(reason)
    return missing


def finish(wheel):
    """Names musl's library in a wheel as all systems have it, tags those without the GIL, and makes it smaller.

    Returns the new path. Linkers write `libc.so`, which musl's loader takes too, but auditwheel does not.
    """
    if ".abi3t-" in wheel.name:
        run("wheel", "tags", "--remove", "--abi-tag", "abi3t", str(wheel))
        wheel = wheel.with_name(wheel.name.replace("-abi3.abi3t-", "-abi3t-"))
    _, library = SYSTEMS[system_of(wheel)]
    if "musl" in library:
        with tempfile.TemporaryDirectory() as scratch:
            run("wheel", "unpack", "--dest", scratch, str(wheel))
            [folder] = Path(scratch).iterdir()
            [extension] = folder.rglob("*.so")
            run("patchelf", "--replace-needed", "libc.so", library, str(extension))
            run("wheel", "pack", "--dest-dir", str(wheel.parent), str(folder))
    compress(wheel)
    return wheel


def compress(wheel):
    """As far as a wheel's format goes: by a twentieth more than zlib does."""
    import zopfli  # only who builds wheels has it

    smaller = wheel.with_suffix(".smaller")
    with zipfile.ZipFile(wheel) as old, zopfli.ZipFile(smaller, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry, old.read(entry))
    smaller.replace(wheel)


def build(dist, only):
    """Builds what matches `only`; returns what could not be built, with the reasons."""
    dist.mkdir(parents=True, exist_ok=True)
    wanted = {system: [abi for abi in ABIS if re.search(only, f"{abi}-{system}")] for system in SYSTEMS}
    wanted = {system: abis for system, abis in wanted.items() if abis}
    missing = {}
    for system in list(wanted):
        try:
            if shutil.which("rustup"):  # a distribution's Rust has its targets as packages
                run("rustup", "target", "add", SYSTEMS[system][0], cwd=REPO)
        except Failed as reason:
            missing.update((f"{abi}-{system}", str(reason)) for abi in wanted.pop(system))
    if wanted:
        try:
            profile = make_profile()
        except Failed as reason:
            wanted, missing = {}, {**missing, "the profile, and so any wheel": str(reason)}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for outcome in pool.map(lambda system: build_system(system, wanted[system], profile, dist), wanted):
            missing.update(outcome)
    for name, command in {
        "py3-none-any": ["build", "--wheel", str(REPO / "pure"), "--outdir", str(dist)],
        "sdist": ["maturin", "sdist", "--out", str(dist)],
    }.items():
        try:
            if re.search(only, name):
                if command[0] == "build":
                    run(sys.executable, "-m", *command)
                else:
                    run(*command, cwd=REPO)
                print(f"built the {name}", flush=True)
        except Failed as reason:
            missing[name] = str(reason)
    return missing


# --- checking ---


def undefined(extension):
    """Symbols that others have to define, each with the version that it asks for, if any."""
    with open(extension, "rb") as file:
        elf = ELFFile(file)
        versions, names = elf.get_section_by_name(".gnu.version"), {}
        for section in elf.iter_sections():
            if isinstance(section, GNUVerNeedSection):
                for _, auxiliaries in section.iter_versions():
                    names.update((each["vna_other"], each.name) for each in auxiliaries)
        for i, symbol in enumerate(elf.get_section_by_name(".dynsym").iter_symbols()):
            if symbol["st_shndx"] == "SHN_UNDEF" and symbol["st_info"]["bind"] == "STB_GLOBAL" and symbol.name:
                yield symbol.name, names.get(versions.get_symbol(i)["ndx"]) if versions else None


def needed(extension):
    with open(extension, "rb") as file:
        dynamic = ELFFile(file).get_section_by_name(".dynamic")
        return {tag.needed for tag in dynamic.iter_tags("DT_NEEDED")}


def check_extension(extension, system):
    """Every function is the interpreter's, or the C library has it by name and version."""
    target, library = SYSTEMS[system]
    loose = {name for name, version in undefined(extension) if version is None and not re.match("_?Py", name)}
    if "musl" in target:  # whose functions have no versions
        if needed(extension) != {library}:
            raise Failed(f"needs {', '.join(sorted(needed(extension)))}, not {library} alone")
        loose -= set(MUSL.read_text().split())
    # A function that is newer than the C library linked with gets no version, and is not found.
    if loose:
        raise Failed(f"undefined, and not in the oldest C library: {', '.join(sorted(loose))}")
    return ["symbols"]


def audit_abi3(path):
    """What abi3audit says of each extension in a wheel. (It ends with 1 if it finds anything.)"""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        command = ["abi3audit", "--report", "--output", str(report), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not report.exists():
            raise Failed(f"abi3audit: {done.stderr.strip()}")
        [found] = json.loads(report.read_text())["specs"].values()
        return [each["result"] for each in found["wheel"]]


def check_names(path, tags, metadata, extensions):
    """The file's name says what is inside."""
    inside = {
        f"{python}-{abi}-{system}" for python, abi, system in re.findall("^Tag: (.+?)-(.+?)-(.+)$", tags, re.MULTILINE)
    }
    python, abi, systems = path.stem.split("-")[2:]
    named = {f"{python}-{each}-{system}" for each in abi.split(".") for system in systems.split(".")}
    if inside != named:
        raise Failed(f"is tagged {', '.join(sorted(inside))}")
    if f"Version: {VERSION}\n" not in metadata or path.name.split("-")[1] != VERSION:
        raise Failed(f"is not of version {VERSION}")
    if python == "py3":
        ending = None
    elif f"{python}-{abi}" in ABIS:
        ending = ABIS[f"{python}-{abi}"][1]
    else:
        raise Failed(f"is for {python}-{abi}, which nobody asked for")
    if len(extensions) != (ending is not None) or not all(re.search(f"{ending}$", name) for name in extensions):
        raise Failed(f"has the extensions {extensions}")


def check_metadata(text):
    """The description is README.md as it is; and where to go from there is said."""
    head, _, description = text.partition("\n\n")
    if description.strip() != (REPO / "README.md").read_text().strip():
        raise Failed("its description is not README.md")
    if "Project-URL:" not in head:
        raise Failed("has no links")


def check_wheel(path):
    """Returns its tags and what it was checked by.

    Raises:
        Failed: something is not as it should be.
    """
    tags = path.name.removesuffix(".whl").split("-", 2)[2]
    by = ["size", "twine"]
    if path.stat().st_size > LARGEST:
        raise Failed(f"larger than {LARGEST:,} bytes")
    run("twine", "check", "--strict", str(path))
    with zipfile.ZipFile(path) as wheel, tempfile.TemporaryDirectory() as scratch:
        names = wheel.namelist()
        lacking = [name for name in IN_WHEELS if name not in names]
        lacking += [] if any(name.endswith("licenses/LICENSE") for name in names) else ["LICENSE"]
        if lacking:
            raise Failed(f"lacks {', '.join(lacking)}")
        info = f"fastmp-{path.name.split('-')[1]}.dist-info"
        metadata = wheel.read(f"{info}/METADATA").decode()
        extensions = [name for name in names if name.endswith(".so")]
        check_names(path, wheel.read(f"{info}/WHEEL").decode(), metadata, extensions)
        check_metadata(metadata)
        if not extensions:
            return tags, by
        system = system_of(path)
        by += check_extension(wheel.extract(extensions[0], scratch), system)
    shown = run("auditwheel", "show", str(path)).replace("\n", " ")
    if f'platform tag: "{system}"' not in shown:
        raise Failed(f"auditwheel: {shown.strip()}")
    by.append("auditwheel")
    if "abi3" in tags:
        for each in audit_abi3(path):
            foreign = set(each["non_abi3_symbols"]) - (OWN if "abi3t" in tags else set())
            if foreign or not each["is_abi3_baseline_compatible"]:
                raise Failed(f"abi3audit: {each}")
        by.append("abi3audit")
    return tags, by


def check_sdist(path, in_full):
    run("twine", "check", "--strict", str(path))
    names = run("tar", "-tzf", str(path)).split()
    lacking = [name for name in IN_SDIST if not any(each.endswith(f"/{name}") for each in names)]
    if lacking:
        raise Failed(f"lacks {', '.join(lacking)}")
    if not in_full:
        return ["twine"]
    with tempfile.TemporaryDirectory() as scratch:
        venv.create(Path(scratch) / "venv", with_pip=True)
        python = str(Path(scratch) / "venv" / "bin" / "python")
        environment = {name: value for name, value in os.environ.items() if name != "PYO3_PYTHON"}
        run(python, "-m", "pip", "install", "--no-deps", str(path), cwd=scratch, env=environment)
        run(python, str(REPO / ".ci" / "smoke.py"), cwd=scratch)
    return ["twine", "built and run in an empty environment"]


def all_names():
    """What a release has: the middle of each file's name."""
    return [f"{abi}-{system}" for abi in ABIS for system in SYSTEMS] + ["py3-none-any", "sdist"]


def name_of(path):
    """Which of them a file is."""
    if path.suffix == ".gz":
        return "sdist"
    python, abi, systems = path.stem.split("-")[2:]
    return f"{python}-{abi}-{systems.split('.')[-1]}"


def check(dist, missing, in_full, complete):
    """Prints the table; returns whether all is well."""
    rows = []
    missing = dict(missing)
    if complete:
        there = [name_of(path) for path in dist.iterdir() if path.suffix in (".whl", ".gz")]
        missing |= {name: "it is not there" for name in all_names() if name not in there and name not in missing}
    well = not missing
    for path in sorted(dist.iterdir()):
        if path.suffix not in (".whl", ".gz"):
            continue
        try:
            tags, by = check_wheel(path) if path.suffix == ".whl" else ("sdist", check_sdist(path, in_full))
            rows.append((path.name, f"{path.stat().st_size:,}", tags, ", ".join(by)))
        except (Failed, KeyError, ValueError, zipfile.BadZipFile) as reason:  # or no wheel at all
            rows.append((path.name, f"{path.stat().st_size:,}", "", f"WRONG: {reason}"))
            well = False
    rows += [(name, "", "", f"MISSING: {reason}") for name, reason in missing.items()]
    rows.insert(0, ("file", "bytes", "tags", "checked by"))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for name, size, tags, by in rows:
        print(f"{name:{widths[0]}}  {size:>{widths[1]}}  {tags:{widths[2]}}  {by}")
    return well and len(rows) > 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["build", "profile", "finish", "check"])
    parser.add_argument("dist", type=Path, nargs="?")
    parser.add_argument(
        "--only", default="", help="what to build: a pattern for `abi-platform`, `py3-none-any` and `sdist`"
    )
    parser.add_argument("--complete", action="store_true", help="a release: nothing may be missing")
    options = parser.parse_args()
    # Tools, and what they call in their turn, are installed beside the interpreter.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    missing, dist = {}, options.dist and options.dist.resolve()
    if options.what == "profile":
        make_profile()
        return 0
    if options.what == "build":
        missing = build(dist, options.only)
    elif options.what == "finish":
        for wheel in dist.glob("*linux*.whl"):
            finish(wheel)
    return not check(dist, missing, options.what == "check", options.complete)


if __name__ == "__main__":
    sys.exit(main())
