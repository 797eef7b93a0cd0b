"""What the project is made of, and what is known against it.

    scripts/audit                    write the bills of materials, look up every locked package
    scripts/audit --only-sbom        write the bills alone; needs no network
    scripts/audit --service osv      ask osv.dev in place of the Python package index

Exit status: 0 when every package was looked up and nothing unaccepted is known; 1 for a known vulnerability; 2 when not all
could be looked up, which is no good news. `scripts/audit` makes the environment for it. Reads `uv.lock` alone, never what is
installed: packages that this Python or system would not install are in the bills, but not looked up.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.markers import Marker

ROOT = Path(__file__).parent.parent
UV = ROOT / ".tools/uv"
EXCEPTIONS = ROOT / "scripts/audit_exceptions.txt"
SETS: Mapping[str, Sequence[str]] = {
    "serving": ("--no-default-groups",),
    "everything": ("--all-extras", "--all-groups"),
}
"""What is installed for what, as `uv export` says it."""
UNCHECKED = 2
_PLACES = [
    {"sys_platform": system, "platform_machine": machine, "python_version": f"3.{minor}", "python_full_version": f"3.{minor}.1"}
    for system in ("linux", "darwin", "win32")
    for machine in ("x86_64", "aarch64", "arm64", "AMD64")
    for minor in (11, 12, 13)
]
"""Where the project may be installed."""


class AuditError(Exception):
    """The message is one line that says what to do."""


def read_exceptions(text: str) -> dict[str, str]:
    """Identifiers of accepted vulnerabilities with their reasons. Raises `AuditError` for one without."""
    accepted = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        identifier, _, reason = line.strip().partition(" ")
        if not reason.strip():
            raise AuditError(f"{EXCEPTIONS.name}: {identifier} has no reason; say why it does not matter here, and until when")
        accepted[identifier] = reason.strip()
    return accepted


def verdict(report: Mapping[str, Any], accepted: Mapping[str, str]) -> tuple[list[str], int]:
    """Lines to print and the exit status, of pip-audit's report in JSON."""
    packages = report["dependencies"]
    lines = []
    unlooked = [package["name"] for package in packages if "skip_reason" in package]
    looked_up = len(packages) - len(unlooked)
    found = used = 0
    for package in packages:
        for vulnerability in package.get("vulns", ()):
            names = {vulnerability["id"], *vulnerability.get("aliases", ())}
            title = f"{package['name']} {package['version']}: {', '.join(sorted(names))}"
            reason = next((accepted[name] for name in names if name in accepted), None)
            if reason is not None:
                used += 1
                lines.append(f"{title}: accepted: {reason}")
            else:
                found += 1
                fixed = ", ".join(vulnerability.get("fix_versions", ())) or "no version yet"
                lines.append(f"{title}: fixed in {fixed}")
    lines.append(f"{looked_up} of {len(packages)} packages looked up; known vulnerabilities: {found}, accepted: {used}")
    if unlooked:
        shown = ", ".join(unlooked[:5]) + (", …" if len(unlooked) > 5 else "")
        lines.append(f"not audited: the service knows nothing of {len(unlooked)} packages ({shown}); is it the real one?")
    return lines, 1 if found else UNCHECKED if unlooked or not packages else 0


def export(form: str, options: Sequence[str]) -> str:
    """The locked packages of one set. Raises `AuditError`."""
    command = [str(UV), "export", "--quiet", "--frozen", "--no-emit-project", "--format", form, *options]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        raise AuditError("uv.lock cannot be exported; run this as scripts/audit, from a whole checkout") from None


def without_uninstallable(bill: Mapping[str, Any]) -> dict[str, Any]:
    """The bill without what no platform installs: what the project has switched off is in the lock file all the same."""
    kept = []
    for component in bill["components"]:
        markers = [entry["value"] for entry in component.get("properties", ()) if entry["name"] == "uv:package:marker"]
        if all(any(Marker(marker).evaluate(place) for place in _PLACES) for marker in markers):
            kept.append(component)
    gone = {component["bom-ref"] for component in bill["components"]} - {component["bom-ref"] for component in kept}
    links = []
    for link in bill["dependencies"]:
        if link["ref"] not in gone:
            needed = [reference for reference in link.get("dependsOn", ()) if reference not in gone]
            links.append({"ref": link["ref"]} | ({"dependsOn": needed} if needed else {}))
    return {**bill, "components": kept, "dependencies": links}


def write_bills(folder: Path) -> list[Path]:
    """CycloneDX 1.5 in JSON, one file a set."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, options in SETS.items():
        path = folder / f"itemlens-{version}-{name}.cdx.json"
        bill = without_uninstallable(json.loads(export("cyclonedx1.5", options)))
        path.write_text(json.dumps(bill, indent=1) + "\n", "utf-8")
        paths.append(path)
    return paths


def look_up(service: str) -> dict[str, Any]:
    """pip-audit's report on everything that is locked. Raises `AuditError` when the service cannot be asked."""
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(export("requirements.txt", SETS["everything"]), "utf-8")
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(requirements), "--disable-pip", "--require-hashes"]
        command += ["--format", "json", "--vulnerability-service", service, "--progress-spinner", "off"]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        report: dict[str, Any] = json.loads(ran.stdout)
    except ValueError:
        last = (ran.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise AuditError(f"not audited: {service} could not be asked: {last}") from None
    return report


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/audit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only-sbom", action="store_true", help="write the bills of materials and look nothing up")
    parser.add_argument("--output", type=Path, default=Path("dist"), help="folder for the bills (default: %(default)s)")
    parser.add_argument("--service", choices=("pypi", "osv"), default="pypi", help="whom to ask (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        accepted = read_exceptions(EXCEPTIONS.read_text("utf-8"))
        for path in write_bills(options.output):
            print(f"{path}: {len(json.loads(path.read_text('utf-8'))['components'])} packages")
        if options.only_sbom:
            return 0
        print("looking up every package, which takes a minute …", file=sys.stderr)
        lines, status = verdict(look_up(options.service), accepted)
    except AuditError as error:
        print(f"itemlens: {error}", file=sys.stderr)
        return UNCHECKED
    print("\n".join(lines))
    return status


if __name__ == "__main__":
    sys.exit(main())
