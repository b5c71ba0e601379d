// What the converter's calibration calls.
#pragma once

#include <pybind11/pybind11.h>

namespace edge {

void register_calibration(pybind11::module_& m);

}  // namespace edge
