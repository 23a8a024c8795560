// compressed-tensors arrays that contradict each other: the bytes of the four arrays are mutated,
// and now and then their dtypes and shapes.
#include <cstring>

#include "io/temporary_directory.h"
#include "mutator.h"
#include "rarefy/checkpoint.h"
#include "rarefy/safetensors.h"

namespace rarefy {
namespace {

constexpr std::size_t kHeader = 8;

/// input: rows, cols, values, flags (two bytes each, little-endian), then the bytes of shape (16),
/// row offsets (8 a row), values (2 each), bitmask.
void parse(std::string_view input) {
  if (input.size() < kHeader) return;
  std::uint16_t sizes[4];
  std::memcpy(sizes, input.data(), kHeader);
  const std::int64_t rows = sizes[0] % 16;
  const std::int64_t cols = sizes[1] % 256;
  const std::int64_t values = sizes[2] % 1024;
  const unsigned flags = sizes[3];
  std::string_view rest = input.substr(kHeader);
  const auto take = [&rest](std::int64_t bytes) {
    std::string piece(static_cast<std::size_t>(bytes), '\0');
    const std::size_t some = std::min(piece.size(), rest.size());
    std::memcpy(piece.data(), rest.data(), some);
    rest.remove_prefix(some);
    return piece;
  };
  static const testing::TemporaryDirectory dir;
  const std::filesystem::path path = dir.path() / "model.safetensors";
  {
    SafetensorsWriter writer(path);
    const bool offsets = (flags & 1U) == 0;
    const Shape value_shape = offsets ? Shape{values} : Shape{rows, rows == 0 ? 0 : values / rows};
    const std::int64_t stored = offsets ? values : (rows == 0 ? 0 : values / rows * rows);
    writer.declare("p.shape", DType::kI64, {2});
    if (offsets) writer.declare("p.row_offsets", DType::kI64, {rows});
    writer.declare("p.compressed", (flags & 2U) == 0 ? DType::kBF16 : DType::kI16, value_shape);
    writer.declare("p.bitmask", (flags & 4U) == 0 ? DType::kU8 : DType::kI8,
                   {rows, (cols + 7) / 8});
    for (const std::int64_t bytes :
         {std::int64_t{16}, offsets ? 8 * rows : 0, 2 * stored, rows * ((cols + 7) / 8)}) {
      const std::string piece = take(bytes);
      writer.write(piece.data(), piece.size());
    }
    writer.finish(false);
  }
  const auto checkpoint = Checkpoint::open(path);
  const auto source = checkpoint->source("p.weight");
  Buffer row(static_cast<std::size_t>(source->cols()) * 2);
  for (std::int64_t r = 0; r < source->rows(); ++r) source->read_rows(r, r + 1, row.data());
}

template <class T>
void put(std::string& out, std::initializer_list<T> values) {
  for (const T value : values) out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

std::string sparse_bitmask() {  // 3×10, five values
  std::string out;
  put<std::uint16_t>(out, {3, 10, 5, 0});
  put<std::int64_t>(out, {3, 10, 0, 2, 2});
  put<std::uint16_t>(out, {1, 2, 3, 4, 5});
  put<std::uint8_t>(out, {0x02, 0x02, 0, 0, 0x07, 0});
  return out;
}

std::string sparse_24_bitmask() {  // 2×8
  std::string out;
  put<std::uint16_t>(out, {2, 8, 8, 1});
  put<std::int64_t>(out, {2, 8});
  put<std::uint16_t>(out, {1, 2, 3, 4, 5, 6, 7, 8});
  put<std::uint8_t>(out, {0xA3, 0x5C});
  return out;
}

const std::string kZeros(8, '\0');
const std::string kOnes(8, '\xFF');

}  // namespace

RAREFY_FUZZ_TARGET(Bitmask, parse,
                   (fuzz::Corpus{.seeds = {sparse_bitmask(), sparse_24_bitmask()},
                                 .words = {kZeros, kOnes, "\x01", "\x80"}}))

}  // namespace rarefy
