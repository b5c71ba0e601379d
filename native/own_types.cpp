#include "own_types.h"

#include <map>
#include <set>
#include <string>

#include "errors.h"
#include "group_codes.h"
#include "kernels/kernels.h"

namespace edge {
namespace {

constexpr uint64_t usual_sizes[] = {128, 64, 32};

const char* suffix_of(TensorType own) {
    return own == TensorType::int8 ? ".edge_int8" : ".edge_int4";
}

bool ends_with(const std::string& name, const std::string& suffix) {
    return name.size() > suffix.size() &&
           name.compare(name.size() - suffix.size(), suffix.size(), suffix) == 0;
}

// Throws, with what is wrong with the tensor of that name.
[[noreturn]] void fail(const TensorInfo& tensor, const std::string& reason) {
    throw FileFault(tensor.offset, "tensor '" + tensor.name + "' " + reason);
}

// The four arrays, of one length, or none of them.
struct Table {
    explicit Table(const GgufHeader& header)
        : names(header.find_array<std::vector<std::string>>("edge.tensor.names")),
          cols(header.find_array<std::vector<uint64_t>>("edge.tensor.cols")),
          group_sizes(header.find_array<std::vector<uint64_t>>("edge.tensor.group_size")),
          minima(header.find_array<std::vector<bool>>("edge.tensor.has_minima")) {
        if (names == nullptr && cols == nullptr && group_sizes == nullptr && minima == nullptr)
            return;
        if (names == nullptr || cols == nullptr || group_sizes == nullptr || minima == nullptr)
            throw FileFault(0,
                            "of the keys edge.tensor.names, cols, group_size and has_minima "
                            "some are missing");
        const size_t count = names->size();
        if (cols->size() != count || group_sizes->size() != count || minima->size() != count)
            throw FileFault(0, "the arrays edge.tensor.* have different lengths");
        for (size_t i = 0; i < count; ++i)
            if (!rows.emplace((*names)[i], i).second)
                throw FileFault(0, "edge.tensor.names lists '" + (*names)[i] + "' twice");
    }

    const std::vector<std::string>* names;
    const std::vector<uint64_t>* cols;
    const std::vector<uint64_t>* group_sizes;
    const std::vector<bool>* minima;
    std::map<std::string, size_t> rows;
};

StoredType type_of(const TensorInfo& tensor, TensorType own, const Table& table, size_t index) {
    const uint64_t cols = (*table.cols)[index];
    const StoredType type(own, (*table.group_sizes)[index], (*table.minima)[index]);
    if (tensor.type.id != TensorType::i8) fail(tensor, "is not stored as bytes");
    if (!is_sound(type, cols))
        fail(tensor, "is said to have " + std::to_string(cols) + " columns in groups of " +
                         std::to_string(type.group_size) + (type.has_minima ? " with minima" : "") +
                         ", which its type cannot have");
    if (row_bytes(type, cols) != tensor.cols())
        fail(tensor, "has rows of " + std::to_string(tensor.cols()) + " bytes, " +
                         std::to_string(*row_bytes(type, cols)) + " are needed for " +
                         std::to_string(cols) + " columns");
    return type;
}

void name_tensor(TensorInfo& tensor, TensorType own, Table& table) {
    const auto row = table.rows.find(tensor.name);
    if (row == table.rows.end()) fail(tensor, "is not described by the keys edge.tensor.*");
    tensor.type = type_of(tensor, own, table, row->second);
    tensor.shape.back() = (*table.cols)[row->second];
    tensor.name.resize(tensor.name.size() - std::string(suffix_of(own)).size());
    table.rows.erase(row);
}

}  // namespace

void name_own_tensors(GgufHeader& header) {
    Table table(header);
    for (TensorInfo& tensor : header.tensors)
        for (const TensorType own : {TensorType::int8, TensorType::int4})
            if (ends_with(tensor.name, suffix_of(own))) {
                name_tensor(tensor, own, table);
                break;
            }
    if (!table.rows.empty())
        throw FileFault(0, "edge.tensor.names lists '" + table.rows.begin()->first +
                               "', which is no tensor of that kind in the file");
    std::set<std::string> names;
    for (const TensorInfo& tensor : header.tensors)
        if (!names.insert(tensor.name).second) fail(tensor, "is in the file in two types");
}

uint64_t default_group_size(TensorType type, uint64_t cols) {
    if (type == TensorType::int8) return cols;
    for (const uint64_t size : usual_sizes)
        if (cols % size == 0) return size;
    return 0;
}

bool is_sound(const StoredType& type, uint64_t cols) {
    const uint64_t group = type.group_size;
    if (cols == 0 || cols % depth_step != 0 || group == 0 || cols % group != 0) return false;
    if (group == 32 || group == 64 || group == 128)
        return type.id == TensorType::int4 || !type.has_minima;
    return type.id == TensorType::int8 && !type.has_minima && group == cols &&
           group <= max_group_size;
}

}  // namespace edge
