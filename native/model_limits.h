// Every limit that a model file must respect, in one place (printed by `edge doctor`).
#pragma once

#include <cstdint>

namespace edge::limits {

constexpr uint64_t max_keys = 65'535;
constexpr uint64_t max_tensors = 65'535;
constexpr uint64_t max_key_bytes = 65'535;
constexpr uint64_t max_string_bytes = uint64_t{16} << 20;
constexpr uint64_t max_tokenizer_bytes = uint64_t{64} << 20;  // the whole tokenizer JSON
constexpr uint64_t max_array_string_bytes = uint64_t{1} << 20;
constexpr uint64_t max_array_elements = uint64_t{1} << 26;
constexpr uint64_t max_tensor_name_bytes = 127;
constexpr uint32_t max_dimensions = 4;
constexpr uint64_t max_tensor_elements = uint64_t{1} << 40;
constexpr uint64_t min_alignment = 8;
constexpr uint64_t max_alignment = 4096;
constexpr uint64_t default_alignment = 32;

// The smallest key-value pair: key length, empty key, type, one byte. The smallest tensor: name
// length, dimension count, one dimension, type, offset. Both bound the counts by the file size.
constexpr uint64_t min_key_value_bytes = 13;
constexpr uint64_t min_tensor_info_bytes = 32;

}  // namespace edge::limits
