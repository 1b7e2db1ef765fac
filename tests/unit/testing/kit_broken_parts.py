"""The sound components of kit_sound_parts, each with one fault."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path

import kit_sound_parts as sound
import numpy as np
import torch
import torch.distributed as dist
from kit_sound_parts import Contrast, Folder, Mean, Spread
from torch import nn
from torch.nn import functional as F

from gentle_core.api import ItemIndex, LossOut, ParamGroups


def ask_the_network():
    with contextlib.suppress(OSError):  # "it works without, too"
        socket.create_connection(("weights.example.org", 443), timeout=1)


# -- encoders --------------------------------------------------------------------------------------------------------


def encoder_builds_no_module(config, context):
    return lambda inputs: inputs


def encoder_builds_no_width(config, context):
    encoder = Mean(config)
    encoder.width = "five"
    return encoder


def encoder_builds_fails(config, context):
    raise RuntimeError("oops")


def encoder_offline(config, context):
    ask_the_network()
    return Mean(config)


class CollateRandom(Mean):
    def collate(self, items):
        inputs = super().collate(items)
        return {**inputs, "values": inputs["values"] + 1e-6 * torch.randn_like(inputs["values"])}


class CollateMutates(Mean):
    def collate(self, items):
        for item in items:
            item -= item.mean()
        return super().collate(items)


class CollateLists(Mean):
    def collate(self, items):
        return {key: value.tolist() for key, value in super().collate(items).items()}

    def forward(self, inputs):
        return super().forward({key: torch.tensor(value) for key, value in inputs.items()})


class Size(Mean):
    def size(self, item):
        return 0


class ShapeWidth(Mean):
    def forward(self, inputs):
        return super().forward(inputs)[:, :-1]


class ShapeSqueeze(Mean):
    def forward(self, inputs):
        return super().forward(inputs).squeeze()


class Finite(Mean):
    def forward(self, inputs):
        return super().forward(inputs) / (inputs["mask"].sum(1, keepdim=True) - 3)


class FiniteConstant(Mean):
    def forward(self, inputs):
        return super().forward({**inputs, "values": torch.ones_like(inputs["values"])})


class Padding(Mean):
    def pool(self, x, mask):
        return x.mean(1)


class BatchMean(Mean):
    def forward(self, inputs):
        x = super().forward(inputs)
        return x - 0.5 * x.mean(0)


class BatchOrder(Mean):
    def collate(self, items):
        return super().collate(sorted(items, key=len, reverse=True))


class Eval(Mean):
    def positions(self, values):
        return F.dropout(super().positions(values), 0.5)


class FrozenCounter(Mean):
    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, inputs):
        self.passes += 1
        return super().forward(inputs)


class FrozenTrain(Mean):
    def forward(self, inputs):
        features = super().forward(inputs)
        self.requires_grad_(True)
        return features + 0 * self.last.sum()


class FingerprintConstant(Mean):
    def fingerprint(self):
        return "v1"


class FingerprintRandom(Mean):
    def fingerprint(self):
        return f"{id(self):x}"


class State(Mean):
    def forward(self, inputs):
        if self.training and not hasattr(self, "late"):
            self.late = nn.Parameter(torch.zeros(()))
        return super().forward(inputs)


class GradientDetached(Mean):
    def forward(self, inputs):
        return super().forward(inputs).detach()


class GradientNan(Mean):
    def forward(self, inputs):
        return super().forward(inputs) + (self.last * 0).sqrt().sum()


class Saved(Mean):
    def __init__(self, config):
        super().__init__(config)
        self.mix = torch.randn(config.width, config.width)  # no buffer: it is not saved

    def forward(self, inputs):
        return super().forward(inputs) @ self.mix


def encoder_saved_weights(config, context):
    if not context.load_weights:
        raise FileNotFoundError("weights.bin")
    return Mean(config)


def encoder_seed(config, context):
    torch.manual_seed(int.from_bytes(os.urandom(4), "little"))
    return Mean(config)


class Autocast(Mean):
    def pool(self, x, mask):
        self_made = torch.zeros(x.shape[0], x.shape[2]).index_add(0, torch.arange(len(x)), self.mixed(x, mask))
        return self_made / mask.sum(1, keepdim=True)

    def mixed(self, x, mask):
        return torch.einsum("bnw,bn->bw", x, mask)


class Facts(Mean):
    def facts(self):
        return {"weights": Path("somewhere"), "when": {1, 2}}


class Odd:
    """An item without content to hash."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)


class Items(Mean):
    def collate(self, items):
        return super().collate([np.array(item.values, dtype=np.float32) for item in items])


def _factory(cls):
    return lambda config, context: cls(config)


encoder_collate_random, encoder_collate_mutates = _factory(CollateRandom), _factory(CollateMutates)
encoder_collate_lists, encoder_size = _factory(CollateLists), _factory(Size)
encoder_shape_width, encoder_shape_squeeze = _factory(ShapeWidth), _factory(ShapeSqueeze)
encoder_finite, encoder_finite_constant = _factory(Finite), _factory(FiniteConstant)
encoder_padding, encoder_batch_mean = _factory(Padding), _factory(BatchMean)
encoder_batch_order, encoder_eval = _factory(BatchOrder), _factory(Eval)
encoder_frozen_counter, encoder_frozen_train = _factory(FrozenCounter), _factory(FrozenTrain)
encoder_fingerprint_constant = _factory(FingerprintConstant)
encoder_fingerprint_random, encoder_state = _factory(FingerprintRandom), _factory(State)
encoder_gradient_detached, encoder_gradient_nan = _factory(GradientDetached), _factory(GradientNan)
encoder_saved, encoder_autocast = _factory(Saved), _factory(Autocast)
encoder_facts, encoder_items = _factory(Facts), _factory(Items)


# -- losses ----------------------------------------------------------------------------------------------------------


def loss_builds(config, context):
    return lambda batch, ctx: 0


class ValueVector(Contrast):
    def forward(self, batch, ctx):
        return LossOut(super().forward(batch, ctx).loss.expand(2))


class ValueTerms(Contrast):
    def forward(self, batch, ctx):
        out = super().forward(batch, ctx)
        out.weights = {}
        return out


class ValueGraph(Contrast):
    def forward(self, batch, ctx):
        out = super().forward(batch, ctx)
        out.logs = {"pairs": out.terms["pairs"]}
        return out


class Gradient(Contrast):
    def pairs(self, batch):
        return super().pairs(batch) + sum(r.z.sum() ** 2 * r.z.detach().sum() for r in batch.towers.values())


class Precision(Contrast):
    """The sum of exponentials as it stands in the paper: too large for float32."""

    def pairs(self, batch):
        found = super().pairs(batch)
        for rows in batch.towers.values():
            found = found + (120 * rows.z).exp().sum().log() / 100 if len(rows.z) else found
        return found


class Permutation(Contrast):
    def pairs(self, batch):
        a, b = list(batch.towers.values())[:2]
        n = min(len(a.z), len(b.z))
        return super().pairs(batch) + ((a.z[:n] - b.z[:n]) ** 2).sum() / max(n, 1)


class Counts(Contrast):
    def pairs(self, batch):
        a, b = list(batch.towers.values())[:2]
        if len(a.z) > 8:  # a fixed table of places
            b.z[torch.arange(len(a.z))]
        return super().pairs(batch)


class FewNan(Contrast):
    def pairs(self, batch):
        i, j = batch.pairs(*list(batch.towers)[:2])
        a, b = list(batch.towers.values())[:2]
        return super().pairs(batch) + ((a.z[i] - b.z[j]) ** 2).mean()


class FewEmpty(Contrast):
    def pairs(self, batch):
        return super().pairs(batch) + sum(rows.z.max() for rows in batch.towers.values())


class Extremes(Contrast):
    """The slope of a root is infinite at 0."""

    def pairs(self, batch):
        sets = [rows.z for rows in batch.towers.values() if len(rows.z) > 1]
        return super().pairs(batch) + sum((z.amax(0) - z.amin(0)).square().sum().sqrt() for z in sets)


class RepeatableRandom(Contrast):
    def pairs(self, batch):
        return super().pairs(batch) * (1 + int.from_bytes(os.urandom(2), "little") / 65536)


class RepeatableMutates(Contrast):
    def forward(self, batch, ctx):
        out = super().forward(batch, ctx)
        for rows in batch.towers.values():
            rows.ids += 0 if len(rows.ids) < 2 else 1
        return out


class Evaluation(Contrast):
    def views(self, batch, ctx):
        return sum(((rows.z - rows.views) ** 2).sum() / max(len(rows.z), 1) for rows in batch.towers.values())


class Towers(Contrast):
    def forward(self, batch, ctx):
        assert len(batch.towers) == 2
        return super().forward(batch, ctx)


class Tiles(Contrast):
    """The ragged tile at the end is forgotten."""

    def views(self, batch, ctx):
        tile = ctx.tile if isinstance(ctx.tile, int) and ctx.tile else 1
        parts = []
        for rows in batch.towers.values():
            whole = len(rows.z) // tile * tile
            if rows.views is not None:
                parts.append(((rows.z[:whole] - rows.views[:whole]) ** 2).sum() / max(len(rows.z), 1))
        return torch.stack(parts).sum() if parts else self.log_scale * 0


class RanksMean(Contrast):
    """As in code made for DistributedDataParallel: the loss of the own share, averaged over ranks."""

    def forward(self, batch, ctx):
        out = super().forward(batch, ctx)
        if ctx.group is not None:
            out = LossOut(out.loss / dist.get_world_size(ctx.group))
        return out


class RanksShare(Contrast):
    """Every rank looks at every second row, and nobody puts the parts together."""

    def views(self, batch, ctx):
        found = super().views(batch, ctx)
        if ctx.group is not None:
            rows = next(iter(batch.towers.values()))
            share = slice(dist.get_rank(ctx.group), None, dist.get_world_size(ctx.group))
            found = found + 0.1 * rows.z[share].sum()
        else:
            found = found + 0.1 * next(iter(batch.towers.values())).z.sum()
        return found


class GroupsForgets(Contrast):
    def param_groups(self):
        return ParamGroups()


class GroupsTwice(Contrast):
    def param_groups(self):
        return ParamGroups(min=[self.log_scale], max=[self.log_scale])


class SavedLoss(Contrast):
    """Its memory of former steps is no buffer."""

    passed = 0

    def pairs(self, batch):
        return super().pairs(batch) * (1 + self.passed)

    def post_step(self, ctx):
        self.passed += 1


class Scorer(Contrast):
    def scorer(self):
        return lambda u, v: u @ u.T


class Dimensions(Contrast):
    """It declares that dimensions may differ, and multiplies all the same."""


loss_value_vector, loss_value_terms, loss_value_graph = map(_factory, (ValueVector, ValueTerms, ValueGraph))
loss_gradient, loss_precision, loss_permutation = map(_factory, (Gradient, Precision, Permutation))
loss_counts, loss_few_nan, loss_few_empty = map(_factory, (Counts, FewNan, FewEmpty))
loss_extremes, loss_repeatable_random = map(_factory, (Extremes, RepeatableRandom))
loss_repeatable_mutates, loss_evaluation, loss_towers = map(_factory, (RepeatableMutates, Evaluation, Towers))
loss_tiles, loss_ranks_mean, loss_ranks_share = map(_factory, (Tiles, RanksMean, RanksShare))
loss_groups_forgets, loss_groups_twice = map(_factory, (GroupsForgets, GroupsTwice))
loss_saved, loss_scorer, loss_dimensions = map(_factory, (SavedLoss, Scorer, Dimensions))


# -- augmentations ---------------------------------------------------------------------------------------------------


def augment_aug_builds(config, context):
    return None


def augment_seeded_global(config, context):
    return lambda item, rng: item + np.float32(np.random.random())


def augment_seeded_state(config, context):
    calls = []

    def augment(item, rng):
        calls.append(0)
        return item + np.float32(rng.random() * len(calls))

    return augment


def augment_untouched(config, context):
    def augment(item, rng):
        item += np.float32(rng.random())
        return item

    return augment


def augment_varies(config, context):
    return lambda item, rng: item.copy()


def augment_pairing_kind(config, context):
    return lambda item, rng: (item * rng.random()).tolist()


def augment_pairing_draws(config, context):
    return lambda item, rng: item + rng.normal(size=item.shape).astype(np.float32)


def augment_readable_shape(config, context):
    return lambda item, rng: np.stack([item, item * np.float32(rng.random())])


def augment_readable_nan(config, context):
    return lambda item, rng: item + np.float32(rng.random() * np.nan)


class ByRow:
    """Rows are changed by the generators of their neighbours."""

    def __call__(self, inputs, rng):
        return {**inputs, "values": inputs["values"] * float(rng.uniform(0.5, 1.0))}

    def by_row(self, inputs, rngs):
        factors = torch.tensor([rng.uniform(0.5, 1.0) for rng in rngs])
        return {**inputs, "values": inputs["values"] * factors.roll(1)[:, None]}


def augment_by_row(config, context):
    return ByRow()


# -- datasets --------------------------------------------------------------------------------------------------------


def dataset_dataset_builds(config, context):
    return []


def dataset_dataset_offline(config, context):
    ask_the_network()
    return Folder(config.path)


class IndexUndeclared(Folder):
    def index(self, split):
        return {**super().index(split), "sound": ItemIndex([])}


class IndexEmpty(Folder):
    def index(self, split):
        return super().index(split) if split != "train" else {}


class IndexKind(Folder):
    def index(self, split):
        return {modality: list(items.items) for modality, items in super().index(split).items()}


class Stable(Folder):
    def __init__(self, path):
        super().__init__(path)
        self.names = [str(name) for name in torch.randperm(12).tolist()]
        self.names = [f"strip{int(name):02d}" for name in self.names]


class Splits(Folder):
    def index(self, split):
        return super().index("train" if split == "test" else split)


class LoadOrder(Folder):
    def load(self, modality, items):
        return super().load(modality, sorted(items))


class LoadCount(Folder):
    def load(self, modality, items):
        return super().load(modality, items)[:3]


class ResumablePickle(Folder):
    def __init__(self, path):
        super().__init__(path)
        self.lock = threading.Lock()


class ResumableState(Folder):
    read_so_far = 0

    def load(self, modality, items):
        if not pickled(self):
            return super().load(modality, items)
        return [item + 1 for item in super().load(modality, items)]

    def __getstate__(self):
        return {**self.__dict__, "sent": True}


def pickled(dataset):
    return "sent" in dataset.__dict__


class BadId(Folder):
    def read(self, name):
        return super().read(name) if name in self.names else np.zeros(3, dtype=np.float32)


class BadModality(Folder):
    def load(self, modality, items):
        return super().load(modality if modality.startswith("strip") else "strip", items)


class BadPath(Folder):
    def __init__(self, path):
        self.path = path
        self.names = sorted(file.stem for file in path.glob("*.txt"))


class FactsJson(Folder):
    def facts(self):
        return {"path": self.path}


class FactsShortcut(Folder):
    def facts(self):
        return {"shortcuts": ["weight"]}


class DatasetItems(Folder):
    def load(self, modality, items):
        return [Odd(strip.tolist()) for strip in super().load(modality, items)]


def _folder(cls):
    return lambda config, context: cls(config.path)


dataset_index_undeclared, dataset_index_empty = _folder(IndexUndeclared), _folder(IndexEmpty)
dataset_index_kind, dataset_stable, dataset_splits = map(_folder, (IndexKind, Stable, Splits))
dataset_load_order, dataset_load_count = map(_folder, (LoadOrder, LoadCount))
dataset_resumable_pickle, dataset_resumable_state = map(_folder, (ResumablePickle, ResumableState))
dataset_bad_id, dataset_bad_modality, dataset_bad_path = map(_folder, (BadId, BadModality, BadPath))
dataset_facts_json, dataset_facts_shortcut = map(_folder, (FactsJson, FactsShortcut))
dataset_dataset_items = _folder(DatasetItems)


# -- tasks -----------------------------------------------------------------------------------------------------------


def task_task_builds(config, context):
    return Folder(config.path)


class FiguresNan(Spread):
    def evaluate(self, model):
        return {**super().evaluate(model), "ratio": float("nan")}


class FiguresFacts(Spread):
    def evaluate(self, model):
        return {**super().evaluate(model), "facts": {"path": self.folder.path}}


class TaskRepeatable(Spread):
    def evaluate(self, model):
        return {**super().evaluate(model), "luck": int.from_bytes(os.urandom(4), "little")}


def _task(cls):
    return lambda config, context: cls(sound.Folder(config.path))


task_figures_nan, task_figures_facts, task_task_repeatable = map(_task, (FiguresNan, FiguresFacts, TaskRepeatable))


# -- teachers --------------------------------------------------------------------------------------------------------


def teacher_teacher_builds(config, context):
    return object()


class RowsMissing(sound.FirstFive):
    def embed(self, view):
        return {view.towers[0]: super().embed(view)[view.towers[0]]}


class RowsCount(sound.FirstFive):
    def embed(self, view):
        return {tower: z[1:] for tower, z in super().embed(view).items()}


class RowsNorm(sound.FirstFive):
    def embed(self, view):
        return {tower: 2 * z for tower, z in super().embed(view).items()}


class RowsWidth(sound.FirstFive):
    def embed(self, view):
        a, b = super().embed(view).items()
        return {a[0]: a[1], b[0]: torch.nn.functional.normalize(b[1][:, :2], dim=1)}


class Luck(sound.FirstFive):
    def embed(self, view):
        return {
            t: torch.nn.functional.normalize(z + os.urandom(1)[0] / 99, dim=1) for t, z in super().embed(view).items()
        }


class Forgetful(sound.FirstFive):
    def load(self, state):
        pass


def _teacher(cls):
    return lambda config, context: cls()


teacher_rows_missing, teacher_rows_count, teacher_rows_norm = map(_teacher, (RowsMissing, RowsCount, RowsNorm))
teacher_rows_width, teacher_luck, teacher_forgetful = map(_teacher, (RowsWidth, Luck, Forgetful))
