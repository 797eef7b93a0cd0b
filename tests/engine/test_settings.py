from pathlib import Path

import pytest

from app.engine.settings import EngineSettings, _quota_cpus, usable_cpus


@pytest.mark.parametrize(
    "setting", [{"max_queue_items": 0}, {"max_batch_items": 2000}, {"decode_threads": -1}, {"max_image_bytes": 1}]
)
def test_a_value_out_of_bounds_names_the_setting(setting: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        EngineSettings(**setting)  # type: ignore[arg-type]


def test_zero_threads_means_the_cpus_this_process_may_use() -> None:
    assert EngineSettings().effective_runtime_threads == usable_cpus() >= 1
    assert EngineSettings(decode_threads=3).effective_decode_threads == 3


@pytest.mark.parametrize(("quota", "cpus"), [("200000 100000", 2), ("150000 100000", 2), ("max 100000", None), ("", None)])
def test_a_containers_quota_is_read_in_whole_cpus(tmp_path: Path, quota: str, cpus: int | None) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    assert _quota_cpus(tmp_path) == cpus


def test_the_older_layout_of_quotas_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("300000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert _quota_cpus(tmp_path) == 3
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert _quota_cpus(tmp_path) is None
