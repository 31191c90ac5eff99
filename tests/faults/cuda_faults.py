"""The faults that test_cuda_faults.py seeds into the CUDA kernels, and which test catches each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    name: str
    file: str  # under csrc/cuda
    right: str  # a piece of that file's text
    wrong: str  # what is put in its place
    caught_by: str  # pytest arguments
    seed: int = 0

    def __str__(self):
        return self.name.replace(" ", "_")


EVERY_GEMM = "cuda_kernels/test_cuda_implicit_gemm.py::test_every_kernel -k "
INTEGERS = "conv2d/test_conv2d_kernels.py::test_integers_exactly -k "
RANDOM = "conv2d/test_conv2d_kernels.py::test_random_no_worse_than_torch -k "
WRITTEN = "conv2d/test_conv2d_kernels.py::test_outputs_are_written_whole_and_nothing_else -k "
VECTOR_GATHER = "kernels/gemm/implicit_gemm_vector_gather.cuh"
ELEMENT_GATHER = "kernels/gemm/implicit_gemm_element_gather.cuh"
GEMM_PARAMS = "kernels/gemm/implicit_gemm_params.cuh"
GEMM_STORE = "kernels/gemm/implicit_gemm_output.cuh"
WGRAD_GATHER = "kernels/gemm/wgrad_vector_gather.cuh"
VECTORS = "kernels/depthwise/conv2d_depthwise_vector.cuh"
TEMPLATES = "cuda_kernels/test_cuda_depthwise.py -k templates"
STEM_GEMM = "kernels/gemm/conv2d_fprop_stem_gemm.cuh"
GROUPED_GEMM = "kernels/gemm/conv2d_grouped_gemm.cuh"
FAULTS = [
    Fault(
        "dropped slice of a split gemm_k",
        "kernels/gemm/split_k_reduce.cuh",
        "slice < params.splits; ++slice",
        "slice < max_of(1, params.splits - 1); ++slice",
        EVERY_GEMM + "fp16-v1",
    ),
    Fault(
        "taps of a phase in the wrong order",
        "kernels/gemm/implicit_gemm_pack_filters.cuh",
        "phase.tap_first_h + tap_h * phase.tap_step_h",
        "phase.tap_first_h + tap_h",
        EVERY_GEMM + "fp16-v1",
    ),
    Fault(
        "missing barrier in the ring of slabs",
        VECTOR_GATHER,
        "      // place the next load takes.\n      __syncthreads();",
        "      // place the next load takes.",
        EVERY_GEMM + "fp16-v1",
        seed=3,
    ),
    Fault(
        "wait for too few slabs",
        VECTOR_GATHER,
        "cp_async_wait<kGemmStages - 2>();",
        "cp_async_wait<kGemmStages - 1>();",
        EVERY_GEMM + "fp16-v1",
    ),
    Fault(
        "halo off by one",
        GEMM_PARAMS,
        "static_cast<unsigned>(row.h + tap.h) < static_cast<unsigned>(params.source_h)",
        "static_cast<unsigned>(row.h + tap.h) <= static_cast<unsigned>(params.source_h)",
        EVERY_GEMM + "fp16-v0",
    ),
    Fault(
        "masks off by one",
        "kernels/gemm/implicit_gemm_masked_row.cuh",
        ">= static_cast<unsigned>(size)",
        "> static_cast<unsigned>(size)",
        EVERY_GEMM + "fp16-v1",
    ),
    Fault(
        "no carry into the next row of taps",
        VECTOR_GATHER,
        "bit_h += 1, ",
        "",
        EVERY_GEMM + "fp16-v1-w0",
    ),
    Fault(
        "columns past the end are stored",
        GEMM_STORE,
        "min_of(part.columns, Config::kTileN)",
        "Config::kTileN",
        WRITTEN + "'cuda and implicit_gemm'",
    ),
    Fault(
        "wgrad of groups counts pixels past the last column",
        "kernels/gemm/conv2d_wgrad_grouped_gemm.cuh",
        "both[2 * j + 1] & far",
        "both[2 * j + 1]",
        "cuda_kernels/test_cuda_implicit_gemm.py -k past_the_last_column",
    ),
    Fault(
        "a copy to channels_last is read before it is whole",
        "kernels/gemm/pack_source.cuh",
        "__syncthreads();",
        "",
        "cuda_kernels/test_cuda_implicit_gemm.py -k copied_to_channels_last",
        seed=3,
    ),
    Fault(
        "taps tabulated too late",
        ELEMENT_GATHER,
        "tabulate(next + 1);",
        "tabulate(next);",
        EVERY_GEMM + "fp16-v0",
    ),
    Fault(
        "wrong swizzle",
        "kernels/gemm/implicit_gemm_tile.cuh",
        "a_slab + (a_offset ^ (step * kStepBytes))",
        "a_slab + (a_offset + step * kStepBytes)",
        EVERY_GEMM + "fp16",
    ),
    Fault(
        "the small halves of TF32 are lost",
        "kernels/gemm/implicit_gemm_tile.cuh",
        "small = truncate_to_tf32(whole - __uint_as_float(big));",
        "small = 0;",
        RANDOM + "'cuda and implicit_gemm and float32'",
    ),
    Fault(
        "stale pixels in wgrad",
        WGRAD_GATHER,
        "tabulate(slab + kGemmStages);",
        ";",
        EVERY_GEMM + "fp16-v1-w1",
    ),
    Fault(
        "copies past the end keep what was there",
        "device/cp_async.cuh",
        "emulator::cp_async(shared, global, 16, valid ? 16 : 0);",
        "if (valid) emulator::cp_async(shared, global, 16, 16);",
        EVERY_GEMM + "fp16-v1",
    ),
    Fault(
        "stem: taps that pad a filter row see a pixel",
        STEM_GEMM,
        "a[i][e] = pads ? 0 : a[i][e]",
        "a[i][e] = a[i][e]",
        "cuda_kernels/test_cuda_implicit_gemm.py -k stem",
    ),
    Fault(
        "stem: the next tile's pixels overwrite results",
        STEM_GEMM,
        "    __syncthreads();  // all have read the results, whose place the next x takes\n",
        "",
        "cuda_kernels/test_cuda_implicit_gemm.py -k stem",
        seed=5,
    ),
    Fault(
        "groups of 4: every column takes the first group's pixels",
        GROUPED_GEMM,
        "if (t >= 2) tile.acc",
        "if (t >= 4) tile.acc",
        "cuda_kernels/test_cuda_implicit_gemm.py -k groups",
    ),
    Fault(
        "groups: results are stored before all are there",
        GROUPED_GEMM,
        "    __syncthreads();  // all have read x, too, whose place the next tile takes\n",
        "",
        "cuda_kernels/test_cuda_implicit_gemm.py -k groups",
        seed=5,
    ),
    Fault(
        "direct: missing barrier before the slab is read",
        "kernels/direct/conv2d_gather_direct.cuh",
        "    __syncthreads();\n",
        "",
        INTEGERS + "'cuda and direct'",
        seed=5,
    ),
    Fault(
        "depthwise: the filter is not turned for dgrad",
        "kernels/depthwise/conv2d_depthwise_tile.cuh",
        "params.flip_filter ? kTaps - 1 - tap : tap",
        "tap",
        "cuda_kernels/test_cuda_depthwise.py",
    ),
    Fault(
        "depthwise: the filter of vectors is not turned for dgrad",
        VECTORS,
        "params.flip_filter ? kTaps - 1 - tap : tap",
        "tap",
        TEMPLATES,
    ),
    Fault(
        "depthwise: columns of vectors off by one",
        VECTORS,
        "static_cast<unsigned>(w0 + j) < static_cast<unsigned>(width)",
        "static_cast<unsigned>(w0 + j) <= static_cast<unsigned>(width)",
        TEMPLATES,
    ),
    Fault(
        "depthwise: rows of vectors off by one",
        VECTORS,
        "static_cast<unsigned>(h_) < static_cast<unsigned>(h_end_)",
        "static_cast<unsigned>(h_) <= static_cast<unsigned>(h_end_)",
        TEMPLATES,
    ),
    Fault(
        "depthwise: the next row is loaded before it is reached",
        "kernels/depthwise/conv2d_fprop_depthwise_vectors.cuh",
        "      row.advance();\n",
        "",
        TEMPLATES,
    ),
    Fault(
        "depthwise: rows of padding are skipped under an infinite filter",
        "kernels/depthwise/conv2d_fprop_depthwise_vectors.cuh",
        "if (kSkipsPadding && !finite) {",
        "if (false) {",
        "cuda_kernels/test_cuda_depthwise.py -k vectors_need",
    ),
    Fault(
        "depthwise: the step after the last row of x is left out",
        "kernels/depthwise/conv2d_fprop_depthwise_vectors.cuh",
        "min_of(rows, below)",
        "min_of(rows, below - 1)",
        TEMPLATES,
    ),
    Fault(
        "depthwise: vectors past the end are stored",
        "kernels/depthwise/conv2d_fprop_depthwise_vectors.cuh",
        "if (q < columns) {",
        "{",
        TEMPLATES,
    ),
    Fault(
        "depthwise: missing barrier before filters of vectors are read",
        "kernels/depthwise/conv2d_dgrad_depthwise_vectors.cuh",
        "  __syncthreads();\n",
        "",
        TEMPLATES,
    ),
    Fault(
        "depthwise: the column before the first is stored by dgrad",
        "kernels/depthwise/conv2d_dgrad_depthwise_vectors.cuh",
        "static_cast<unsigned>(w0 + e) < static_cast<unsigned>(params.out_w)",
        "w0 + e < params.out_w",
        TEMPLATES,
    ),
    Fault(
        "depthwise: the last row of an odd number is left out by dgrad",
        "kernels/depthwise/conv2d_dgrad_depthwise_vectors.cuh",
        "(row_end + 1 + kReach) / 2",
        "(row_end + kReach) / 2",
        TEMPLATES,
    ),
    Fault(
        "depthwise: wgrad multiplies what lies past the last column",
        "kernels/depthwise/conv2d_wgrad_depthwise_vectors.cuh",
        "if (columns >= kStrip) {",
        "if (true) {",
        "cuda_kernels/test_cuda_depthwise.py -k nan_and_inf",
    ),
    Fault(
        "depthwise: rows of dy that are not the tile's are multiplied",
        "kernels/depthwise/conv2d_wgrad_depthwise_vectors.cuh",
        "|| p + a < 0 || p + a >= rows",
        "",
        "cuda_kernels/test_cuda_depthwise.py -k nan_and_inf",
    ),
    Fault(
        "depthwise: strips of wgrad are added before all are there",
        "kernels/depthwise/conv2d_depthwise_wgrad_work.cuh",
        "    __syncthreads();\n    for (int i",
        "    for (int i",
        TEMPLATES,
        seed=3,
    ),
    Fault(
        "depthwise: the walk over a tile does not reach the next row",
        "kernels/depthwise/conv2d_depthwise_tile.cuh",
        "inner -= inner_count, ++middle;",
        "inner -= inner_count;",
        TEMPLATES,
    ),
    Fault(
        "depthwise: the walk over a tile loses what its second axis carries",
        "kernels/depthwise/conv2d_depthwise_tile.cuh",
        "offset += static_cast<uint64_t>(walk.middle_carry), at += walk.shared_middle_carry;",
        "",
        TEMPLATES,
    ),
    Fault(
        "depthwise: missing barrier in wgrad",
        "kernels/depthwise/conv2d_wgrad_depthwise.cuh",
        "    __syncthreads();\n    if (!work.active) continue;",
        "    if (!work.active) continue;",
        "cuda_kernels/test_cuda_depthwise.py -k templates",
    ),
    Fault(
        "stem: the last tile's halo is overwritten",
        "kernels/direct/conv2d_fprop_stem.cuh",
        "    __syncthreads();  // the last tile's halo was read\n",
        "",
        "cuda_kernels/test_cuda_direct.py -k stem",
        seed=5,
    ),
    Fault(
        "pool: NaN loses",
        "kernels/pool/pool2d_max.cuh",
        "value > max.value || value != value",
        "value > max.value",
        "pool2d/test_pool2d.py -k 'nan and cuda'",
    ),
    Fault(
        "pool: the last of equals wins",
        "kernels/pool/pool2d_max.cuh",
        "value > max.value || value != value",
        "value >= max.value || value != value",
        "pool2d/test_pool2d.py -k 'max and cuda'",
    ),
    Fault(
        "bias gradient: missing barrier",
        "kernels/epilogue.cuh",
        "    __syncthreads();\n",
        "",
        "conv2d/test_epilogue_kernels.py -k cuda",
        seed=5,
    ),
]
