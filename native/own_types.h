// Our own types, int8 and int4: where a file keeps them, and how weights become them.
//
// A tensor `name` is stored as bytes [...][row_bytes] under `name.edge_int8` or `name.edge_int4`,
// so that a foreign reader misses the tensor and refuses the file. What the bytes mean is said by
// four keys, arrays with an element per such tensor:
//   edge.tensor.names       its name in the file
//   edge.tensor.cols        weights in a row, a multiple of 32
//   edge.tensor.group_size  weights that share a scale: 32, 64, 128 or (int8) all of a row
//   edge.tensor.has_minima  whether a group has a minimum too (int4)
// group_codes.h has the layout of a row.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gguf.h"
#include "tensor_type.h"

namespace edge {

// Give those tensors their name, type and shape of weights. Throws FileFault when keys and tensors
// do not agree in everything.
void name_own_tensors(GgufHeader& header);

// Where the file or the caller does not say otherwise: a whole row for int8; for int4 the largest
// of 128, 64 and 32 that divides the columns, 0 for none.
uint64_t default_group_size(TensorType type, uint64_t cols);

// True when kernels exist for it.
bool is_sound(const StoredType& type, uint64_t cols);

// int8: the scale is max|x| / 127. int4: the scale, and the minimum, have the least squared error
// of nine tries. The stored weight is the nearest one under the stored fp16 numbers.
void quantize_own_row(const StoredType& type, const float* values, int64_t cols, std::byte* out);

}  // namespace edge
