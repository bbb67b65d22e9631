"""Compiled decode steps for int8 stacks on the CPU. Optional: everything runs without this folder, only slower.

What it gains: a decode step of one row is four products per layer and some fifty small operators between them, each of
which costs more to call than to compute. numba makes four loops of them. An int8 frame of CSM then takes 1.25 times one
read of its weights, against 1.55 times with torch's operators (docs/benchmarks.md).

What it rests on: numba and llvmlite, which come with the extra `torch`; and FBGEMM's int8 operators in torch
(cpu_kernels.py), which torch has announced to drop. loop_checks.py compares every loop with numpy before its first use,
and a missing or wrong one is logged and replaced by torch's operators (kernels.py).

When it can go: when torch has an int8 product with dynamic activations that runs at the speed of memory without a C
compiler on the user's machine, or when it drops FBGEMM's operators. Then delete this folder, its calls in model.py
(`fused_steps`), linear.py (`Int8Dynamic._few`) and csm/model.py (`Picker`), and `View.row_positions`.

Files: loops.py (the arithmetic), fused.py (one step of a stack), kernels.py (whether the loops can be used, and the
picker), loop_checks.py, arrays.py (types).
"""
