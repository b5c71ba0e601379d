#include "model_file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "descriptor.h"
#include "errors.h"

namespace edge {
namespace {

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

int64_t in_ns(const struct timespec& time) {
    return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

FileIdentity identity_of(const struct stat& status) {
#ifdef __APPLE__
    return {status.st_ino, in_ns(status.st_mtimespec), in_ns(status.st_ctimespec)};
#else
    return {status.st_ino, in_ns(status.st_mtim), in_ns(status.st_ctim)};
#endif
}

}  // namespace

ModelFile::ModelFile(const std::string& path, bool map_tensors) {
    const Descriptor file(path, O_RDONLY | O_NONBLOCK);  // a FIFO must not block
    size_bytes_ = file.regular_size();
    identity_ = identity_of(file.status());
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

std::string ModelFile::read_bytes(uint64_t offset, uint64_t count) const {
    if (mapping_ == nullptr || offset > size_bytes_ || count > size_bytes_ - offset)
        throw std::out_of_range("bytes outside the mapped file");
    return {reinterpret_cast<const char*>(mapping_ + offset), count};
}

void ModelFile::let_go(const TensorInfo& tensor) const {
    const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    const uint64_t begin = (tensor.offset + page - 1) / page * page;
    const uint64_t end = (tensor.offset + tensor.num_bytes) / page * page;
    if (begin < end)
        ::madvise(const_cast<std::byte*>(mapping_) + begin, end - begin, MADV_DONTNEED);
}

}  // namespace edge
