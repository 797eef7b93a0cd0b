"""What `scripts/audit` concludes. The look-up itself is pip-audit's and needs a network."""

from __future__ import annotations

from typing import Any

import pytest

from scripts import audit_packages
from scripts.audit_packages import UNCHECKED, AuditError, read_exceptions, verdict, without_uninstallable

CLEAN = {"name": "pillow", "version": "13.0.0", "vulns": []}
SKIPPED = {"name": "idna", "skip_reason": "Dependency not found on PyPI"}
HIT = {
    "name": "pillow",
    "version": "12.0.0",
    "vulns": [{"id": "PYSEC-2026-1", "aliases": ["CVE-2026-112403"], "fix_versions": ["13.0.0"]}],
}


def report(*packages: dict[str, Any]) -> dict[str, Any]:
    return {"dependencies": list(packages), "fixes": []}


def test_only_when_all_were_looked_up_and_nothing_is_known_it_passes() -> None:
    lines, status = verdict(report(CLEAN, CLEAN), {})
    assert status == 0
    assert lines == ["2 of 2 packages looked up; known vulnerabilities: 0, accepted: 0"]


def test_what_could_not_be_looked_up_is_not_called_clean() -> None:
    lines, status = verdict(report(CLEAN, SKIPPED), {})
    assert status == UNCHECKED
    assert lines[0].startswith("1 of 2 packages looked up")
    assert "not audited" in lines[1]
    assert "idna" in lines[1]
    assert verdict(report(), {})[1] == UNCHECKED


def test_a_known_vulnerability_is_named_with_the_version_that_mends_it() -> None:
    lines, status = verdict(report(HIT, SKIPPED), {})
    assert status == 1
    assert lines[0] == "pillow 12.0.0: CVE-2026-112403, PYSEC-2026-1: fixed in 13.0.0"


def test_an_accepted_one_is_shown_with_its_reason_and_passes() -> None:
    accepted = read_exceptions("# accepted\n\nCVE-2026-112403 no JPEG is decoded by this build; until 2027-01\n")
    lines, status = verdict(report(HIT), accepted)
    assert status == 0
    assert lines[0].endswith("accepted: no JPEG is decoded by this build; until 2027-01")
    assert "known vulnerabilities: 0, accepted: 1" in lines[1]


def test_an_exception_needs_a_reason() -> None:
    with pytest.raises(AuditError, match="CVE-2026-1 has no reason"):
        read_exceptions("CVE-2026-1  \n")


def test_the_projects_own_exceptions_have_reasons() -> None:
    read_exceptions(audit_packages.EXCEPTIONS.read_text("utf-8"))


def test_a_bill_leaves_out_what_no_platform_installs() -> None:
    def component(name: str, marker: str | None = None) -> dict[str, Any]:
        properties = {} if marker is None else {"properties": [{"name": "uv:package:marker", "value": marker}]}
        return {"bom-ref": name, "name": name} | properties

    bill = {
        "bomFormat": "CycloneDX",
        "components": [
            component("a"),
            component("windows", "sys_platform == 'win32'"),
            component("old", "python_full_version < '3.12'"),
            component("never", "platform_machine == 'x86_64' and sys_platform == 'never'"),
        ],
        "dependencies": [{"ref": "a", "dependsOn": ["never", "old"]}, {"ref": "never", "dependsOn": ["a"]}, {"ref": "old"}],
    }
    pruned = without_uninstallable(bill)
    assert [part["name"] for part in pruned["components"]] == ["a", "windows", "old"]
    assert pruned["dependencies"] == [{"ref": "a", "dependsOn": ["old"]}, {"ref": "old"}]
    assert pruned["bomFormat"] == "CycloneDX"


def test_what_cannot_be_exported_is_one_clear_line(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit_packages, "UV", tmp_path / "no-uv")
    assert audit_packages.main(["--output", str(tmp_path)]) == UNCHECKED
    assert capsys.readouterr().err == "itemlens: uv.lock cannot be exported; run this as scripts/audit, from a whole checkout\n"
