#include "calibration_bindings.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "arrays.h"
#include "compensate.h"
#include "denoiser.h"
#include "own_types.h"
#include "quantize.h"

namespace edge {
namespace {

// Bytes [rows][...] and errors [rows, cols]; with `scales` [rows] those of int8 columns alone.
py::tuple quantize_with_compensation(const std::string& type_name, const FloatArray& values,
                                     const FloatArray& factor, int64_t group_size, bool has_minima,
                                     const std::optional<FloatArray>& scales) {
    if (values.ndim() != 2 || factor.ndim() != 2 || factor.shape(0) != values.shape(1) ||
        factor.shape(1) != values.shape(1))
        throw std::invalid_argument("values must be [rows, cols], factor [cols, cols]");
    const int64_t rows = values.shape(0);
    const int64_t cols = values.shape(1);
    const StoredType type = writable_type(type_name, cols, scales ? cols : group_size, has_minima);
    if (!is_own(type.id)) throw std::invalid_argument("only int8 and int4 are compensated");
    if (scales && (type.id != TensorType::int8 || scales->ndim() != 1 || scales->size() != rows))
        throw std::invalid_argument("scales must be [rows], of int8");
    const int64_t size =
        scales ? cols : static_cast<int64_t>(*row_bytes(type, static_cast<uint64_t>(cols)));
    const Compensation compensation(factor.data(), cols);
    ByteArray stored({rows, size});
    FloatArray errors({rows, cols});
    std::vector<float> left(values.data(), values.data() + rows * cols);
    auto* out = reinterpret_cast<std::byte*>(stored.mutable_data());
    float* errors_out = errors.mutable_data();
    const float* scale = scales ? scales->data() : nullptr;
    {
        const py::gil_scoped_release release;
        for (int64_t row = 0; row < rows; ++row) {
            float* row_values = left.data() + row * cols;
            if (scale != nullptr)
                quantize_compensated(scale[row], compensation, row_values, out + row * size,
                                     errors_out + row * cols);
            else
                quantize_compensated(type, compensation, row_values, out + row * size,
                                     errors_out + row * cols);
        }
    }
    return py::make_tuple(stored, errors);
}

FloatArray rows_of(const std::vector<float>& values, int64_t cols) {
    FloatArray rows({static_cast<int64_t>(values.size()) / cols, cols});
    std::copy(values.begin(), values.end(), rows.mutable_data());
    return rows;
}

std::vector<float> hidden_rows(const Denoiser& denoiser, const FloatArray& hidden) {
    if (hidden.ndim() != 2 || hidden.shape(1) != denoiser.shape().hidden_size)
        throw std::invalid_argument("hidden states must be [rows, hidden_size]");
    return {hidden.data(), hidden.data() + hidden.size()};
}

FloatArray embedded(Denoiser& denoiser, const IntArray& ids) {
    return rows_of(denoiser.embedded(to_vector(ids)), denoiser.shape().hidden_size);
}

py::array_t<int32_t> numbers(const std::vector<int32_t>& values) {
    return py::array_t<int32_t>(static_cast<py::ssize_t>(values.size()), values.data());
}

// The hidden states that leave a layer and, if asked for, what entered its products: those of all
// rows, then of pairs of a row and an expert the experts, the rows and what entered the down ones.
py::tuple run_layer(Denoiser& denoiser, int64_t index, const FloatArray& hidden,
                    const AttentionMask& mask, bool look) {
    std::vector<float> rows = hidden_rows(denoiser, hidden);
    LayerInputs seen;
    {
        const py::gil_scoped_release release;
        denoiser.run_layer(index, mask, rows, look ? &seen : nullptr);
    }
    const DenoiserShape& shape = denoiser.shape();
    py::list inputs;
    py::object pairs = py::none();
    if (look) {
        inputs.append(rows_of(seen.attention, shape.hidden_size));
        inputs.append(rows_of(seen.attention_output, shape.query_width()));
        inputs.append(rows_of(seen.feed_forward, shape.hidden_size));
        if (!seen.down.empty()) {
            const int64_t num_rows = hidden.shape(0);
            inputs.append(rows_of(seen.down, static_cast<int64_t>(seen.down.size()) / num_rows));
        }
        if (!seen.pair_rows.empty())
            pairs = py::make_tuple(numbers(seen.pair_experts), numbers(seen.pair_rows),
                                   rows_of(seen.pair_down, shape.experts.size));
    }
    return py::make_tuple(rows_of(rows, shape.hidden_size), inputs, pairs);
}

FloatArray head_inputs(Denoiser& denoiser, const FloatArray& hidden) {
    return rows_of(denoiser.head_inputs(hidden_rows(denoiser, hidden)),
                   denoiser.shape().hidden_size);
}

FloatArray head_logits(Denoiser& denoiser, const FloatArray& hidden) {
    const std::vector<float> rows = hidden_rows(denoiser, hidden);
    FloatArray out({static_cast<int64_t>(hidden.shape(0)), denoiser.shape().vocab_size});
    float* data = out.mutable_data();
    const py::gil_scoped_release release;
    denoiser.head_logits(rows, data);
    return out;
}

}  // namespace

void register_calibration(py::module_& m) {
    m.def("quantize_compensated", quantize_with_compensation, py::arg("type"),
          py::arg("values").noconvert(), py::arg("factor").noconvert(), py::arg("group_size") = 0,
          py::arg("has_minima") = false, py::arg("scales") = py::none());
    m.def("embedded", embedded, py::arg("denoiser"), py::arg("ids").noconvert());
    m.def("run_layer", run_layer, py::arg("denoiser"), py::arg("index"),
          py::arg("hidden").noconvert(), py::arg("mask") = AttentionMask{},
          py::arg("look") = false);
    m.def("head_inputs", head_inputs, py::arg("denoiser"), py::arg("hidden").noconvert());
    m.def("head_logits", head_logits, py::arg("denoiser"), py::arg("hidden").noconvert());
    m.def("replace_matrix", &Denoiser::replace, py::arg("denoiser"), py::arg("name"),
          py::arg("file"), py::call_guard<py::gil_scoped_release>());
}

}  // namespace edge
