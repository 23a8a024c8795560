#include "base/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "base/check.h"

namespace rarefy {
namespace {

std::string describe_errno(int error) {
  return std::system_category().message(error);
}

/// Opens an existing regular file for reading and returns descriptor and size.
std::pair<int, std::size_t> open_for_reading(const std::filesystem::path& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail(ErrorKind::kIo, "{}: could not open: {}", path.string(), describe_errno(errno));
  struct stat info {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    fail(ErrorKind::kIo, "{}: expected a regular file", path.string());
  }
  return {fd, static_cast<std::size_t>(info.st_size)};
}

}  // namespace

std::string read_text(const std::filesystem::path& path) {
  const MappedFile file(path);
  return {reinterpret_cast<const char*>(file.data()), file.size()};
}

MappedFile::MappedFile(const std::filesystem::path& path) {
  const auto [fd, size] = open_for_reading(path);
  if (size != 0) {
    void* address = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    const int error = errno;
    if (address == MAP_FAILED) {
      close(fd);
      fail(ErrorKind::kIo, "{}: could not map {} bytes: {}", path.string(), size,
           describe_errno(error));
    }
    data_ = static_cast<std::byte*>(address);
    size_ = size;
  }
  close(fd);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(data_, size_);
}

void MappedFile::drop_pages(std::size_t begin, std::size_t end) const {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  begin = (begin + page - 1) / page * page;
  end = end / page * page;
  if (begin < end) madvise(data_ + begin, end - begin, MADV_DONTNEED);
}

AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
  static std::atomic<unsigned> counter{0};
  temporary_ = path_;
  temporary_ += fmt::format(".{}-{}.tmp", getpid(), counter.fetch_add(1));
  fd_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd_ < 0) fail_with_errno("create");
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(temporary_.c_str());
}

void AtomicFile::fail_with_errno(const char* action) const {
  const int error = errno;
  fail(ErrorKind::kIo, "{}: could not {}: {}", path_.string(), action, describe_errno(error));
}

void AtomicFile::write(const void* data, std::size_t bytes) {
  const auto* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(fd_, from, bytes);
    if (written < 0) {
      if (errno == EINTR) continue;
      fail_with_errno("write");
    }
    from += written;
    bytes -= static_cast<std::size_t>(written);
  }
  flushed_ = false;
}

void AtomicFile::write_at(std::uint64_t offset, const void* data, std::size_t bytes) {
  const auto* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = pwrite(fd_, from, bytes, static_cast<off_t>(offset));
    if (written < 0) {
      if (errno == EINTR) continue;
      fail_with_errno("write");
    }
    from += written;
    offset += static_cast<std::uint64_t>(written);
    bytes -= static_cast<std::size_t>(written);
  }
  flushed_ = false;
}

void AtomicFile::flush() {
  if (flushed_) return;
  if (fsync(fd_) != 0) fail_with_errno("flush to disk");
  flushed_ = true;
}

void AtomicFile::commit_as(std::filesystem::path path) {
  path_ = std::move(path);
  commit();
}

void AtomicFile::commit() {
  flush();
  publish();
}

void AtomicFile::publish() {
  const int fd = std::exchange(fd_, -1);
  const bool closed = close(fd) == 0;
  if (!closed || rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int error = errno;
    unlink(temporary_.c_str());
    errno = error;
    fail_with_errno("rename into place");
  }
}

void flush_folder(const std::filesystem::path& folder) {
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) {
    fail(ErrorKind::kIo, "{}: could not open the folder: {}", folder.string(),
         describe_errno(errno));
  }
  const int error = fsync(fd) == 0 ? 0 : errno;
  close(fd);
  // Some network filesystems have nothing to flush for a folder.
  if (error != 0 && error != EINVAL) {
    fail(ErrorKind::kIo, "{}: could not flush the folder to disk: {}", folder.string(),
         describe_errno(error));
  }
}

}  // namespace rarefy
