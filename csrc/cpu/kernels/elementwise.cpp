// Sums, products and copies of tensors. Each result is rounded once, so that its bits are torch's.
// A task takes a run of rows, or a piece of a long one. Bound: bytes.
#include "cpu/runtime/elementwise_args.h"
#include "cpu/vectors/isa.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t kPiece = 4096;  // elements of a task, at least

struct Add {
  template <typename T>
  static T of(T a, T b) {
    return from_accumulator<T>(to_accumulator(a) + to_accumulator(b));
  }
};
struct Multiply {
  template <typename T>
  static T of(T a, T b) {
    return from_accumulator<T>(to_accumulator(a) * to_accumulator(b));
  }
};
struct Copy {
  template <typename T>
  static T of(T a, T) {
    return a;
  }
};

template <typename Op, typename T>
void row(T* __restrict y, const T* a, const T* b, const ElementwiseAxis& axis, int64_t count) {
  if (axis.y == 1 && axis.a == 1 && axis.b == 1) {
    for (int64_t i = 0; i < count; ++i) y[i] = Op::of(a[i], b[i]);
  } else if (axis.y == 1 && axis.a == 1 && axis.b == 0) {
    const T factor = *b;
    for (int64_t i = 0; i < count; ++i) y[i] = Op::of(a[i], factor);
  } else {
    for (int64_t i = 0; i < count; ++i) y[i * axis.y] = Op::of(a[i * axis.a], b[i * axis.b]);
  }
}

template <typename Op, typename T>
void run(const ElementwiseArgs& args) {
  const ElementwiseAxis &n = args.axes[0], &c = args.axes[1], &h = args.axes[2], &w = args.axes[3];
  const int64_t pieces = div_up(w.size, kPiece), items = n.size * c.size * h.size * pieces;
  const int64_t items_per_task = max64(1, kPiece / max64(1, min64(w.size, kPiece)));
  parallel_for(div_up(items, items_per_task), args.num_threads, [&](int64_t task) {
    const int64_t end = min64(items, (task + 1) * items_per_task);
    for (int64_t item = task * items_per_task; item < end; ++item) {
      const int64_t begin = item % pieces * kPiece, row_index = item / pieces;
      const int64_t i = row_index / (c.size * h.size), j = row_index / h.size % c.size,
                    k = row_index % h.size;
      const auto at = [&](int64_t ElementwiseAxis::* stride) {
        return i * n.*stride + j * c.*stride + k * h.*stride + begin * w.*stride;
      };
      row<Op>(static_cast<T*>(args.y) + at(&ElementwiseAxis::y),
              static_cast<const T*>(args.a) + at(&ElementwiseAxis::a),
              static_cast<const T*>(args.b) + at(&ElementwiseAxis::b), w,
              min64(kPiece, w.size - begin));
    }
  });
}

}  // namespace

void elementwise(const ElementwiseArgs& args) {
  dispatch_dtype(args.dtype, [&](auto tag) {
    using T = decltype(tag);
    switch (args.op) {
      case ElementwiseOp::add:
        return run<Add, T>(args);
      case ElementwiseOp::multiply:
        return run<Multiply, T>(args);
      case ElementwiseOp::copy:
        return run<Copy, T>(args);
    }
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
