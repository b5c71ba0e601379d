// The typed errors that cross the binding; everything else is a programming error.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace edge {

// A model file that breaks the format; `offset` is in bytes from the start of the file.
class FileFault : public std::runtime_error {
public:
    FileFault(uint64_t offset, const std::string& reason)
        : std::runtime_error(reason), offset_(offset) {}
    uint64_t offset() const { return offset_; }

private:
    uint64_t offset_;
};

// A sound file with a feature that this version does not know.
class UnsupportedFault : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

// Non-finite numbers during a forward; the message names the layer.
class NumericFault : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

}  // namespace edge
