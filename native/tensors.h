// Takes a denoiser's tensors out of a model file, checking name, shape and type of each.
#pragma once

#include <initializer_list>
#include <memory>
#include <set>
#include <string>
#include <unordered_set>
#include <vector>

#include "model_file.h"
#include "weights.h"

namespace edge {

class TensorSource {
public:
    // Throws FileFault for a key edge.activations.bf16 that is no list of names.
    explicit TensorSource(const ModelFile& file);

    bool has(const std::string& name) const { return file_.find(name) != nullptr; }
    // Throws FileFault for a missing tensor or one that is no matrix.
    int64_t num_rows(const std::string& name) const;
    // Throws FileFault for a missing or misshapen tensor, UnsupportedFault for its type.
    const TensorInfo& take(const std::string& name, std::initializer_list<int64_t> shape);
    WeightMatrix take_matrix(const std::string& name, int64_t num_outputs, int64_t depth);
    // [count, num_outputs, depth] as so many matrices.
    std::vector<WeightMatrix> take_matrices(const std::string& name, int64_t count,
                                            int64_t num_outputs, int64_t depth);
    std::vector<float> take_floats(const std::string& name, std::initializer_list<int64_t> shape);

    // The panels of all quantized matrices taken, to be placed before the first product.
    const std::vector<std::shared_ptr<Panels>>& panels() const { return panels_; }

    // Throws UnsupportedFault when the file holds tensors nobody took: running without them
    // would be running another network. Throws FileFault for bfloat16 activations of what is no
    // quantized matrix.
    void refuse_leftovers() const;

private:
    WeightMatrix make_matrix(const TensorInfo& tensor);

    const ModelFile& file_;
    std::vector<std::shared_ptr<Panels>> panels_;
    std::unordered_set<std::string> taken_;
    std::set<std::string> bf16_activations_;  // those whose matrices were not taken yet
};

}  // namespace edge
