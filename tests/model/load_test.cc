// Loading: random checkpoints, thin models beside dense ones, budgets, and what is wrong with a
// checkpoint said in one line.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include "base/files.h"
#include "formats/block_counts.h"
#include "model/random_checkpoint.h"
#include "model/support.h"
#include "rarefy/error.h"
#include "rarefy/safetensors.h"
#include "shared_data.h"

namespace rarefy {
namespace {

using testing::floats_of;
using testing::load_dense;
using testing::load_with;

/// A folder that goes away with the test.
class Folder {
 public:
  Folder() {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    path_ = std::filesystem::temp_directory_path() /
            ("rarefy-" + std::string(test->name()) + "-" + std::to_string(getpid()));
    std::filesystem::remove_all(path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

std::vector<float> logits_of(Model& model, const std::vector<TokenId>& ids) {
  KvCache cache(model.config(), static_cast<std::int64_t>(ids.size()));
  return floats_of(model.forward(ids, cache, Model::Logits::kAll));
}

TEST(RandomCheckpoint, HasTheSparsityAndTheBytesItPromises) {
  const Folder a;
  ThreadPool one(1);
  write_random_checkpoint(a.path() / "1", {.config = random_shape("tiny"), .sparsity = 0.7}, one);
  ThreadPool three(3);
  write_random_checkpoint(a.path() / "3", {.config = random_shape("tiny"), .sparsity = 0.7}, three);
  EXPECT_EQ(read_text(a.path() / "1" / "model.safetensors"),
            read_text(a.path() / "3" / "model.safetensors"));

  const auto file = SafetensorsFile::open(a.path() / "1" / "model.safetensors");
  for (const TensorInfo& tensor : file->tensors()) {
    const auto* values = reinterpret_cast<const BFloat16*>(file->data(tensor));
    double sum = 0;
    double squares = 0;
    std::int64_t zeros = 0;
    for (std::int64_t i = 0; i < tensor.elements(); ++i) {
      const double x = to_float(values[i]);
      sum += x;
      squares += x * x;
      zeros += x == 0;
    }
    const auto count = static_cast<double>(tensor.elements());
    if (tensor.shape.size() == 1) {
      EXPECT_EQ(sum, count) << tensor.name;
      continue;
    }
    const bool pruned = tensor.name.find("layers") != std::string::npos;
    // Six standard deviations of a share over the smallest weight, 32768 values.
    EXPECT_NEAR(static_cast<double>(zeros) / count, pruned ? 0.7 : 0.0, 0.016) << tensor.name;
    EXPECT_NEAR(sum / count, 0.0, 0.001) << tensor.name;
    if (pruned) continue;
    EXPECT_NEAR(std::sqrt(squares / count), 0.02, 0.0005) << tensor.name;
  }
  EXPECT_THROW(write_random_checkpoint(a.path() / "1", {.config = random_shape("tiny")}), Error);
  EXPECT_THROW(random_shape("2b"), Error);
}

TEST(RandomCheckpoint, HasEmptyBlocksWhereAsked) {
  const auto made = random_checkpoint(
      {.config = random_shape("tiny"), .sparsity = 0.6, .block_rows = 16, .block_cols = 32});
  std::int64_t empty = 0, blocks = 0;
  for (const char* name :
       {"model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"}) {
    const PatternStats pattern = pattern_stats(*made->source(name));
    for (const std::uint16_t nnz : pattern.block_nnz) {
      ++blocks;
      empty += nnz == 0;
      EXPECT_TRUE(nnz == 0 || nnz > 16 * 32 - 8) << name;  // One quantile in 65536 is zero.
    }
  }
  // Five standard deviations.
  const auto count = static_cast<double>(blocks);
  EXPECT_NEAR(static_cast<double>(empty) / count, 0.6, 5 * std::sqrt(0.24 / count));
  EXPECT_EQ(pattern_stats(*made->source("model.embed_tokens.weight")).block_density(), 1.0);
  EXPECT_THROW(random_checkpoint({.config = random_shape("tiny"), .block_rows = 0}), Error);
}

/// Shares of nonzeros of the 64×64 blocks of two weights, or of their rows.
std::vector<double> densities(const RandomCheckpoint& model, bool of_rows) {
  const auto made = random_checkpoint(model);
  std::vector<double> shares;
  for (const char* name :
       {"model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"}) {
    const PatternStats pattern = pattern_stats(*made->source(name));
    if (of_rows) {
      for (const std::int32_t nnz : pattern.row_nnz)
        shares.push_back(static_cast<double>(nnz) / static_cast<double>(pattern.cols));
    } else {
      for (const std::int32_t nnz : block_counts(pattern, 64, 64)) shares.push_back(nnz / 4096.0);
    }
  }
  return shares;
}

double mean_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

TEST(RandomCheckpoint, SkewsZerosOverBlocksOrRows) {
  RandomCheckpoint model{
      .config = random_shape("tiny"), .sparsity = 0.7, .pattern = ZeroPattern::kBlockSkew};
  // 64 blocks of 1 to 70 %, a deviation of 0.2 each.
  const std::vector<double> blocks = densities(model, false);
  EXPECT_NEAR(mean_of(blocks), 0.3, 0.1);
  const auto [fewest, most] = std::minmax_element(blocks.begin(), blocks.end());
  EXPECT_LT(*fewest, 0.08);
  EXPECT_GT(*most, 0.55);
  EXPECT_LT(*most, 0.75);
  // Rows pass through several blocks, and are alike within one.
  model.pattern = ZeroPattern::kRowSkew;
  const std::vector<double> even = densities(model, false);
  const auto [least, largest] = std::minmax_element(even.begin(), even.end());
  EXPECT_GT(*least, 0.15);
  EXPECT_LT(*largest, 0.45);
  const std::vector<double> rows = densities(model, true);
  EXPECT_NEAR(mean_of(rows), 0.3, 0.01);
  EXPECT_LT(*std::min_element(rows.begin(), rows.end()), 0.08);
  EXPECT_GT(*std::max_element(rows.begin(), rows.end()), 0.8);
  // Nothing else is pruned, and shapes of blocks mean nothing here.
  EXPECT_EQ(
      pattern_stats(*random_checkpoint(model)->source("model.embed_tokens.weight")).block_density(),
      1.0);
  model.block_rows = 16;
  EXPECT_THROW(random_checkpoint(model), Error);
}

struct Zeros {
  int block = 1;
  ZeroPattern pattern = ZeroPattern::kEven;
};
class RandomCheckpointTest : public ::testing::TestWithParam<Zeros> {};
INSTANTIATE_TEST_SUITE_P(Patterns, RandomCheckpointTest,
                         ::testing::Values(Zeros{}, Zeros{16}, Zeros{1, ZeroPattern::kBlockSkew},
                                           Zeros{1, ZeroPattern::kRowSkew}));

TEST_P(RandomCheckpointTest, IsTheSameInNoFile) {
  const Folder folder;
  const RandomCheckpoint model{.config = random_shape("tiny"),
                               .sparsity = 0.7,
                               .pattern = GetParam().pattern,
                               .block_rows = GetParam().block,
                               .block_cols = GetParam().block,
                               .seed = 3};
  write_random_checkpoint(folder.path(), model);
  const auto file = Checkpoint::open(folder.path());
  const auto made = random_checkpoint(model);
  ASSERT_EQ(made->tensors().size(), file->tensors().size());
  for (std::size_t i = 0; i < file->tensors().size(); ++i) {
    const CheckpointTensor& expected = file->tensors()[i];
    EXPECT_EQ(made->tensors()[i].name, expected.name);
    EXPECT_EQ(made->tensors()[i].shape, expected.shape);
    EXPECT_EQ(made->tensors()[i].dense_bytes, expected.dense_bytes);
    EXPECT_EQ(made->floats(expected.name), file->floats(expected.name)) << expected.name;
  }
  EXPECT_THROW((void)made->source("model.layers.99.mlp.up_proj.weight"), Error);
  EXPECT_THROW((void)made->bytes("model.norm.weight"), Error);

  LoadOptions options;
  options.measure = false;
  const auto from_file = Model::load(folder.path(), testing::quiet_planner(), options);
  const auto from_none = Model::load(model.config, made, testing::quiet_planner(), options);
  const std::vector<TokenId> ids{1, 2, 3, 5, 8};
  EXPECT_EQ(logits_of(*from_none, ids), logits_of(*from_file, ids));
  EXPECT_EQ(from_none->dense_weight_bytes(), from_file->dense_weight_bytes());
}

TEST(Load, AThinModelComputesWhatItsDenseFormComputes) {
  const Folder folder;
  write_random_checkpoint(folder.path(), {.config = random_shape("tiny"), .sparsity = 0.9});
  const auto dense = load_dense(folder.path());
  const auto thin = load_with(folder.path(), {});
  bool any_sparse = false;
  for (const ModelWeight& weight : thin->weights())
    any_sparse |= weight.linear->matrix().spec().format != Format::kDense;
  EXPECT_TRUE(any_sparse);
  EXPECT_LT(thin->weight_bytes(), dense->weight_bytes());
  EXPECT_EQ(thin->dense_weight_bytes(), dense->dense_weight_bytes());

  const std::vector<TokenId> ids{5, 17, 2000, 3, 999, 1, 1, 40};
  const std::vector<float> expected = logits_of(*dense, ids);
  const std::vector<float> got = logits_of(*thin, ids);
  float largest = 0;
  for (const float x : expected) largest = std::max(largest, std::abs(x));
  for (std::size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], expected[i], 1e-3F * largest) << i;
}

TEST(Load, CompressedCheckpointsAreLoadedLikeDenseOnes) {
  const Folder folder;
  write_random_checkpoint(folder.path() / "dense",
                          {.config = random_shape("tiny"), .sparsity = 0.6});
  const auto checkpoint = Checkpoint::open(folder.path() / "dense");
  CheckpointWriter writer(folder.path() / "packed", *checkpoint);
  for (const CheckpointTensor& tensor : checkpoint->tensors()) {
    if (tensor.name.find("_proj") != std::string::npos) {
      writer.add(tensor.name, *checkpoint->source(tensor.name), Storage::kSparseBitmask);
    } else {
      writer.copy(tensor.name);
    }
  }
  writer.finish();
  const std::vector<TokenId> ids{7, 8, 9};
  EXPECT_EQ(logits_of(*load_dense(folder.path() / "packed"), ids),
            logits_of(*load_dense(folder.path() / "dense"), ids));
}

TEST(Load, AMemoryBudgetIsKeptOrRefused) {
  const Folder folder;
  write_random_checkpoint(folder.path(), {.config = random_shape("tiny"), .sparsity = 0.5});
  LoadOptions options;
  options.measure = false;
  const auto dense = load_dense(folder.path());
  options.memory_budget = dense->dense_weight_bytes() * 8 / 10;
  const auto thin = Model::load(folder.path(), testing::quiet_planner(), options);
  std::size_t bytes = 0;
  for (const ModelWeight& weight : thin->weights()) bytes += weight.linear->matrix().bytes();
  EXPECT_LE(bytes, options.memory_budget * 101 / 100);  // sizes are estimated before packing
  options.memory_budget = 1000;
  EXPECT_THROW(Model::load(folder.path(), testing::quiet_planner(), options), Error);
}

/// Overwrites bytes of a tensor of the only shard.
void patch(const std::filesystem::path& directory, const std::string& name, std::size_t element,
           std::uint16_t bits) {
  const auto path = directory / "model.safetensors";
  std::size_t offset = 0;
  {
    const auto file = SafetensorsFile::open(path);
    std::string start = read_text(path).substr(0, 8);
    std::uint64_t header = 0;
    std::memcpy(&header, start.data(), 8);
    offset = 8 + header + file->find(name)->begin + 2 * element;
  }
  std::fstream stream(path, std::ios::binary | std::ios::in | std::ios::out);
  stream.seekp(static_cast<std::streamoff>(offset));
  stream.write(reinterpret_cast<const char*>(&bits), 2);
}

std::string load_error(const std::filesystem::path& directory) {
  try {
    load_dense(directory);
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kCorrupt);
    return e.what();
  }
  return "loaded";
}

TEST(Load, NanAndInfinityAreFoundAndNamed) {
  const Folder folder;
  write_random_checkpoint(folder.path(), {.config = random_shape("tiny")});
  const std::string where = folder.path().string();
  patch(folder.path(), "model.layers.1.mlp.up_proj.weight", 256 * 3 + 7, 0x7FC0);
  EXPECT_EQ(load_error(folder.path()), where +
                                           ": model.layers.1.mlp.up_proj.weight: expected finite "
                                           "weights, found nan at row 3, column 7");
  patch(folder.path(), "model.layers.1.mlp.up_proj.weight", 256 * 3 + 7, 0);
  patch(folder.path(), "model.norm.weight", 9, 0xFF80);
  EXPECT_EQ(load_error(folder.path()),
            where + ": model.norm.weight: expected finite weights, found -inf at 9");
}

TEST(Load, AShapeThatConfigDoesNotSayIsNamed) {
  const Folder folder;
  write_random_checkpoint(folder.path(), {.config = random_shape("tiny")});
  std::string config = read_text(folder.path() / "config.json");
  const std::string from = "\"intermediate_size\": 512";
  ASSERT_NE(config.find(from), std::string::npos);
  config.replace(config.find(from), from.size(), "\"intermediate_size\": 500");
  std::ofstream(folder.path() / "config.json") << config;
  EXPECT_EQ(load_error(folder.path()),
            folder.path().string() +
                ": model.layers.0.mlp.gate_proj.weight: expected shape [500, 256] from "
                "config.json, found [512, 256]");
}

TEST(Load, EmbeddingsOfAnUntiedModelAreCheckedToo) {
  const Folder folder;
  ModelConfig config = random_shape("tiny");
  config.tied_embeddings = false;
  write_random_checkpoint(folder.path(), {.config = config});
  EXPECT_NO_THROW(load_dense(folder.path()));
  patch(folder.path(), "model.embed_tokens.weight", 5, 0x7F80);
  EXPECT_NE(load_error(folder.path()).find("model.embed_tokens.weight"), std::string::npos);
}

}  // namespace
}  // namespace rarefy
