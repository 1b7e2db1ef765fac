"""Closed forms on disk: arrays and JSON-ready facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
import scipy.sparse as sp

from gentle_core.closed_form.forms import Ensemble, Fitted, Form, Trained
from gentle_core.closed_form.graph import Graph, Propagation
from gentle_core.closed_form.hubness import Corrected, Hubness
from gentle_core.closed_form.linear import Alignment
from gentle_core.evaluate.arrays import as_tensor


def to_arrays(form: Form, prefix: str = "") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A form as arrays and JSON-ready facts; `from_arrays` makes it whole again."""
    arrays: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {
        "name": form.name, "label": form.label, "pools": form.pools, "settings": dict(form.settings), "hubness": None,
    }  # fmt: skip
    if form.hubness is not None:
        facts["hubness"] = attrs.asdict(form.hubness.settings)
        arrays |= {"bank_x": form.hubness.bank_u.numpy(), "bank_y": form.hubness.bank_v.numpy()}
    if isinstance(form, Fitted):
        m = form.map
        arrays |= {key: getattr(m, key) for key in ("mean_x", "mean_y", "x_map", "y_map", "strength")}
        facts |= {"method": m.method, "groups": list(m.groups), "graph": None}
        if form.graphs is not None:
            facts["graph"] = attrs.asdict(form.graphs[0].settings)
            facts["profiles"] = form.graphs[0].profiles.shape[1]
            if form.graphs[0].basis is not None:
                arrays["basis"] = form.graphs[0].basis
            for side, graph in zip("xy", form.graphs, strict=True):
                sparse = graph.profiles
                arrays |= {f"nodes_{side}": graph.nodes.numpy(), f"profiles_{side}": sparse.data}
                arrays |= {f"indices_{side}": sparse.indices, f"ends_{side}": sparse.indptr}
    elif isinstance(form, Trained):
        facts["skip"] = list(form.skip)
    else:
        assert isinstance(form, Ensemble)
        facts["members"] = []
        for number, member in enumerate(form.members):
            inner, of_member = to_arrays(member, f"{number}.")
            arrays |= inner
            facts["members"].append(of_member)
    return {prefix + key: np.ascontiguousarray(value) for key, value in arrays.items()}, facts


def from_arrays(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Form:
    """The inverse of `to_arrays`, without ranks."""
    a = dict(arrays)
    common = {key: facts[key] for key in ("name", "label", "pools", "settings")}
    if facts["hubness"]:
        common["hubness"] = Corrected.of(Hubness(**facts["hubness"]), a["bank_x"], a["bank_y"])
    if "members" in facts:
        members = []
        for number, of_member in enumerate(facts["members"]):
            start = f"{number}."
            own = {key.removeprefix(start): value for key, value in a.items() if key.startswith(start)}
            members.append(from_arrays(own, of_member))
        return Ensemble(**common, members=tuple(members))
    if "skip" in facts:
        return Trained(**common, skip=(facts["skip"][0], facts["skip"][1]))
    mapping = Alignment(
        facts["method"], a["mean_x"], a["mean_y"], a["x_map"], a["y_map"], a["strength"], tuple(facts["groups"])
    )
    graphs = None
    if facts["graph"]:
        settings, made = Propagation(**facts["graph"]), []
        for number, side in enumerate("xy"):
            nodes = as_tensor(a[f"nodes_{side}"])
            content = (a[f"profiles_{side}"], a[f"indices_{side}"], a[f"ends_{side}"])
            profiles = sp.csr_array(content, shape=(len(nodes), facts["profiles"]))
            made.append(Graph(settings, nodes, profiles, a.get("basis"), number))
        graphs = (made[0], made[1])
    return Fitted(**common, map=mapping, graphs=graphs)
