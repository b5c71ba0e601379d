// Strict GGUF v3 header parser. It works on bytes in memory, so it can be fuzzed without files.
//
// Nothing is allocated from a count or length before it was compared with the bytes that are
// there; tensors must be aligned, contiguous, without overlap, and end where the file ends (the
// rule of safetensors, which leaves no room for hidden bytes).
// Format: the GGUF specification of ggml-org (docs/gguf.md), version 3, little endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "errors.h"
#include "tensor_type.h"

namespace edge {

using Value = std::variant<bool, int64_t, uint64_t, double, std::string, std::vector<bool>,
                           std::vector<int64_t>, std::vector<uint64_t>, std::vector<double>,
                           std::vector<std::string>>;

struct KeyValue {
    std::string key;
    Value value;
};

struct TensorInfo {
    std::string name;  // without the suffix of our own types
    StoredType type;
    std::vector<uint64_t> shape;  // slowest dimension first: [rows, cols]
    uint64_t offset;              // bytes from the start of the file
    uint64_t num_bytes;

    uint64_t cols() const { return shape.back(); }
    uint64_t rows() const;  // product of all dimensions but the last
};

struct GgufHeader {
    std::vector<KeyValue> metadata;
    std::vector<TensorInfo> tensors;  // in file order
    uint64_t alignment;
    uint64_t data_offset;

    // nullptr when there is no such key; throws FileFault when it is of another kind.
    template <typename Elements>
    const Elements* find_array(const std::string& key) const;
};

template <typename Elements>
const Elements* GgufHeader::find_array(const std::string& key) const {
    for (const KeyValue& pair : metadata) {
        if (pair.key != key) continue;
        const auto* elements = std::get_if<Elements>(&pair.value);
        if (elements == nullptr)
            throw FileFault(0, "key '" + key + "' is no array of the kind that is wanted");
        return elements;
    }
    return nullptr;
}

// Thrown when `available` bytes end inside the header although the file is longer.
struct NeedMoreBytes {};

// Parse the header of a file of `file_size` bytes whose first `available` bytes are at `data`.
// Throws FileFault naming the offset and the reason, or NeedMoreBytes when available < file_size.
GgufHeader parse_gguf(const std::byte* data, uint64_t available, uint64_t file_size);

}  // namespace edge
