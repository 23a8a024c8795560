#include "io/shard_writer.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "io/safetensors_header.h"

namespace rarefy::io {
namespace {

constexpr std::uint64_t kAlignment = 64;
const std::map<std::string, std::string> kMetadata = {
    {"format", "pt"}};  // as transformers asks for

std::uint64_t round_up(std::uint64_t n) {
  return (n + kAlignment - 1) / kAlignment * kAlignment;
}

/// The largest power of two, up to 64, that divides `bytes`.
std::uint64_t alignment_kept_by(std::uint64_t bytes) {
  return bytes == 0 ? kAlignment : std::min(bytes & (~bytes + 1), kAlignment);
}

}  // namespace

ShardWriter::ShardWriter(const std::filesystem::path& path, std::uint64_t room)
    : file_(path), room_(room), header_bytes_(256) {}

std::uint64_t ShardWriter::header_bytes(const std::string& name, std::size_t rank) {
  // Six bytes are the longest escape of one; 160 are more than dtype, offsets and punctuation.
  return 6 * name.size() + 21 * rank + 160;
}

bool ShardWriter::has_room(std::uint64_t header, std::uint64_t bytes) const {
  const std::uint64_t taken = streaming_ ? header_bytes_ + kept_bytes_ : 0;
  return taken + header + bytes <= room_;
}

bool ShardWriter::prefers_keeping(std::uint64_t bytes) const {
  return bytes <= kSmall || (!streaming_ && kept_bytes_ + bytes <= kBudget);
}

bool ShardWriter::aligned_for(DType dtype) const {
  const auto bits = static_cast<std::uint64_t>(bits_of(dtype));
  const std::uint64_t element = bits % 8 == 0 ? bits / 8 : 1;
  return streamed_bytes_ % element == 0;
}

void ShardWriter::keep(const std::string& name, DType dtype, const Shape& shape, std::string data) {
  header_bytes_ += header_bytes(name, shape.size());
  kept_bytes_ += data.size();
  kept_.push_back({{name, dtype, shape, 0, data.size()}, std::move(data)});
}

void ShardWriter::start_streaming() {
  streaming_ = true;
  room_ = round_up(room_ + header_bytes_ + kept_bytes_);
  const std::string zeros(64 << 10, '\0');
  for (std::uint64_t left = room_; left > 0;) {
    const std::uint64_t piece = std::min<std::uint64_t>(left, zeros.size());
    file_.write(zeros.data(), piece);
    left -= piece;
  }
}

void ShardWriter::begin(const std::string& name, DType dtype) {
  if (!streaming_) start_streaming();
  streamed_.push_back({name, dtype, {}, streamed_bytes_, streamed_bytes_});
}

void ShardWriter::write(const void* data, std::size_t bytes) {
  file_.write(data, bytes);
  streamed_bytes_ += bytes;
}

void ShardWriter::end(const Shape& shape) {
  TensorInfo& info = streamed_.back();
  info.shape = shape;
  info.end = streamed_bytes_;
  header_bytes_ += header_bytes(info.name, shape.size());
  if (info.bytes() != checked_bytes(info.dtype, shape, info.name)) {
    fail(ErrorKind::kInternal, "tensor '{}': wrote {} bytes for {} {}", info.name, info.bytes(),
         safetensors_name(info.dtype), to_string(shape));
  }
}

std::vector<std::string> ShardWriter::names() const {
  std::vector<std::string> names;
  for (const Kept& kept : kept_) names.push_back(kept.info.name);
  for (const TensorInfo& info : streamed_) names.push_back(info.name);
  return names;
}

void ShardWriter::finish() {
  // Kept arrays end where the stream begins, at a multiple of 64: towards it the multiples of 64,
  // before those the multiples of 32, and so on; so each begins at a multiple of its element's
  // size.
  std::stable_sort(kept_.begin(), kept_.end(), [](const Kept& a, const Kept& b) {
    return alignment_kept_by(a.data.size()) < alignment_kept_by(b.data.size());
  });
  std::vector<TensorInfo> tensors;
  std::string data;
  data.reserve(kept_bytes_);
  for (Kept& kept : kept_) {
    kept.info.begin = data.size();
    data += kept.data;
    kept.info.end = data.size();
    tensors.push_back(kept.info);
  }
  for (TensorInfo info : streamed_) {
    info.begin += data.size();
    info.end += data.size();
    tensors.push_back(std::move(info));
  }
  if (!streaming_) {
    // Towards the end of the room is towards the end of the file: the header is as long as it needs
    // to be for the last array to end at a multiple of 64.
    const std::string header = render_safetensors_header(tensors, kMetadata);
    room_ = round_up(header.size() + data.size());
    file_.write(render_safetensors_header(tensors, kMetadata, room_ - data.size()));
    file_.write(data);
    return file_.flush();
  }
  const std::uint64_t header_end = room_ - data.size();
  const std::string header = render_safetensors_header(tensors, kMetadata, header_end);
  if (header.empty()) {
    fail(ErrorKind::kInternal, "shard: a header of {} tensors does not fit {} bytes",
         tensors.size(), header_end);
  }
  file_.write_at(0, header.data(), header.size());
  file_.write_at(header_end, data.data(), data.size());
  file_.flush();
}

}  // namespace rarefy::io
