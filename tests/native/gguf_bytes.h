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

// A file in its parts; `assemble` puts them together.
struct GgufBytes {
    std::string magic = "GGUF";
    uint32_t version = 3;
    std::vector<std::string> keys;     // of raw_key
    std::vector<std::string> tensors;  // of raw_tensor
    uint64_t alignment = 32;
    std::string data;

    std::string assemble() const {
        std::string bytes =
            magic + raw(version) + raw(uint64_t{tensors.size()}) + raw(uint64_t{keys.size()});
        for (const std::string& key : keys) bytes += key;
        for (const std::string& tensor : tensors) bytes += tensor;
        bytes.resize((bytes.size() + alignment - 1) / alignment * alignment, '\0');
        return bytes + data;
    }

    // Append rows of floats, stored as `type`.
    void add_tensor(const std::string& name, TensorType type, int64_t rows, int64_t cols,
                    const std::vector<float>& values) {
        std::vector<uint64_t> dimensions{static_cast<uint64_t>(cols)};
        if (rows > 0) dimensions.push_back(static_cast<uint64_t>(rows));
        tensors.push_back(raw_tensor(name, dimensions, static_cast<uint32_t>(type), data.size()));
        const uint64_t size = *row_bytes(layout_of(type), static_cast<uint64_t>(cols));
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
