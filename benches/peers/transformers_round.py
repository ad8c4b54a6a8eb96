"""One round of torch and transformers: each phase once after a warm-up, a JSON line a phase.

Inference: weights in DTYPE, SDPA, logits of the last position only. Decoding counts with the fastest of its caches: one
that grows, one of a fixed size, and where there is a C++ compiler, that one with the model compiled. Training: f32 weights and moments, bf16 by autocast
where DTYPE is bf16, fused AdamW, every activation kept (recomputing them would be slower).
"""

import argparse
import contextlib
import json
import shutil
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

PAST, STEPS = 512, 128
# Steps of decoding, the last of the past, that are not timed.
WARM = 2


def emit(phase, rate, **more):
    print(json.dumps({"phase": phase, "tokens_per_second": rate, **more}), flush=True)


def ids(n, length, vocab):
    return (torch.arange(n * length).reshape(n, length) * 7919) % vocab


def load(model, dtype):
    return AutoModelForCausalLM.from_pretrained(model, dtype=dtype, attn_implementation="sdpa")


@torch.inference_mode()
def infer(model, dtype, batches):
    model = load(model, dtype).eval()
    config = model.config

    def fixed(grown):
        cache = StaticCache(config=config, max_cache_len=PAST + STEPS)
        for i, layer in enumerate(grown.layers):
            cache.update(layer.keys, layer.values, i)
        return cache

    def prefill(length):
        cache = DynamicCache(config=config)
        start = time.perf_counter()
        model(ids(1, length, config.vocab_size), past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache, length / (time.perf_counter() - start)

    def decode(n, kept, forward):
        cache, _ = prefill(PAST - WARM)
        cache.batch_repeat_interleave(n)
        cache = kept(cache)
        tokens = ids(WARM + STEPS, n, config.vocab_size).unsqueeze(-1)
        for i, step in enumerate(tokens):
            if i == WARM:
                start = time.perf_counter()
            forward(step, past_key_values=cache, use_cache=True)
        return n * STEPS / (time.perf_counter() - start)

    prefill(PAST)
    emit(f"prefill {PAST}", prefill(PAST)[1])
    ways = {"dynamic": (lambda cache: cache, model), "static": (fixed, model)}
    if shutil.which("c++"):
        ways["static, compiled"] = (fixed, torch.compile(model, dynamic=False))
    for n in batches:
        caches = {}
        for name, way in ways.items():
            try:
                caches[name] = decode(n, *way)
            except Exception as error:  # Compilation fails in many ways.
                print(f"decode {n}, {name}: {error}", file=sys.stderr)
        emit(f"decode {n}", max(caches.values()), caches=caches)


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
    emit(f"train {sequences}x{length}", sequences * length / seconds,
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
