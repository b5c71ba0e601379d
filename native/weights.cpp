#include "weights.h"

#include <stdexcept>

namespace edge {
namespace {

FloatFormat format_of(TensorType type) {
    switch (type) {
        case TensorType::f32: return FloatFormat::f32;
        case TensorType::f16: return FloatFormat::f16;
        case TensorType::bf16: return FloatFormat::bf16;
        default: throw std::logic_error("no kernel for this tensor type");
    }
}

}  // namespace

WeightMatrix::WeightMatrix(const ModelFile& file, const TensorInfo& tensor, bool bf16_activations)
    : num_outputs_(static_cast<int64_t>(tensor.shape.size() < 2 ? 1 : tensor.shape.rbegin()[1])),
      depth_(static_cast<int64_t>(tensor.cols())),
      num_bytes_(static_cast<int64_t>(tensor.num_bytes / tensor.rows()) * num_outputs_),
      data_(file.bytes_of(tensor)),
      bf16_activations_(bf16_activations) {
    if (const std::optional<GroupCode> code = find_group_code(tensor.type))
        panels_ = std::make_shared<Panels>(file, tensor, *code);
    else
        format_ = format_of(tensor.type.id);
}

WeightMatrix WeightMatrix::matrix(int64_t index) const {
    WeightMatrix one = *this;
    one.data_ += index * num_bytes_;
    one.first_panel_ = index * num_panels();
    return one;
}

}  // namespace edge
