// fastconv._core is a table: Python passes problems, addresses and strides; no logic lives here.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/address.h"

namespace fastconv {

void bind_problem(pybind11::module_& m);
void bind_conv2d(pybind11::module_& m);
void bind_pool2d(pybind11::module_& m);
void bind_plan(pybind11::module_& m);

}  // namespace fastconv
