import numpy as np

from gentle_core.data.pseudo import ProposalTable, PseudoSampler


def table(rng, items, candidates, k=3):
    shares = rng.random((len(items), k))
    return ProposalTable(
        np.asarray(items),
        rng.choice(candidates, size=(len(items), k)),
        shares / shares.sum(axis=1, keepdims=True),
        rng.random(len(items)).astype(np.float32),
    )


def sampler(rows=8, seed=0):
    rng = np.random.default_rng(7)
    a, b = np.arange(100, 140), np.arange(300, 370)
    return PseudoSampler(("a", "b"), (table(rng, a, b), table(rng, b, a)), rows, seed)


def test_a_step_depends_on_seed_and_step_alone():
    one, two = sampler(), sampler()
    for step in (5, 0, 31, 5):
        x, y = one.batch(step), two.batch(step)
        assert all((x.positions[t] == y.positions[t]).all() for t in "ab") and (x.weight == y.weight).all()
    assert sampler(seed=1).batch(5).positions["a"].tolist() != one.batch(5).positions["a"].tolist()


def test_pairs_are_proposals_and_no_item_occurs_twice():
    s = sampler()
    allowed = {(i, j) for i, row in zip(s.tables[0].items, s.tables[0].candidates, strict=True) for j in row}
    allowed |= {(i, j) for j, row in zip(s.tables[1].items, s.tables[1].candidates, strict=True) for i in row}
    for step in range(40):
        found = s.batch(step)
        pairs = list(zip(found.positions["a"].tolist(), found.positions["b"].tolist(), strict=True))
        assert set(pairs) <= allowed and 4 <= len(pairs) <= 8
        assert len({p[0] for p in pairs}) == len({p[1] for p in pairs}) == len(pairs) == len(found.weight)


def test_every_item_is_asked_once_an_epoch():
    rng = np.random.default_rng(0)
    a = np.arange(40)
    one_sided = ProposalTable(a, a[:, None], np.ones((40, 1)), np.ones(40, np.float32))
    none = ProposalTable(np.empty(0, np.int64), np.empty((0, 1), np.int64), np.empty((0, 1)), np.empty(0, np.float32))
    s = PseudoSampler(("a", "b"), (one_sided, none), 16, int(rng.integers(99)))
    seen = np.concatenate([s.batch(step).positions["a"] for step in range(5)])
    assert sorted(seen) == a.tolist()


def test_candidates_are_drawn_by_their_shares():
    one = ProposalTable(np.array([0]), np.array([[1, 2, 3]]), np.array([[0.6, 0.0, 0.4]]), np.ones(1, np.float32))
    none = ProposalTable(np.empty(0, np.int64), np.empty((0, 1), np.int64), np.empty((0, 1)), np.empty(0, np.float32))
    s = PseudoSampler(("a", "b"), (one, none), 2, 0)
    drawn = np.array([s.batch(step).positions["b"][0] for step in range(3000)])
    assert set(drawn) == {1, 3} and abs((drawn == 1).mean() - 0.6) < 0.04


def test_empty_tables_give_no_rows():
    none = ProposalTable(np.empty(0, np.int64), np.empty((0, 1), np.int64), np.empty((0, 1)), np.empty(0, np.float32))
    assert len(PseudoSampler(("a", "b"), (none, none), 8, 0).batch(3).weight) == 0
