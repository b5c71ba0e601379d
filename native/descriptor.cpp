#include "descriptor.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "errors.h"

namespace edge {
namespace {

[[noreturn]] void throw_errno(int error) {
    throw std::system_error(error, std::generic_category());
}

}  // namespace

Descriptor::Descriptor(const std::string& path, int flags)
    : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0600)) {
    if (fd_ < 0) throw_errno(errno);
}

Descriptor::~Descriptor() { ::close(fd_); }

struct stat Descriptor::status() const {
    struct stat found{};
    if (::fstat(fd_, &found) != 0) throw_errno(errno);
    return found;
}

uint64_t Descriptor::regular_size() const {
    const struct stat found = status();
    if (S_ISDIR(found.st_mode)) throw_errno(EISDIR);
    if (!S_ISREG(found.st_mode)) throw FileFault(0, "this is no regular file");
    return static_cast<uint64_t>(found.st_size);
}

void Descriptor::read_prefix(std::vector<std::byte>& prefix, uint64_t wanted) const {
    uint64_t have = prefix.size();
    prefix.resize(wanted);
    while (have < wanted) {
        const ssize_t count =
            ::pread(fd_, prefix.data() + have, wanted - have, static_cast<off_t>(have));
        if (count < 0 && errno != EINTR) throw_errno(errno);
        if (count == 0) throw FileFault(have, "the file became shorter while it was read");
        if (count > 0) have += static_cast<uint64_t>(count);
    }
}

void Descriptor::write(const std::byte* bytes, uint64_t count, uint64_t offset) const {
    while (count > 0) {
        const ssize_t written = ::pwrite(fd_, bytes, count, static_cast<off_t>(offset));
        if (written < 0 && errno != EINTR) throw_errno(errno);
        if (written == 0) throw_errno(ENOSPC);
        if (written < 0) continue;
        bytes += written;
        count -= static_cast<uint64_t>(written);
        offset += static_cast<uint64_t>(written);
    }
}

const std::byte* Descriptor::map(uint64_t size) const {
    void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd_, 0);
    if (address == MAP_FAILED) throw_errno(errno);
    return static_cast<const std::byte*>(address);
}

}  // namespace edge
