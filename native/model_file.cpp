#include "model_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <system_error>
#include <vector>

#include "errors.h"

namespace edge {
namespace {

[[noreturn]] void throw_errno(int error) {
    throw std::system_error(error, std::generic_category());
}

class Descriptor {
public:
    explicit Descriptor(const std::string& path)
        : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {  // a FIFO must not block
        if (fd_ < 0) throw_errno(errno);
    }
    ~Descriptor() { ::close(fd_); }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;

    uint64_t regular_size() const {
        struct stat status{};
        if (::fstat(fd_, &status) != 0) throw_errno(errno);
        if (S_ISDIR(status.st_mode)) throw_errno(EISDIR);
        if (!S_ISREG(status.st_mode)) throw FileFault(0, "this is no regular file");
        return static_cast<uint64_t>(status.st_size);
    }

    void read_prefix(std::vector<std::byte>& prefix, uint64_t wanted) const {
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

    const std::byte* map(uint64_t size) const {
        void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd_, 0);
        if (address == MAP_FAILED) throw_errno(errno);
        return static_cast<const std::byte*>(address);
    }

private:
    int fd_;
};

// Read only as much of the file as its header needs: an inspection must not touch tensor data.
GgufHeader read_header(const Descriptor& file, uint64_t size) {
    std::vector<std::byte> prefix;
    for (uint64_t wanted = uint64_t{256} << 10;; wanted *= 4) {
        file.read_prefix(prefix, std::min(wanted, size));
        try {
            return parse_gguf(prefix.data(), prefix.size(), size);
        } catch (const NeedMoreBytes&) {
            continue;  // `wanted` grows until it is the whole file, where this cannot be thrown
        }
    }
}

}  // namespace

ModelFile::ModelFile(const std::string& path, bool map_tensors) {
    const Descriptor file(path);
    size_bytes_ = file.regular_size();
    header_ = read_header(file, size_bytes_);
    for (const TensorInfo& tensor : header_.tensors) by_name_.emplace(tensor.name, &tensor);
    if (map_tensors) mapping_ = file.map(size_bytes_);
}

ModelFile::~ModelFile() {
    if (mapping_ != nullptr) ::munmap(const_cast<std::byte*>(mapping_), size_bytes_);
}

const TensorInfo* ModelFile::find(const std::string& name) const {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : found->second;
}

const std::byte* ModelFile::bytes_of(const TensorInfo& tensor) const {
    if (mapping_ == nullptr)
        throw std::logic_error("the model file was opened without its tensors");
    return mapping_ + tensor.offset;
}

}  // namespace edge
