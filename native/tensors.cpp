#include "tensors.h"

#include <algorithm>

#include "errors.h"
#include "quantize.h"

namespace edge {
namespace {

// Names of quantized matrices that meet activations in bfloat16, not in int8.
constexpr const char* bf16_activations_key = "edge.activations.bf16";

template <typename Sizes>
std::string shape_text(const Sizes& sizes) {
    std::string text;
    for (const auto size : sizes) text += (text.empty() ? "" : "x") + std::to_string(size);
    return text;
}

bool same_shape(const std::vector<uint64_t>& have, std::initializer_list<int64_t> want) {
    return std::equal(have.begin(), have.end(), want.begin(), want.end(),
                      [](uint64_t a, int64_t b) { return a == static_cast<uint64_t>(b); });
}

}  // namespace

TensorSource::TensorSource(const ModelFile& file) : file_(file) {
    const auto* names = file.header().find_array<std::vector<std::string>>(bf16_activations_key);
    if (names != nullptr) bf16_activations_ = {names->begin(), names->end()};
}

int64_t TensorSource::num_rows(const std::string& name) const {
    const TensorInfo* tensor = file_.find(name);
    if (tensor == nullptr)
        throw FileFault(file_.header().data_offset, "tensor '" + name + "' is missing");
    if (tensor->shape.size() != 2)
        throw FileFault(tensor->offset, "tensor '" + name + "' is " + shape_text(tensor->shape) +
                                            ", a matrix is wanted");
    return static_cast<int64_t>(tensor->rows());
}

const TensorInfo& TensorSource::take(const std::string& name,
                                     std::initializer_list<int64_t> shape) {
    const TensorInfo* tensor = file_.find(name);
    if (tensor == nullptr)
        throw FileFault(file_.header().data_offset, "tensor '" + name + "' is missing");
    if (!same_shape(tensor->shape, shape))
        throw FileFault(tensor->offset, "tensor '" + name + "' is " + shape_text(tensor->shape) +
                                            ", the file's own keys need " + shape_text(shape));
    if (!can_dequantize(tensor->type))
        throw UnsupportedFault(
            "tensor '" + name + "' is stored as " + std::string(layout_of(tensor->type.id).name) +
            "; this version runs f32, f16, bf16, int8, int4, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, "
            "q5_k and q6_k");
    taken_.insert(name);
    return *tensor;
}

WeightMatrix TensorSource::take_matrix(const std::string& name, int64_t num_outputs,
                                       int64_t depth) {
    return make_matrix(take(name, {num_outputs, depth}));
}

std::vector<WeightMatrix> TensorSource::take_matrices(const std::string& name, int64_t count,
                                                      int64_t num_outputs, int64_t depth) {
    const WeightMatrix all = make_matrix(take(name, {count, num_outputs, depth}));
    std::vector<WeightMatrix> matrices;
    for (int64_t i = 0; i < count; ++i) matrices.push_back(all.matrix(i));
    return matrices;
}

WeightMatrix TensorSource::make_matrix(const TensorInfo& tensor) {
    const bool is_quantized = find_group_code(tensor.type).has_value();
    const bool takes_bf16 = is_quantized && bf16_activations_.erase(tensor.name) > 0;
    WeightMatrix matrix(file_, tensor, takes_bf16);
    if (is_quantized) panels_.push_back(matrix.panels());
    return matrix;
}

std::vector<float> TensorSource::take_floats(const std::string& name,
                                             std::initializer_list<int64_t> shape) {
    const TensorInfo& tensor = take(name, shape);
    std::vector<float> values(tensor.rows() * tensor.cols());
    const std::byte* stored = file_.bytes_of(tensor);
    const uint64_t row_size = tensor.num_bytes / tensor.rows();
    for (uint64_t row = 0; row < tensor.rows(); ++row)
        dequantize_row(tensor.type, stored + row * row_size, static_cast<int64_t>(tensor.cols()),
                       values.data() + row * tensor.cols());
    return values;
}

void TensorSource::refuse_leftovers() const {
    if (!bf16_activations_.empty())
        throw FileFault(0, std::string(bf16_activations_key) + " lists '" +
                               *bf16_activations_.begin() +
                               "', which is no quantized matrix of this model");
    std::string leftovers;
    int count = 0;
    for (const TensorInfo& tensor : file_.header().tensors) {
        if (taken_.count(tensor.name) != 0) continue;
        if (++count <= 4) leftovers += (count == 1 ? "'" : ", '") + tensor.name + "'";
    }
    if (count == 0) return;
    if (count > 4) leftovers += " and " + std::to_string(count - 4) + " more";
    throw UnsupportedFault("the file holds tensors that this architecture does not use: " +
                           leftovers);
}

}  // namespace edge
