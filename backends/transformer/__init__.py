"""One Llama-family core for LLASA, CSM (both stacks) and LLaDA; it knows token ids only as rows and nothing of audio.

Files: config.py (shapes), rope.py (positions), attention.py (cache, slots and the patterns of attention), linear.py
(number formats), block.py (one layer), model.py (the stack), checkpoint.py (named tensors, exact key sets), sampling.py
(next tokens), kernel_checks.py and cpu_kernels.py (which kernels are right here), cpu_int8/ (compiled decode steps),
cuda_graph.py. The names below are imported from these files.

A causal Llama with four slots:

    config = TransformerConfig(layers=16, width=2048, heads=32, kv_heads=8, head_dim=64, hidden=8192,
                               max_positions=2048,
                               rope=Rope(500_000.0, Llama3Scaling(32.0, 1.0, 4.0, 8192)))       # half-split rows
    checkpoint = Checkpoint.from_folder(folder)
    kind = precision("int8", "cpu")                    # or "float32", "bfloat16", "float16"
    stack = Transformer(config, checkpoint.reader(llama_names("model.")), precision=kind, device="cpu")
    table = checkpoint.take("model.embed_tokens.weight", (vocabulary, 2048)).to(kind.compute)
    head = make_linear(table[speech_rows], kind, "cpu")
    checkpoint.finish(ignore=(r"lm_head\\.weight",))   # anything else left over is an error that names it
    cache = KVCache(config, slots=4, dtype=kind.compute)

    slot = cache.take()
    hidden = stack(table[prompt][None], Span(cache, slot, len(prompt), causal=True))      # [1, time, width]
    hidden = stack(table[ids][:, None], Step(cache, slots, positions))                    # [batch, 1, width]
    logits = head(hidden[:, -1])                                                          # [batch, rows of the head]
    ids = pick(logits, noise, temperature, top_k, top_p)                                  # numbers, or tensors [batch]

A bidirectional stack with a prefix or dual cache (rows s..e-1 computed anew, the rest cached):

    stack(x, Whole(x.shape[1], causal=False))                                             # no cache
    stack(x, Span(cache, 0, rows=length, causal=False))                                   # fills positions 0..length-1
    stack(x[:, s:e], Span(cache, 0, rows=e - s, start=s, length=length, causal=False))    # overwrites s..e-1, sees all
    stack(x[:, rows], Rewrite(cache, 0, rows, length))                                    # rows at arbitrary positions

Batches: `Span(..., count=n)` takes the slots first..first+n-1 for x of batch n. What is guaranteed: a prompt is
prefilled alone; a step attends per row over exactly its own length; int8 sums on the CPU are exact; with `rows=n` dense
products of up to n rows run in one fixed shape. So a request computes the same bits alone and beside others with int8,
and with dense weights up to `rows` slots; without `rows` the difference is rounding (about 1e-6 in float32).
"""
