#include "rarefy/tensor.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <limits>
#include <utility>

#include "rarefy/error.h"

namespace rarefy {
namespace {

TEST(Buffer, IsAlignedAndMoves) {
  for (std::size_t bytes : {std::size_t{1}, std::size_t{4096}, std::size_t{5} << 20}) {
    Buffer buffer = Buffer::zeros(bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % 64, 0U);
    EXPECT_EQ(std::to_integer<int>(buffer.data()[bytes - 1]), 0);
    const std::byte* data = buffer.data();
    Buffer moved = std::move(buffer);
    EXPECT_EQ(moved.data(), data);
    EXPECT_EQ(moved.size(), bytes);
  }
  EXPECT_EQ(Buffer(0).data(), nullptr);
}

TEST(Buffer, SaysWhenMemoryIsOut) {
  try {
    const Buffer buffer(std::numeric_limits<std::size_t>::max() / 2);
    FAIL() << "half of the address space was granted";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kOutOfMemory);
  }
}

TEST(DenseSource, ReadsStridedRows) {
  const std::array<float, 8> values{1, 2, 3, 99, 4, 5, 6, 99};
  const DenseSource source({values.data(), DType::kF32, 2, 3, 4});
  std::array<float, 3> row{};
  source.read_rows(1, 2, row.data());
  EXPECT_EQ(row, (std::array<float, 3>{4, 5, 6}));
  EXPECT_EQ(source.dense_data(), nullptr);
  EXPECT_EQ(DenseSource({values.data(), DType::kF32, 2, 4, 4}).dense_data(), values.data());
  EXPECT_THROW(DenseSource({values.data(), DType::kI32, 2, 4, 4}), Error);
  EXPECT_THROW(DenseSource({values.data(), DType::kF32, 2, 4, 3}), Error);
}

}  // namespace
}  // namespace rarefy
