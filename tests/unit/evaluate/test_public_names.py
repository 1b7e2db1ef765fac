from __future__ import annotations

import subprocess
import sys


def test_probes_come_through_the_public_interface_without_loading_torch_for_it():
    code = (
        "import sys, gentle_core.api as api\n"
        "assert 'torch' not in sys.modules\n"
        "names = [api.knn_accuracy, api.knn_predict, api.linear_probe, api.multilabel_probe]\n"
        "assert {n.__module__ for n in names} == {'gentle_core.evaluate.probes'}\n"
        "assert {n.__name__ for n in names} <= set(api.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
