// Files as Rarefy wants them: mapped whole for reading, and written so that they appear complete or
// not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace rarefy {

/// Whole file as text; throws kIo.
std::string read_text(const std::filesystem::path& path);

/// A read-only private mapping of a whole file; empty files map to nothing.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);  ///< Throws kIo.
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  [[nodiscard]] const std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  /// Lets the kernel drop the resident pages that lie wholly within [begin, end).
  void drop_pages(std::size_t begin, std::size_t end) const;

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Writes `path` through a temporary file in the same folder; `commit` flushes to disk and renames.
/// Without it nothing changes.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  void write(const void* data, std::size_t bytes);  ///< Throws kIo (a full disk).
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// Replaces bytes that were written before, such as a header whose contents come last.
  void write_at(std::uint64_t offset, const void* data, std::size_t bytes);
  void flush();   ///< Everything to disk; called by commit, or earlier when several files are to be
                  ///< renamed together.
  void commit();  ///< flush, then rename onto `path`.
  void publish();  ///< Rename without flush, for what can be made again: a crash of the machine may
                   ///< leave it incomplete.
  void commit_as(std::filesystem::path path);  ///< As commit, onto another name in the same folder.

 private:
  [[noreturn]] void fail_with_errno(const char* action) const;
  std::filesystem::path path_, temporary_;
  int fd_ = -1;
  bool flushed_ = false;
};

/// Renames in a folder to disk: until then a crash of the machine may undo them. Throws kIo.
void flush_folder(const std::filesystem::path& folder);

}  // namespace rarefy
