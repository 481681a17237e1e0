"""Where kernels are tried: on a GPU if there is one, else in Triton's interpreter."""

import json
import os
import re
import subprocess
import sys
import textwrap

import pytest
import torch

DEVICE = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
DTYPES = [torch.float32, torch.bfloat16]

_COMPILE = """
    import json, os, subprocess, sys, tempfile, warnings
    warnings.simplefilter('ignore')
    from importlib import import_module
    import triton.backends.nvidia as nvidia
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    reader = os.path.join(os.path.dirname(nvidia.__file__), 'bin', 'cuobjdump')

    def build(kernel, types, constants, options, capability):
        names = kernel.arg_names
        signature = {n: 'constexpr' if n in constants else types.get(n, 'i32') for n in names}
        aligned = {(i,): [['tt.divisibility', 16]] for i, n in enumerate(names)
                   if signature[n].startswith('*')}
        source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
        made = triton.compile(source, target=GPUTarget('cuda', capability, 32), options=options)
        with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
            file.write(made.asm['cubin'])
            file.flush()
            call = [reader, '--dump-resource-usage', file.name]
            said = subprocess.run(call, capture_output=True, text=True, check=True)
        return made.metadata.shared, said.stdout

    module, name, variants, capabilities = json.load(sys.stdin)
    kernel = getattr(import_module(module), name)
    print(json.dumps([build(kernel, *v, c) for c in capabilities for v in variants]))
"""
SHARED = {80: 166_912, 90: 232_448}
"""Is how much shared memory a block can have at most, on an A100 and on an H100."""


def skip_unless_matching_runs() -> None:
    """In the interpreter of Triton 3.2 an index of ``tl.max`` overwrites what is not its own."""
    pytest.importorskip('triton', minversion='3.2' if torch.cuda.is_available() else '3.3')


def check_compiled(kernel, variants):
    """Compiles a kernel for the A100 and the H100, which need not be there.

    Nothing may be spilled, and the shared memory has to fit.

    Args:
        kernel: function of a module of ``segformer_plusplus.kernels``.
        variants: for each, the types of the arguments that are no i32, such as '*bf16' or 'fp32',
            the values of the constexpr arguments, and options such as ``dict(num_warps=8)``.
    """
    # 3.2 takes its constants by another name and its alignments in another form
    pytest.importorskip('triton', minversion='3.3')
    asked = [kernel.fn.__module__, kernel.fn.__name__, variants, list(SHARED)]
    result = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(_COMPILE)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != 'TRITON_INTERPRET'},
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    made = json.loads(result.stdout)
    wanted = [(capability, variant) for capability in SHARED for variant in variants]
    for (capability, variant), (shared, said) in zip(wanted, made, strict=True):
        spilled = re.findall(r'(?:STACK|LOCAL):(\d+)', said)
        assert spilled and not any(map(int, spilled)), (capability, variant, said)
        assert shared <= SHARED[capability], (capability, variant, shared)
