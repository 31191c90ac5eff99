// fastconv._core is a table: Python passes problems, addresses and strides; no logic lives here.
//
// The parts of a module are headers of one translation unit, since pybind11's own headers take five
// times as long to compile as what is bound.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/address.h"
