// Writes model files for tests, byte by byte, so that every field can be made to lie.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "own_types.h"
#include "quantize.h"

namespace edge::test {

// The ids of value types in a GGUF.
constexpr uint32_t u8_type = 0, u32_type = 4, f32_type = 6, bool_type = 7, string_type = 8,
                   array_type = 9, u64_type = 10;

template <typename Number>
std::string raw(Number number) {
    std::string bytes(sizeof number, '\0');
    std::memcpy(bytes.data(), &number, sizeof number);
    return bytes;
}

inline std::string raw_string(std::string_view text) {
    return raw(uint64_t{text.size()}) + std::string(text);
}

inline std::string raw_key(std::string_view key, uint32_t type, const std::string& value) {
    return raw_string(key) + raw(type) + value;
}

inline std::string raw_tensor(std::string_view name, const std::vector<uint64_t>& dimensions,
                              uint32_t type, uint64_t offset) {
    std::string bytes = raw_string(name) + raw(static_cast<uint32_t>(dimensions.size()));
    for (const uint64_t size : dimensions) bytes += raw(size);
    return bytes + raw(type) + raw(offset);
}

// As the converter would store such rows: our own types in their default groups, int4 with minima.
inline StoredType stored_type(TensorType type, int64_t cols) {
    if (!is_own(type)) return type;
    return {type, default_group_size(type, static_cast<uint64_t>(cols)), type == TensorType::int4};
}

// The keys that describe tensors in our own types.
class OwnKeys {
public:
    void add(const std::string& name, const StoredType& type, uint64_t cols) {
        ++count_;
        names_ += raw_string(name);
        cols_ += raw(cols);
        group_sizes_ += raw(type.group_size);
        minima_ += raw(uint8_t{type.has_minima});
    }
    std::vector<std::string> keys() const {
        if (count_ == 0) return {};
        const auto array = [this](const char* name, uint32_t type, const std::string& elements) {
            return raw_key(std::string("edge.tensor.") + name, array_type,
                           raw(type) + raw(count_) + elements);
        };
        return {array("names", string_type, names_), array("cols", u64_type, cols_),
                array("group_size", u64_type, group_sizes_),
                array("has_minima", bool_type, minima_)};
    }

private:
    uint64_t count_ = 0;
    std::string names_, cols_, group_sizes_, minima_;
};

// A file in its parts; `assemble` puts them together.
struct GgufBytes {
    std::string magic = "GGUF";
    uint32_t version = 3;
    std::vector<std::string> keys;     // of raw_key
    std::vector<std::string> tensors;  // of raw_tensor
    uint64_t alignment = 32;
    std::string data;
    OwnKeys own;

    std::string assemble() const {
        std::vector<std::string> all_keys = keys;
        for (const std::string& key : own.keys()) all_keys.push_back(key);
        std::string bytes =
            magic + raw(version) + raw(uint64_t{tensors.size()}) + raw(uint64_t{all_keys.size()});
        for (const std::string& key : all_keys) bytes += key;
        for (const std::string& tensor : tensors) bytes += tensor;
        bytes.resize((bytes.size() + alignment - 1) / alignment * alignment, '\0');
        return bytes + data;
    }

    // Append rows of floats, stored as `type`.
    void add_tensor(const std::string& name, TensorType kind, int64_t rows, int64_t cols,
                    const std::vector<float>& values) {
        const StoredType type = stored_type(kind, cols);
        const uint64_t size = *row_bytes(type, static_cast<uint64_t>(cols));
        std::vector<uint64_t> dimensions{is_own(kind) ? size : static_cast<uint64_t>(cols)};
        if (rows > 0) dimensions.push_back(static_cast<uint64_t>(rows));
        const std::string suffix = is_own(kind) ? ".edge_" + std::string(layout_of(kind).name) : "";
        const auto id = static_cast<uint32_t>(is_own(kind) ? TensorType::i8 : kind);
        tensors.push_back(raw_tensor(name + suffix, dimensions, id, data.size()));
        if (is_own(kind)) own.add(name + suffix, type, static_cast<uint64_t>(cols));
        std::vector<std::byte> row(size);
        for (size_t first = 0; first < values.size(); first += static_cast<size_t>(cols)) {
            quantize_row(type, values.data() + first, cols, row.data());
            data.append(reinterpret_cast<const char*>(row.data()), row.size());
        }
        data.resize((data.size() + alignment - 1) / alignment * alignment, '\0');
    }
};

// A file of these bytes that is gone when this is.
class TemporaryFile {
public:
    explicit TemporaryFile(const std::string& bytes) {
        const char* folder = std::getenv("TMPDIR");
        path_ = std::string(folder == nullptr ? "/tmp" : folder) + "/edge-native-test-XXXXXX";
        const int descriptor = ::mkstemp(path_.data());
        const auto written = ::write(descriptor, bytes.data(), bytes.size());
        ::close(descriptor);
        if (written != static_cast<ssize_t>(bytes.size()))
            throw std::runtime_error("cannot write " + path_);
    }
    ~TemporaryFile() { ::unlink(path_.c_str()); }
    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;

    const std::string& path() const { return path_; }

private:
    std::string path_;
};

}  // namespace edge::test
