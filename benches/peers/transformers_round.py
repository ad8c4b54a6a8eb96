"""One round of torch and transformers: each phase once after a warm-up, a JSON line a phase.

Inference: weights in DTYPE, SDPA, logits of the last position only. Training: f32 weights and moments, bf16 by autocast
where DTYPE is bf16, fused AdamW, every activation kept (recomputing them would be slower).
"""

import argparse
import contextlib
import json
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, DynamicCache

PAST, STEPS = 512, 128


def emit(phase, tokens, seconds, **more):
    print(json.dumps({"phase": phase, "tokens_per_second": tokens / seconds, **more}), flush=True)


def ids(n, length, vocab):
    return (torch.arange(n * length).reshape(n, length) * 7919) % vocab


def load(model, dtype):
    return AutoModelForCausalLM.from_pretrained(model, dtype=dtype, attn_implementation="sdpa")


@torch.inference_mode()
def infer(model, dtype, batches):
    model = load(model, dtype).eval()
    vocab = model.config.vocab_size

    def prefill():
        cache = DynamicCache(config=model.config)
        start = time.perf_counter()
        model(ids(1, PAST, vocab), past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache, time.perf_counter() - start

    prefill()
    emit(f"prefill {PAST}", PAST, prefill()[1])
    for n in batches:
        cache, _ = prefill()
        cache.batch_repeat_interleave(n)
        tokens = ids(STEPS + 1, n, vocab).unsqueeze(-1)
        model(tokens[STEPS], past_key_values=cache, use_cache=True)
        cache.crop(-1)
        start = time.perf_counter()
        for step in tokens[:STEPS]:
            model(step, past_key_values=cache, use_cache=True)
        emit(f"decode {n}", n * STEPS, time.perf_counter() - start)


def train(model, dtype, sequences, length):
    model = load(model, torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0, fused=True)
    batch = ids(sequences, length, model.config.vocab_size)
    cast = torch.autocast("cpu", dtype) if dtype != torch.float32 else contextlib.nullcontext()

    def step():
        start = time.perf_counter()
        with cast:
            loss = model(batch, labels=batch, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - start

    Path("/proc/self/clear_refs").write_text("5")  # peak memory from here on, as `toolsmith bench` does
    step()
    seconds = step()
    status = Path("/proc/self/status").read_text().split()
    emit(f"train {sequences}x{length}", sequences * length, seconds,
         peak_memory=int(status[status.index("VmHWM:") + 1]) * 1024)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["infer", "train"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", required=True)
    parser.add_argument("--train", required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    if args.what == "infer":
        infer(args.model, dtype, [int(n) for n in args.batch.split(",")])
    else:
        train(args.model, dtype, *(int(n) for n in args.train.split("x")))


main()
