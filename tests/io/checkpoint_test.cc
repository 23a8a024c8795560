#include "rarefy/checkpoint.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "expect_error.h"
#include "io/natural_order.h"
#include "shared_data.h"
#include "temporary_directory.h"

namespace rarefy {
namespace {

using testing::expect_error;
using testing::TemporaryDirectory;

TEST(NaturalOrder, ComparesNumbersByValue) {
  using io::natural_less;
  EXPECT_TRUE(natural_less("layers.2.x", "layers.10.x"));
  EXPECT_FALSE(natural_less("layers.10.x", "layers.2.x"));
  EXPECT_TRUE(natural_less("a", "a1"));
  EXPECT_TRUE(natural_less("a01", "a1") != natural_less("a1", "a01"));
  EXPECT_FALSE(natural_less("a1", "a1"));
  EXPECT_TRUE(natural_less("a99999999999999999999998", "a99999999999999999999999"));
}

TEST(Checkpoint, OpensADenseModel) {
  const auto checkpoint = Checkpoint::open(testing::source_path("examples/models/tiny-lm"));
  ASSERT_FALSE(checkpoint->tensors().empty());
  EXPECT_TRUE(std::is_sorted(
      checkpoint->tensors().begin(), checkpoint->tensors().end(),
      [](const auto& a, const auto& b) { return io::natural_less(a.name, b.name); }));
  const CheckpointTensor* up = checkpoint->find("model.layers.3.mlp.up_proj.weight");
  ASSERT_NE(up, nullptr);
  EXPECT_EQ(up->shape, (Shape{512, 192}));
  EXPECT_EQ(up->dtype, DType::kBF16);
  EXPECT_EQ(up->storage, Storage::kDense);
  EXPECT_EQ(up->bytes, 512U * 192 * 2);

  const auto source = checkpoint->source(up->name);
  EXPECT_EQ(source->rows(), 512);
  EXPECT_EQ(source->cols(), 192);
  ASSERT_NE(source->dense_data(), nullptr);
  std::vector<std::uint16_t> rows(3 * 192);
  source->read_rows(7, 10, rows.data());
  EXPECT_EQ(
      std::memcmp(rows.data(), static_cast<const std::uint16_t*>(source->dense_data()) + 7 * 192,
                  rows.size() * 2),
      0);
  checkpoint->drop_pages(up->name);  // Read back from the file afterwards.
  std::vector<std::uint16_t> again(3 * 192);
  source->read_rows(7, 10, again.data());
  EXPECT_EQ(rows, again);

  const std::vector<float> norm = checkpoint->floats("model.norm.weight");
  EXPECT_EQ(norm.size(), 192U);
  EXPECT_EQ(checkpoint->source("model.norm.weight")->rows(), 1);
  expect_error([&] { (void)checkpoint->source("model.norm"); }, ErrorKind::kCorrupt,
               {"tiny-lm", "'model.norm'", "none"});
}

TEST(Checkpoint, OpensShards) {
  const auto path = testing::shared_path("models/small-lm");
  if (!path) GTEST_SKIP() << "shared models/small-lm is missing";
  const auto checkpoint = Checkpoint::open(*path);
  EXPECT_NE(checkpoint->find("model.layers.7.mlp.down_proj.weight"), nullptr);
  EXPECT_NE(checkpoint->find("model.embed_tokens.weight"), nullptr);
}

}  // namespace
}  // namespace rarefy
