// One shard of a checkpoint that grows tensor by tensor: nobody needs to know the sizes beforehand,
// and no byte is written to disk twice.
//
// The header comes first in the file but is known last. So the first arrays are kept in memory, as
// many as fit a budget: a small checkpoint is laid out exactly. Once the budget is spent, large
// arrays are streamed behind a room that is left free; what is small, or would not be aligned where
// the stream stands (row offsets behind an odd number of values), is still kept and takes the end
// of that room, and the header the rest, padded with spaces:
//
//     length, header, spaces | kept arrays | streamed arrays
//     0                                    room
//
// Every array is aligned to its elements, and to 64 bytes as long as the sizes allow.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/files.h"
#include "rarefy/safetensors.h"

namespace rarefy::io {

class ShardWriter {
 public:
  static constexpr std::size_t kSmall = std::size_t{16} << 10;  ///< Kept rather than streamed.
  static constexpr std::size_t kBudget = std::size_t{8} << 20;

  /// `room` bounds what header and kept arrays will take once streaming begins, beyond what is kept
  /// by then. Any name in the shard's folder will do for `path`: commit_as gives the final one.
  ShardWriter(const std::filesystem::path& path, std::uint64_t room);

  /// Room that an array takes in the header, at most.
  static std::uint64_t header_bytes(const std::string& name, std::size_t rank);

  /// Whether `bytes` in arrays whose header_bytes sum to `header` may still be kept.
  [[nodiscard]] bool has_room(std::uint64_t header, std::uint64_t bytes) const;
  /// Whether an array of `bytes` is to be kept, by its size.
  [[nodiscard]] bool prefers_keeping(std::uint64_t bytes) const;
  /// Whether an array of `dtype` could be streamed right here.
  [[nodiscard]] bool aligned_for(DType dtype) const;

  /// An array as a whole, kept until the end. The caller has asked has_room.
  void keep(const std::string& name, DType dtype, const Shape& shape, std::string data);

  /// A streamed array: begin, its bytes in pieces, end with the shape they turned out to have.
  void begin(const std::string& name, DType dtype);
  void write(const void* data, std::size_t bytes);
  void end(const Shape& shape);

  /// Bytes of all arrays so far.
  [[nodiscard]] std::uint64_t bytes() const { return kept_bytes_ + streamed_bytes_; }
  [[nodiscard]] std::vector<std::string> names() const;

  /// Header and kept arrays; everything to disk. Nothing can run out of space after this.
  void finish();
  void commit_as(const std::filesystem::path& path) { file_.commit_as(path); }

 private:
  struct Kept {
    TensorInfo info;
    std::string data;
  };

  void start_streaming();

  AtomicFile file_;
  std::uint64_t room_;
  bool streaming_ = false;  ///< From then on room_ is where the stream begins.
  std::uint64_t header_bytes_;
  std::uint64_t kept_bytes_ = 0, streamed_bytes_ = 0;
  std::vector<Kept> kept_;
  std::vector<TensorInfo> streamed_;  ///< Offsets from the beginning of the stream.
};

}  // namespace rarefy::io
