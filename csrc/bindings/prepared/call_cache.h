// The calls of one operator that were met before, found again by their signature.
//
// A signature is everything that a call's checks, plan and results follow from: sizes, strides and
// dtypes of tensors; the values of ints, bools, strings and tuples or lists of these; and whether
// somebody differentiates. What may change under the same signature is looked at in every call: the
// states of torch, and whether the tensors' storages still hold all their elements.
#pragma once

#include <Python.h>

namespace fastconv {

struct PreparedCall;

// Adds the type CallCache to a module. Called with an operator's arguments, a CallCache gives what
// the operator returns, or None where the call was not met before or torch is not plain now
// (torch_python.h): then the long road has to be taken. False with an error set on failure.
bool add_call_cache(PyObject* module);

// From now on `cache` knows calls with these arguments (a tuple), if it can know them and does not
// yet: then prepare() is called, which gives None or a tuple of
//
//   call           a PreparedCall, as prepared_call() reads it from Python
//   results        a tuple of tensors like those that the call allocates
//   returned       the number of the result that the call returns; or a tuple of such numbers, or
//                  None among them, where it returns a tuple
//   differentiate  None where nobody differentiates. Else what a call returns is
//                  differentiate(*arguments, results).
//
// False with an error set on failure.
bool remember_call(PyObject* cache, PyObject* arguments, PyObject* prepare,
                   const PreparedCall* (*prepared_call)(PyObject*));

// The PreparedCall of a call that `cache` knows, which has one result and returns it, and which
// nobody differentiates; None for any other. Null with an error set on failure.
PyObject* find_call(PyObject* cache, PyObject* arguments);

}  // namespace fastconv
