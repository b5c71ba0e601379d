// Takes a denoiser's tensors out of a model file, checking name, shape and type of each.
#pragma once

#include <initializer_list>
#include <string>
#include <unordered_set>
#include <vector>

#include "model_file.h"
#include "thread_pool.h"
#include "weights.h"

namespace edge {

class TensorSource {
public:
    TensorSource(const ModelFile& file, ThreadPool& pool) : file_(file), pool_(pool) {}

    bool has(const std::string& name) const { return file_.find(name) != nullptr; }
    // Throws FileFault for a missing or misshapen tensor, UnsupportedFault for its type.
    const TensorInfo& take(const std::string& name, std::initializer_list<int64_t> shape);
    WeightMatrix take_matrix(const std::string& name, int64_t num_outputs, int64_t depth);
    std::vector<float> take_floats(const std::string& name, std::initializer_list<int64_t> shape);

    // Throws UnsupportedFault when the file holds tensors nobody took: running without them
    // would be running another network.
    void refuse_leftovers() const;

private:
    const ModelFile& file_;
    ThreadPool& pool_;
    std::unordered_set<std::string> taken_;
};

}  // namespace edge
