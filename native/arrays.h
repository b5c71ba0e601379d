// Arrays as Python gives them.
#pragma once

#include <pybind11/numpy.h>

#include <cstdint>
#include <stdexcept>
#include <vector>

namespace edge {

namespace py = pybind11;

using IntArray = py::array_t<int32_t, py::array::c_style>;
using FloatArray = py::array_t<float, py::array::c_style>;
using ByteArray = py::array_t<uint8_t, py::array::c_style>;

template <typename Value>
std::vector<Value> to_vector(const py::array_t<Value, py::array::c_style>& array) {
    if (array.ndim() != 1) throw std::invalid_argument("a one-dimensional array is wanted");
    return {array.data(), array.data() + array.size()};
}

}  // namespace edge
