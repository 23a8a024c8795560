// Models on a GPU against the CPU: the same logits, the same greedy tokens, batches, faults.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/random_checkpoint.h"
#include "model/support.h"
#include "ops/decoder/device_decoder.h"
#include "rarefy/error.h"
#include "shared_data.h"

namespace rarefy {
namespace {

using testing::argmax;
using testing::floats_of;
using testing::load_dense;

#define RAREFY_SKIP_WITHOUT_CUDA() \
  if (const Support support = cuda_support(); !support) GTEST_SKIP() << support.reason

std::unique_ptr<Model> load_on_gpu(const std::filesystem::path& directory, DType dtype,
                                   bool dense = false, std::int64_t tokens = 1,
                                   std::optional<double> weight_memory = {}) {
  LoadOptions options;
  options.device = Device::kCuda;
  options.device_dtype = dtype;
  options.measure = false;
  options.workloads = {{tokens, 1.0}};
  options.weight_memory = weight_memory;
  if (dense) options.formats = {format::kDense};
  return Model::load(directory, testing::quiet_planner(), options);
}

std::vector<TokenId> some_ids(const Model& model, std::int64_t count, std::int64_t seed = 1) {
  std::vector<TokenId> ids;
  for (std::int64_t i = 0; i < count; ++i)
    ids.push_back(static_cast<TokenId>((seed * 7919 + i * i * 31 + i) % model.config().vocab_size));
  return ids;
}

std::vector<float> logits_of(Model& model, const std::vector<TokenId>& ids,
                             std::int64_t chunk = 512) {
  KvCache cache(model.config(), static_cast<std::int64_t>(ids.size()), model.kv_dtype());
  return floats_of(model.forward(ids, cache, Model::Logits::kAll, chunk));
}

/// Each row within `share` of the largest logit of its row.
void expect_close(const std::vector<float>& got, const std::vector<float>& expected,
                  std::size_t vocab, float share) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t row = 0; row < got.size(); row += vocab) {
    float largest = 0;
    for (std::size_t i = row; i < row + vocab; ++i)
      largest = std::max(largest, std::abs(expected[i]));
    for (std::size_t i = row; i < row + vocab; ++i)
      ASSERT_NEAR(got[i], expected[i], share * largest) << "row " << row / vocab;
  }
}

// What 16-bit activations cost: each rounding is 2⁻⁸ (bf16) or 2⁻¹¹ (f16) of a value, a dozen of
// them in a row add up like their root.
float share_of(DType dtype) {
  return dtype == DType::kF32 ? 1e-4F : dtype == DType::kF16 ? 1e-2F : 6e-2F;
}

TEST(DeviceModel, WithoutAGpuCudaSaysWhatIsMissingAndAutoTakesTheCpu) {
  if (cuda_support()) GTEST_SKIP() << "this machine has a GPU";
  const auto directory = testing::source_path("examples/models/tiny-lm");
  try {
    load_on_gpu(directory, DType::kBF16);
    FAIL() << "loaded";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
    EXPECT_NE(std::string(error.what()).find(cuda_support().reason), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("rarefy doctor"), std::string::npos);
  }
  LoadOptions options;
  options.device = Device::kAuto;
  options.measure = false;
  const auto model = Model::load(directory, testing::quiet_planner(), options);
  EXPECT_EQ(model->gpu(), "");
  EXPECT_EQ(model->kv_dtype(), DType::kF32);
}

class OnDevice : public ::testing::Test {
 protected:
  void SetUp() override { RAREFY_SKIP_WITHOUT_CUDA(); }
};

TEST_F(OnDevice, LogitsOfEveryFamilyAsOnTheCpu) {
  std::vector<std::filesystem::path> models{testing::source_path("examples/models/tiny-lm")};
  for (const auto& entry :
       std::filesystem::directory_iterator(testing::source_path("tests/fixtures/models")))
    models.push_back(entry.path());
  for (const auto& directory : models) {
    SCOPED_TRACE(directory.filename());
    const auto cpu = load_dense(directory);
    const auto vocab = static_cast<std::size_t>(cpu->config().vocab_size);
    const std::vector<TokenId> ids =
        some_ids(*cpu, std::min<std::int64_t>(70, cpu->config().max_positions));
    const std::vector<float> expected = logits_of(*cpu, ids);
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      SCOPED_TRACE(to_string(dtype));
      const auto gpu = load_on_gpu(directory, dtype);
      EXPECT_NE(gpu->gpu(), "");
      expect_close(logits_of(*gpu, ids), expected, vocab, share_of(dtype));
      // In chunks, the last of a single token: prefill goes on where prefill ended.
      expect_close(logits_of(*gpu, ids, 23), expected, vocab, share_of(dtype));
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(OnDevice, GreedyTokensAsOnTheCpu) {
  const auto directory = testing::source_path("examples/models/tiny-lm");
  const auto cpu = load_dense(directory);
  const auto gpu = load_on_gpu(directory, DType::kF32);
  for (std::int64_t seed = 1; seed < 4; ++seed) {
    std::vector<TokenId> ids = some_ids(*cpu, 9, seed);
    std::vector<TokenId> gpu_ids = ids;
    KvCache cpu_cache(cpu->config(), 60);
    KvCache gpu_cache(gpu->config(), 60, gpu->kv_dtype());
    ids.push_back(argmax(cpu->forward(ids, cpu_cache).span<float>()));
    gpu_ids.push_back(argmax(gpu->forward(gpu_ids, gpu_cache).span<float>()));
    KvCache* const caches[] = {&gpu_cache};
    while (ids.size() < 60) {
      ids.push_back(argmax(cpu->forward(std::span(&ids.back(), 1), cpu_cache).span<float>()));
      gpu_ids.push_back(gpu->decode_greedy(std::span(&gpu_ids.back(), 1), caches).front());
    }
    EXPECT_EQ(gpu_ids, ids);
  }
}

TEST_F(OnDevice, ASparseModelGivesTheLogitsOfTheDense) {
  const std::filesystem::path directory =
      std::filesystem::path(::testing::TempDir()) / "rarefy-device-sparse";
  std::filesystem::remove_all(directory);
  write_random_checkpoint(directory, {.config = random_shape("tiny"), .sparsity = 0.9});
  const auto cpu = load_dense(directory);
  const std::vector<TokenId> ids = some_ids(*cpu, 40);
  const std::vector<float> expected = logits_of(*cpu, ids);
  for (const std::int64_t tokens : {1, 8}) {
    std::size_t before = 0;
    for (const double weight_memory : {0.0, 2.0}) {
      const auto gpu = load_on_gpu(directory, DType::kBF16, /*dense=*/false, tokens, weight_memory);
      expect_close(logits_of(*gpu, ids), expected, 2048, share_of(DType::kBF16));
      bool packed = false, second = false;
      for (const DeviceWeight& weight : gpu->device_weights()) {
        packed = packed || !weight.kernel.starts_with("dense");
        second = second || weight.many_from > 0;
      }
      EXPECT_EQ(second, packed && weight_memory > 0);
      if (second) {
        EXPECT_GT(gpu->weight_bytes(), before);
      }
      before = gpu->weight_bytes();
    }
    const auto dense = load_on_gpu(directory, DType::kBF16, /*dense=*/true, tokens);
    for (const DeviceWeight& weight : dense->device_weights())
      EXPECT_TRUE(weight.kernel.starts_with("dense")) << weight.kernel;
  }
  std::filesystem::remove_all(directory);
}

/// Five sequences of different lengths at once (a graph for eight), against each by itself.
void check_batch(Model& model, float share) {
  constexpr std::size_t kSequences = 5;
  const auto vocab = static_cast<std::size_t>(model.config().vocab_size);
  std::vector<std::unique_ptr<KvCache>> caches, alone;
  std::vector<KvCache*> together;
  for (std::size_t s = 0; s < kSequences; ++s) {
    const auto length = static_cast<std::int64_t>(1 + 9 * s);
    const std::vector<TokenId> ids = some_ids(model, length, static_cast<std::int64_t>(s));
    for (auto* list : {&caches, &alone}) {
      list->push_back(std::make_unique<KvCache>(model.config(), length + 3, model.kv_dtype()));
      model.forward(ids, *list->back());
    }
    together.push_back(caches.back().get());
  }
  for (int step = 0; step < 3; ++step) {
    const std::vector<TokenId> next = some_ids(model, kSequences, 100 + step);
    const std::vector<float> got = floats_of(model.decode(next, together));
    std::vector<float> expected;
    for (std::size_t s = 0; s < kSequences; ++s) {
      const std::vector<float> one = floats_of(model.forward(std::span(&next[s], 1), *alone[s]));
      expected.insert(expected.end(), one.begin(), one.end());
      EXPECT_EQ(together[s]->size(), alone[s]->size());
    }
    expect_close(got, expected, vocab, share);
  }
  EXPECT_THROW(model.decode(some_ids(model, kSequences), together), Error);  // All are full.
}

TEST(DeviceModel, BatchesOnTheCpu) {
  // Kernels for one column and for five keep at least 16 bits of an activation each.
  check_batch(*load_dense(testing::source_path("examples/models/tiny-lm")), 1e-4F);
}

TEST_F(OnDevice, Batches) {
  const auto directory = testing::source_path("examples/models/tiny-lm");
  check_batch(*load_on_gpu(directory, DType::kF32), 1e-4F);
  check_batch(*load_on_gpu(directory, DType::kBF16), share_of(DType::kBF16));
}

TEST_F(OnDevice, AStepIsTheSumOfItsParts) {
  const auto gpu = load_on_gpu(testing::source_path("examples/models/tiny-lm"), DType::kBF16);
  const auto layers = gpu->config().layers;
  for (const std::int64_t sequences : {1, 3}) {
    const std::vector<DeviceStepPart> parts = gpu->time_step(sequences, 40);
    ASSERT_EQ(parts.size(), 10U);
    EXPECT_EQ(parts.front().name, "all");
    EXPECT_EQ(parts.front().launches, 3 + 8 * layers);
    double sum = 0;
    for (const DeviceStepPart& part : std::span(parts).subspan(1)) sum += part.us;
    EXPECT_GT(parts.front().us, 0);
    // Kernels overlap, so that leaving one out saves less than it takes.
    EXPECT_LT(sum, 1.5 * parts.front().us);
  }
  // Timing leaves nothing behind.
  const std::vector<TokenId> ids = some_ids(*gpu, 5);
  const std::vector<float> first = logits_of(*gpu, ids);
  EXPECT_EQ(logits_of(*gpu, ids), first);
}

TEST_F(OnDevice, AutoTakesTheCpuForWhatTheGpuDoesNotRun) {
  LoadOptions options;
  options.device = Device::kAuto;
  options.measure = false;
  ModelConfig config = random_shape("tiny");
  config.head_dim = 258;  // Wider than the GPU's kernels take.
  const auto checkpoint = random_checkpoint({.config = config});
  const auto model = Model::load(config, checkpoint, testing::quiet_planner(), options);
  EXPECT_EQ(model->gpu(), "");
  EXPECT_NE(model->gpu_note().find("head_dim"), std::string::npos) << model->gpu_note();
  options.device = Device::kCuda;
  EXPECT_THROW((void)Model::load(config, checkpoint, testing::quiet_planner(), options), Error);
}

TEST_F(OnDevice, CachesBelongToOneDevice) {
  const auto directory = testing::source_path("examples/models/tiny-lm");
  const auto cpu = load_dense(directory);
  const auto gpu = load_on_gpu(directory, DType::kF32);
  const std::vector<TokenId> ids = some_ids(*cpu, 4);
  KvCache cache(cpu->config(), 20);
  cpu->forward(ids, cache);
  EXPECT_THROW(gpu->forward(ids, cache), Error);
  cache.truncate(0);
  const std::vector<float> first = floats_of(gpu->forward(ids, cache));
  EXPECT_THROW(cpu->forward(ids, cache), Error);
  gpu->forward(ids, cache);
  cache.truncate(0);
  EXPECT_EQ(floats_of(gpu->forward(ids, cache)), first);
}

}  // namespace
}  // namespace rarefy
