#include "cpu/runtime/elementwise_args.h"

#include <algorithm>
#include <iterator>

namespace fastconv {

void join_axes(ElementwiseAxis (&axes)[4]) {
  std::stable_sort(std::begin(axes), std::end(axes),
                   [](const ElementwiseAxis& one, const ElementwiseAxis& other) {
                     return (one.size == 1) != (other.size == 1) ? one.size == 1 : one.y > other.y;
                   });
  int last = 3;  // axes from here on are joined
  for (int i = 2; i >= 0 && axes[i].size != 1; --i) {
    const ElementwiseAxis outer = axes[i];
    ElementwiseAxis& inner = axes[last];
    axes[i] = {};
    if (outer.y == inner.size * inner.y && outer.a == inner.size * inner.a &&
        outer.b == inner.size * inner.b) {
      inner.size *= outer.size;
    } else {
      axes[--last] = outer;
    }
  }
}

}  // namespace fastconv
