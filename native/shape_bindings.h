// What kind of denoiser a file holds, and what a step's experts had to do, for Python.
#pragma once

#include <pybind11/pybind11.h>

namespace edge {

void register_shapes(pybind11::module_& m);

}  // namespace edge
