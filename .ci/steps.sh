# The steps of .ci/run and .ci/full: functions that work on clean copies of what is committed, in
# virtual environments of their own. Sourced; ends the shell at the first failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(mktemp -d)
trap '[ -z "${beside:-}" ] || pkill -P "$beside" || true; rm -rf "$work"' EXIT
# Emulated kernels are compiled there and not in the user's cache, and all temporary files lie there.
export FASTCONV_EMULATOR_CACHE="$work/emulator" TMPDIR="$work/tmp"
# Where ccache is installed it knows the files of other gates again, whose folders had other names.
export CCACHE_BASEDIR="$work" CCACHE_NOHASHDIR=1
torch=torch==2.13.0

step() { printf '\n=== %s (%ss)\n' "$*" "$SECONDS"; }

clean_copies() {
    step "clean copies of HEAD: for the tests, the packages, the builds that fail"
    mkdir "$TMPDIR"
    for copy in fastconv packages failing; do git archive --prefix="$copy/" HEAD | tar -x -C "$work"; done
    cd "$work/fastconv"
}

lint() {
    step "lint"
    if grep -rnE '#include *[<"](torch|ATen|c10)/' csrc; then exit 1; fi
    python3 -m venv "$work/lint"
    "$work/lint/bin/python" - <<'EOF' | xargs "$work/lint/bin/pip" install -q
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["lint"])
EOF
    "$work/lint/bin/ruff" check .
    "$work/lint/bin/ruff" format --check .
    "$work/lint/bin/mypy"
    find csrc tests -name "*.h" -o -name "*.cpp" -o -name "*.cu" -o -name "*.cuh" |
        xargs "$work/lint/bin/clang-format" --dry-run -Werror
}

# With the CUDA kernels of the architectures named (80,90a), and more extras (,onnx) than the tests'.
install_for_testing() {
    step "README: install for testing, CUDA kernels for $1"
    python3 -m venv "$work/venv"
    export PATH="$work/venv/bin:$PATH"
    pip install -q $torch
    # An extra's dependency would replace it with a newer one.
    echo $torch >"$work/constraints"
    # FASTCONV_CUDA=1 lets nothing be left out.
    FASTCONV_CUDA=1 FASTCONV_CUDA_ARCHS="$1" PIP_CONSTRAINT="$work/constraints" pip install -q ".[test${2:-}]"
    (cd "$work" && fastconv info | tee "$work/log")
    grep -q 'built for sm_.*; no device can be used here' "$work/log"
}

wheel() {
    step "sdist -> wheel -> an environment with torch alone, without nvcc"
    cd "$work/packages"
    python3 -m venv "$work/plain"
    "$work/plain/bin/pip" install -q build
    FASTCONV_CUDA=auto PATH="$work/plain/bin:/usr/bin:/bin" CUDA_HOME=/nonexistent \
        "$work/plain/bin/python" -m build -q --outdir "$work/dist" .
    tar -tzf "$work"/dist/fastconv-*.tar.gz >"$work/files"
    for file in csrc/cpu/kernels/conv2d_implicit_gemm.cpp csrc/cuda/launch/epilogue.cu csrc/fastconv_build/backend.py; do
        grep -q "$file" "$work/files"
    done
    cd "$work"
    "$work/plain/bin/pip" install -q $torch "$work"/dist/fastconv-*.whl
    "$work/plain/bin/python" -c 'import fastconv; print(fastconv.info())' | tee "$work/info"
    grep -q 'no nvcc was found' "$work/info"
}

demo() {
    step "README: the demo, from an empty directory"
    mkdir "$work/empty" && cd "$work/empty"
    "$work/plain/bin/pip" install -q "$(echo "$work"/dist/fastconv-*.whl)[demo]"
    "$work/plain/bin/fastconv" demo
}

sanitizers() {
    step "sanitizers of the emulated CUDA kernels"
    for sanitizer in address thread; do python tests/emulator/sanitize.py "$sanitizer"; done
}

machine_code() {
    step "static gates of the Triton and the CUDA kernels"
    python tests/gates/triton_gates.py
    python tests/gates/static_gates.py --module "$(cd "$work" && python -c 'from fastconv import _cuda; print(_cuda.__file__)')"
}

faults() {
    step "seeded faults of the native code are caught"
    pytest -q tests/faults/test_faults.py tests/faults/test_cuda_faults.py --exhaustive --durations=5
}

exhaustive() {
    step "pytest --exhaustive"
    pytest -q --exhaustive --durations=15 \
        --ignore=tests/faults/test_faults.py --ignore=tests/faults/test_cuda_faults.py
}

editable() {
    step "editable install"
    python3 -m venv "$work/editable"
    # The usual installation had every instruction set.
    FASTCONV_CUDA=0 FASTCONV_INSTRUCTION_SETS=baseline \
        "$work/editable/bin/pip" install -q $torch -e "$work/packages[test]"
    (cd "$work/packages" && "$work/editable/bin/python" -m pytest -q tests/test_problem.py)
}

failing_builds() {
    cd "$work/failing"
    step "the source tree explains itself where it shadows the installed package"
    local message
    message=$(python -c 'import fastconv' 2>&1) && { echo "imported from an uncompiled tree"; exit 1; }
    grep -q 'Start Python in another directory' <<<"$message"

    step "a demanded but impossible CUDA build is an error"
    # Without build isolation pip fetches no compiler.
    PATH="$work/venv/bin:/usr/bin:/bin" CUDA_HOME=/nonexistent FASTCONV_CUDA=1 \
        pip install --no-build-isolation --no-deps . >"$work/log" 2>&1 && { echo "it built"; exit 1; }
    grep -q 'FASTCONV_CUDA=1, but no nvcc was found' "$work/log"

    step "a failing compile is an error, of C++ and of CUDA"
    FASTCONV_CUDA=0 CXX=false pip install --no-deps . >"$work/log" 2>&1 && { echo "it built"; exit 1; }
    grep -q 'building fastconv._core failed' "$work/log"
    cp csrc/cuda/launch/epilogue.cu "$work/saved.cu"
    echo '#error planted' >>csrc/cuda/launch/epilogue.cu
    FASTCONV_CUDA_ARCHS=90a pip install --no-deps . >"$work/log" 2>&1 && { echo "it built"; exit 1; }
    grep -q 'building fastconv._cuda failed' "$work/log"
    cp "$work/saved.cu" csrc/cuda/launch/epilogue.cu
}
