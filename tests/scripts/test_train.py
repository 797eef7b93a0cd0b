from __future__ import annotations
import json
from tests.scripts.conftest import MadeRun


def test_it(trained: MadeRun) -> None:
    assert trained.status == 0
    print(json.loads((trained.run_dir / "history.json").read_text())[::3])
    m = json.loads((trained.bundle / "metrics.json").read_text())
    print(json.dumps(m, indent=1)[:3000])
