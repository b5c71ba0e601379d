// A GGUF on disk: its validated header, and on request its tensors as a read-only mapping.
#pragma once

#include <cstddef>
#include <map>
#include <string>

#include "gguf.h"

namespace edge {

// What the system says of a file when it is opened. Any write to it changes `changed_ns`, which no
// program can set.
struct FileIdentity {
    uint64_t inode;
    int64_t modified_ns;
    int64_t changed_ns;
};

class ModelFile {
public:
    // Throws std::system_error when the file cannot be opened or is no regular file, FileFault
    // when it breaks the format. Header and mapping come from one descriptor, so a file that is
    // replaced by rename meanwhile stays whole; one truncated in place is a SIGBUS on access.
    ModelFile(const std::string& path, bool map_tensors);
    ~ModelFile();
    ModelFile(const ModelFile&) = delete;
    ModelFile& operator=(const ModelFile&) = delete;

    const GgufHeader& header() const { return header_; }
    uint64_t size_bytes() const { return size_bytes_; }
    bool is_mapped() const { return mapping_ != nullptr; }

    // nullptr when there is no such tensor.
    const TensorInfo* find(const std::string& name) const;

    // The stored bytes of a tensor; throws std::logic_error for a file opened without mapping.
    const std::byte* bytes_of(const TensorInfo& tensor) const;

    // Bytes from anywhere in a mapped file. Throws std::out_of_range.
    std::string read_bytes(uint64_t offset, uint64_t count) const;

    // Takes a tensor's pages out of this process's memory; the next access reads them again.
    void let_go(const TensorInfo& tensor) const;

    const FileIdentity& identity() const { return identity_; }

private:
    GgufHeader header_;
    std::map<std::string, const TensorInfo*> by_name_;  // ordered: no collisions
    uint64_t size_bytes_ = 0;
    FileIdentity identity_{};
    const std::byte* mapping_ = nullptr;
};

}  // namespace edge
