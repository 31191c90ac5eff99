// One call of a CPU convolution kernel. fprop writes y; dgrad reads y as dy and writes x as dx;
// wgrad reads y as dy and writes w as dw.
#pragma once

#include "problem/conv_problem.h"
#include "problem/epilogue.h"
#include "problem/tensor.h"

namespace fastconv {

struct CpuConvArgs {
  ConvProblem problem;
  DType dtype = DType::float32;
  TensorView x, w, y;
  Epilogue epilogue;  // of fprop, or of dgrad where it is a transposed convolution
  int num_threads = 1;
};

}  // namespace fastconv
