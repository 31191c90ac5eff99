// im2col has no configuration but the size of its workspace: columns and products of some rows of
// y, a constant number of bytes at most (fastconv/backends/im2col.py).
#include <algorithm>

#include "plan/cuda_plan.h"

namespace fastconv {
namespace {

constexpr int64_t kColumnBytes = int64_t{64} << 20;

// Of one row of y: its columns and its K products, both as accumulators.
int64_t row_bytes(const CudaConvCall& call) {
  const ConvProblem& problem = call.problem;
  const int64_t terms = checked_product("R*S*C", problem.R, problem.S, problem.C);
  return checked_product("bytes of a row", checked_add(terms, problem.K, "terms"), problem.Q(),
                         accumulator_size(call.dtype));
}

// Rows of y that must be there at once: dgrad sums all the taps of a row of dx.
int64_t rows_at_once(const CudaConvCall& call) {
  const ConvProblem& problem = call.problem;
  if (call.op != ConvOp::dgrad) return 1;
  return std::min(problem.P(), (problem.R - 1) * problem.dilation_h / problem.stride_h + 1);
}

}  // namespace

std::string im2col_unsupported_reason(const CudaConvCall& call) {
  const int64_t needed = checked_mul(rows_at_once(call), row_bytes(call), "bytes of rows");
  if (needed <= kColumnBytes) return "";
  return std::to_string(rows_at_once(call)) + " rows of columns take " +
         std::to_string(needed >> 20) + " MiB, more than the workspace of " +
         std::to_string(kColumnBytes >> 20);
}

CudaConvPlan plan_im2col(const CudaConvCall& call) {
  const int64_t rows = checked_mul(call.problem.N, call.problem.P(), "N * P");
  CudaConvPlan plan;
  plan.tile_name = "columns and a library's matrix product";
  plan.workspace_bytes = std::min(kColumnBytes, checked_mul(rows, row_bytes(call), "bytes"));
  return plan;
}

}  // namespace fastconv
