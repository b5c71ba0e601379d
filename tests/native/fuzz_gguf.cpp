// libFuzzer on the header parser. Whatever the bytes: a typed fault that names its place, or a
// header whose every promise holds; and the same with fewer bytes at hand, unless it asks for more.
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <vector>

#include "errors.h"
#include "gguf.h"
#include "model_limits.h"

using namespace edge;

namespace {

void require(bool holds) {
    if (!holds) std::abort();
}

struct Outcome {
    std::optional<GgufHeader> header;
    uint64_t fault_offset = 0;
    bool wants_more = false;
};

Outcome parse(const uint8_t* data, size_t available, size_t size) {
    // A copy of exactly the bytes at hand, so that the sanitizer sees one too many.
    const std::vector<std::byte> bytes(reinterpret_cast<const std::byte*>(data),
                                       reinterpret_cast<const std::byte*>(data) + available);
    Outcome outcome;
    try {
        outcome.header = parse_gguf(bytes.data(), available, size);
    } catch (const FileFault& fault) {
        outcome.fault_offset = fault.offset();
    } catch (const NeedMoreBytes&) {
        outcome.wants_more = true;
    }
    return outcome;
}

void check_header(const GgufHeader& header, uint64_t size) {
    require(header.tensors.size() <= limits::max_tensors);
    require(header.metadata.size() <= limits::max_keys);
    require(header.alignment >= limits::min_alignment && header.alignment <= limits::max_alignment);
    require(header.data_offset % header.alignment == 0);
    uint64_t end = header.data_offset;
    for (const TensorInfo& tensor : header.tensors) {
        require(!tensor.name.empty() && tensor.name.size() <= limits::max_tensor_name_bytes);
        require(tensor.offset % header.alignment == 0);
        require(tensor.offset >= end && tensor.offset - end < header.alignment);
        require(tensor.offset <= size && tensor.num_bytes <= size - tensor.offset);
        require(tensor.num_bytes == tensor.rows() * *row_bytes(tensor.type, tensor.cols()));
        end = tensor.offset + tensor.num_bytes;
    }
    require(end <= size && size - end < header.alignment);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const Outcome whole = parse(data, size, size);
    require(!whole.wants_more);
    if (whole.header) check_header(*whole.header, size);
    // Padding that is missing counts as there: data is looked for behind it.
    require(whole.fault_offset < size + limits::max_alignment);
    const Outcome half = parse(data, size / 2, size);
    if (!half.wants_more) {
        require(half.header.has_value() == whole.header.has_value());
        require(half.fault_offset == whole.fault_offset);
    }
    return 0;
}
