// An open file: what the readers and the writer of this library need of one.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace edge {

// All of it throws std::system_error with the system's reason.
class Descriptor {
public:
    Descriptor(const std::string& path, int flags);  // of open(2); new files are the user's alone
    ~Descriptor();
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;

    struct stat status() const;
    uint64_t regular_size() const;  // FileFault for what is no regular file

    // Read on from where `prefix` ends until it has `wanted` bytes.
    void read_prefix(std::vector<std::byte>& prefix, uint64_t wanted) const;
    void write(const std::byte* bytes, uint64_t count, uint64_t offset) const;
    const std::byte* map(uint64_t size) const;  // read-only

private:
    int fd_;
};

}  // namespace edge
