// Computes without Python's lock.
#pragma once

#include <Python.h>

#include <exception>
#include <new>
#include <stdexcept>

namespace fastconv {

// Calls compute(), which must not touch a Python object. False with an error set where it throws.
template <typename Compute>
bool without_lock(const Compute& compute) {
  std::exception_ptr error;
  PyThreadState* const state = PyEval_SaveThread();
  try {
    compute();
  } catch (...) {
    error = std::current_exception();
  }
  PyEval_RestoreThread(state);
  if (error == nullptr) return true;
  try {
    std::rethrow_exception(error);
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::invalid_argument& invalid) {
    PyErr_SetString(PyExc_ValueError, invalid.what());
  } catch (const std::exception& other) {
    PyErr_SetString(PyExc_RuntimeError, other.what());
  }
  return false;
}

}  // namespace fastconv
