// A cursor over untrusted bytes: every read is checked, every failure names its offset.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "errors.h"
#include "gguf.h"

namespace edge {

class ByteReader {
public:
    ByteReader(const std::byte* data, uint64_t available, uint64_t file_size)
        : data_(data), available_(available), file_size_(file_size) {}

    uint64_t offset() const { return offset_; }
    uint64_t remaining_in_file() const { return file_size_ - offset_; }

    // Refuse to go on unless `count` more bytes are there.
    void require(uint64_t count, const char* what) const {
        if (count > remaining_in_file())
            fail(std::string("the file ends inside ") + what + " (" + std::to_string(count) +
                 " bytes wanted, " + std::to_string(remaining_in_file()) + " left)");
        if (count > available_ - offset_) throw NeedMoreBytes{};
    }

    template <typename Number>
    Number get(const char* what) {
        require(sizeof(Number), what);
        Number number;
        std::memcpy(&number, data_ + offset_, sizeof number);
        offset_ += sizeof number;
        return number;
    }

    // A length-prefixed UTF-8 string of at most `limit` bytes.
    std::string get_string(uint64_t limit, const char* what);

    [[noreturn]] void fail(const std::string& reason) const { throw FileFault(offset_, reason); }

private:
    const std::byte* data_;
    uint64_t available_;
    uint64_t file_size_;
    uint64_t offset_ = 0;
};

}  // namespace edge
