"""Pretrain the small ESM-2 that the package ships (`esm2_pdb_small`) by masked language modelling.

The corpus is a FASTA of PDB chains without any relative of the held-out chains of `protein/pdb-sample`
(`make_pdb_sample.py --corpus`). The model is written as float16 safetensors with its configuration.

    python scripts/pretrain_esm2.py corpus.fasta gentle_protein/data/esm2_pdb_small

The model card beside the weights names the two calls that made the shipped ones.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import EsmConfig, EsmForMaskedLM

from gentle_protein.alphabet import CLS, EOS, MASK, PAD, STANDARD, TOKENS, encode

RESIDUES = torch.tensor([TOKENS.index(a) for a in STANDARD])


def read_fasta(path: Path) -> list[np.ndarray]:
    """Token indices of every record."""
    records = path.read_text().split(">")[1:]
    return [encode("".join(record.split("\n")[1:])) for record in records]


def batches(
    chains: list[np.ndarray], tokens_per_batch: int, crop: int, rng: np.random.Generator
) -> Iterator[torch.Tensor]:
    """Endless length-bucketed batches of token ids (B, T); a chain longer than `crop` gives a random window."""
    while True:
        epoch = []
        for index in rng.permutation(len(chains)):
            chain = chains[index]
            start = rng.integers(0, max(len(chain) - crop, 0) + 1)
            epoch.append(chain[start : start + crop])
        epoch.sort(key=lambda c: len(c) + rng.uniform(-4, 4))
        groups, group = [], []
        for chain in epoch:
            group.append(chain)
            if len(group) * (len(chain) + 2) >= tokens_per_batch:
                groups.append(group)
                group = []
        for index in rng.permutation(len(groups)):
            width = -(-(max(map(len, groups[index])) + 2) // 32) * 32  # few shapes: allocators like that
            tokens = np.full((len(groups[index]), width), PAD)
            for row, chain in enumerate(groups[index]):
                tokens[row, : len(chain) + 2] = np.concatenate([[CLS], chain, [EOS]])
            yield torch.from_numpy(tokens)


def mask_tokens(tokens: torch.Tensor, rate: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """BERT's scheme: of the chosen residues 80 % become `<mask>`, 10 % another residue, 10 % stay."""
    residue = tokens > EOS
    chosen = (torch.rand(tokens.shape, generator=generator) < rate) & residue
    labels = tokens.masked_fill(~chosen, -100)
    kind = torch.rand(tokens.shape, generator=generator)
    random = RESIDUES[torch.randint(len(RESIDUES), tokens.shape, generator=generator)]
    inputs = torch.where(chosen & (kind < 0.8), MASK, tokens)
    return torch.where(chosen & (kind >= 0.9), random, inputs), labels


def masked_loss(model: EsmForMaskedLM, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over the chosen positions; the head runs on those alone."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.esm(inputs, attention_mask=(inputs != PAD).long()).last_hidden_state
        chosen = labels != -100
        logits = model.lm_head(hidden[chosen])
    return torch.nn.functional.cross_entropy(logits.float(), labels[chosen])


def write(model: EsmForMaskedLM, facts: dict[str, Any], folder: Path) -> None:
    """Save weights in float16, configuration and facts. Rotary frequencies follow from the configuration and, since
    float16 would round them, are left out; so is the contact head, which is not trained."""
    folder.mkdir(parents=True, exist_ok=True)
    left_out = ("contact_head", "rotary_embeddings.inv_freq", "lm_head.decoder")  # the decoder is the embedding
    state = {n: t.half().contiguous() for n, t in model.state_dict().items() if not any(part in n for part in left_out)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    config = copy.deepcopy(model.config)
    config.architectures, config.dtype = ["EsmForMaskedLM"], "float16"
    config.save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(facts, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=160)
    parser.add_argument("--heads", type=int, default=5)
    parser.add_argument("--tokens-per-batch", type=int, default=4000)
    parser.add_argument("--crop", type=int, default=254)
    parser.add_argument("--mask-rate", type=float, default=0.15)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop", type=int, help="end after this many steps of the schedule")
    parser.add_argument("--init", type=Path, help="start from this saved model, with a new schedule")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    chains = read_fasta(args.corpus)
    held = rng.permutation(len(chains))[:300]
    chosen = set(held.tolist())
    validation = [chains[i] for i in held]
    chains = [c for i, c in enumerate(chains) if i not in chosen]

    config = EsmConfig(
        vocab_size=len(TOKENS), pad_token_id=PAD, mask_token_id=MASK,
        hidden_size=args.hidden, num_hidden_layers=args.layers, num_attention_heads=args.heads,
        intermediate_size=4 * args.hidden, position_embedding_type="rotary", token_dropout=True,
        emb_layer_norm_before=False, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        max_position_embeddings=1026, layer_norm_eps=1e-5,
    )  # fmt: skip
    model = EsmForMaskedLM(config) if args.init is None else EsmForMaskedLM.from_pretrained(args.init).float()
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98))
    warmup = max(args.steps // 25, 1)

    def schedule(step: int) -> float:
        progress = max(step - warmup, 0) / max(args.steps - warmup, 1)
        return min((step + 1) / warmup, 1.0) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(chains):,} chains", flush=True)

    def evaluate() -> float:
        model.eval()
        losses, local = [], torch.Generator().manual_seed(1)
        stream = batches(validation, args.tokens_per_batch, args.crop, np.random.default_rng(1))
        with torch.no_grad():
            for _ in range(10):
                losses.append(masked_loss(model, *mask_tokens(next(stream), 0.15, local)).item())
        model.train()
        return float(np.mean(losses))

    def save(step: int, loss: float) -> None:
        facts = {"steps": step, "planned_steps": args.steps, "chains": len(chains), "validation_chains": len(held)}
        facts |= {"validation_loss": round(loss, 4), "perplexity": round(math.exp(loss), 3)}
        facts |= {k: v for k, v in vars(args).items() if k not in ("corpus", "target", "steps", "init", "stop")}
        write(model, facts, args.target)

    stream, began = batches(chains, args.tokens_per_batch, args.crop, rng), time.time()
    last = args.steps if args.stop is None else args.stop
    for step in range(last):
        loss = masked_loss(model, *mask_tokens(next(stream), args.mask_rate, generator))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if step % 20 == 0:
            print(f"step {step} loss {loss.item():.4f} {time.time() - began:.0f} s", flush=True)
        if (step + 1) % 250 == 0 or step + 1 == last:
            value = evaluate()
            save(step + 1, value)
            print(f"step {step + 1} validation {value:.4f} perplexity {math.exp(value):.3f}", flush=True)


if __name__ == "__main__":
    main()
