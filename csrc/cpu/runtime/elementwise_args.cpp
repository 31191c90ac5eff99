#include "cpu/runtime/elementwise_args.h"

#include <algorithm>

namespace fastconv {

std::array<ElementwiseAxis, 4> joined_axes(std::array<ElementwiseAxis, 4> axes) {
  std::stable_sort(axes.begin(), axes.end(),
                   [](const ElementwiseAxis& one, const ElementwiseAxis& other) {
                     return (one.size == 1) != (other.size == 1) ? one.size == 1 : one.y > other.y;
                   });
  std::array<ElementwiseAxis, 4> joined;
  size_t last = joined.size() - 1;  // filled from the innermost on
  joined[last] = axes.back();
  for (size_t i = axes.size() - 1; i-- > 0;) {
    const ElementwiseAxis& outer = axes[i];
    ElementwiseAxis& inner = joined[last];
    if (outer.size == 1) break;
    const bool joins = outer.y == inner.size * inner.y && outer.a == inner.size * inner.a &&
                       outer.b == inner.size * inner.b;
    if (joins) {
      inner.size *= outer.size;
    } else {
      joined[--last] = outer;
    }
  }
  return joined;
}

}  // namespace fastconv
