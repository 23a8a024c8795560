#include "ops/block_sparse/device_blocks.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <tuple>
#include <utility>

#include "base/check.h"
#include "cuda/compiler.h"
#include "cuda/memory.h"
#include "cuda/timing.h"
#include "cuda/workshop.h"
#include "ops/block_sparse/cuda/block_chooser.h"
#include "ops/block_sparse/cuda/block_kernel.h"
#include "rarefy/threads.h"

namespace rarefy::gpu {
namespace {

using Workshop = cuda::Workshop<BlockChooser>;

BlockProduct product_of(DeviceProduct product) {
  switch (product) {
    case DeviceProduct::kLinear:
      return BlockProduct::kForward;
    case DeviceProduct::kTransposed:
      return BlockProduct::kTransposed;
    default:
      return BlockProduct::kSamples;
  }
}

class CudaBlocks final : public DeviceBlocks {
 public:
  CudaBlocks(const BlockPattern& pattern, Workshop& workshop)
      : workshop_(&workshop),
        row_offsets_(pattern.row_offsets.begin(), pattern.row_offsets.end()),
        col_indices_(pattern.col_indices.begin(), pattern.col_indices.end()),
        pattern_(pattern) {
    pattern_.row_offsets = row_offsets_;
    pattern_.col_indices = col_indices_;
    columns_ = block_columns(pattern_);
    pattern_.col_offsets = columns_.offsets;
    pattern_.row_indices = columns_.row_indices;
    pattern_.order = columns_.order;
    validate(pattern_);
  }

  ~CudaBlocks() override {
    for (auto& [name, kernel] : kernels_)
      if (kernel->recorded) keep_for_ever(std::move(kernel));
    try {  // Streams that ran it are not the one that frees its memory.
      workshop_->device.synchronize();
    } catch (const Error&) {
      return;  // Nobody is left to tell.
    }
  }
  CudaBlocks(const CudaBlocks&) = delete;
  CudaBlocks& operator=(const CudaBlocks&) = delete;

  [[nodiscard]] Support supports(DType dtype) const override {
    return gpu::supports(problem_of({.dtype = dtype, .tokens = 1}), workshop_->device.facts());
  }

  bool enqueue(void* handle, const DeviceBlockCall& call) override {
    const cuda::Stream stream = borrow(handle);
    if (call.tokens == 0) {
      if (call.product == DeviceProduct::kSamples && pattern_.blocks() > 0)
        cuda::fill_bytes(stream, call.values, 0, value_bytes(call.dtype));
      return true;
    }
    const std::scoped_lock lock(mutex_);
    const auto chosen = chosen_.find(key_of(call));
    if (chosen == chosen_.end() || !chosen->second.kernel->is_ready_for(call.tokens)) return false;
    BlockKernel& kernel = *chosen->second.kernel;
    if (!kernel.recorded && stream.recording()) kernel.recorded = recorded_ = true;
    kernel.enqueue(stream, call);
    return true;
  }

  void prepare(void* handle, const DeviceBlockCall& call, bool measure) override {
    const cuda::Stream stream = borrow(handle);
    if (stream.recording())
      fail(ErrorKind::kUnsupported,
           "block-sparse {} of {} tokens: expected such a call before the stream records a graph, "
           "got none; run the work once outside of the graph first",
           to_string(call.product), call.tokens);
    if (call.tokens == 0) return;
    const std::scoped_lock lock(workshop_->mutex);
    const Key key = key_of(call);
    BlockKernel* kernel = nullptr;
    {
      const std::scoped_lock state(mutex_);
      if (const auto found = chosen_.find(key); found != chosen_.end())
        kernel = found->second.kernel;
    }
    Made made;
    if (kernel == nullptr) made = choose(stream, call, measure);
    const std::scoped_lock state(mutex_);
    if (kernel == nullptr) {
      std::unique_ptr<BlockKernel>& place = kernels_[made.name];
      if (place == nullptr) place = std::move(made.kernel);
      kernel = place.get();
      chosen_[key] = {kernel, made.name, made.choice.time_us, made.choice.measured};
    }
    kernel->prepare(workshop_->stream, call.tokens);
  }

  [[nodiscard]] bool recorded() const override { return recorded_; }

  [[nodiscard]] std::vector<DeviceBlockKernel> kernels() const override {
    const std::scoped_lock lock(mutex_);
    std::vector<DeviceBlockKernel> all;
    for (const auto& [key, chosen] : chosen_)
      all.push_back({.product = key.product,
                     .dtype = key.dtype,
                     .bias = key.bias,
                     .tokens = key.tokens,
                     .kernel = chosen.name,
                     .time_us = chosen.time_us,
                     .measured = chosen.measured});
    return all;
  }

  [[nodiscard]] std::size_t bytes() const override {
    const std::scoped_lock lock(mutex_);
    std::size_t sum = 0;
    for (const auto& [name, kernel] : kernels_) sum += kernel->bytes();
    return sum;
  }

 private:
  struct Key {
    DeviceProduct product;
    DType dtype;
    bool bias;
    std::int64_t tokens;  ///< The bucket.

    bool operator<(const Key& o) const {
      return std::tie(product, dtype, bias, tokens) <
             std::tie(o.product, o.dtype, o.bias, o.tokens);
    }
  };
  struct Chosen {
    BlockKernel* kernel;
    std::string name;
    double time_us;
    bool measured;
  };
  struct Made {
    BlockChoice choice;
    std::string name;
    std::unique_ptr<BlockKernel> kernel;
  };

  static Key key_of(const DeviceBlockCall& call) {
    return {call.product, call.dtype, call.bias != 0, token_bucket(call.tokens)};
  }

  static void keep_for_ever(std::unique_ptr<BlockKernel> kernel) {
    static auto* mutex = new std::mutex;
    static auto* kept = new std::vector<std::unique_ptr<BlockKernel>>;
    const std::scoped_lock lock(*mutex);
    kept->push_back(std::move(kernel));
  }

  [[nodiscard]] cuda::Stream borrow(void* handle) const {
    workshop_->device.bind();  // A thread that has only used cached memory has no context yet.
    return cuda::Stream::borrow(workshop_->device, static_cast<cuda::abi::CUstream>(handle));
  }

  [[nodiscard]] std::size_t value_bytes(DType dtype) const {
    return static_cast<std::size_t>(pattern_.blocks() * pattern_.block_rows * pattern_.block_cols) *
           size_of(dtype);
  }

  [[nodiscard]] BlockProblem problem_of(const DeviceBlockCall& call) const {
    const std::int64_t places =
        (pattern_.rows / pattern_.block_rows) * (pattern_.cols / pattern_.block_cols);
    return {.product = product_of(call.product),
            .rows = pattern_.rows,
            .cols = pattern_.cols,
            .block_rows = pattern_.block_rows,
            .block_cols = pattern_.block_cols,
            .density = static_cast<double>(pattern_.blocks()) /
                       static_cast<double>(std::max<std::int64_t>(1, places)),
            .tokens = call.tokens,
            .dtype = call.dtype,
            .bias = call.bias != 0};
  }

  /// The kernel that this call is fastest with. Runs candidates on the call's own memory, after
  /// what the caller's stream has to do before.
  Made choose(const cuda::Stream& caller, const DeviceBlockCall& call, bool measure) {
    const cuda::Stream& stream = workshop_->stream;
    const cuda::DeviceFacts& facts = workshop_->device.facts();
    const BlockProblem problem = problem_of(call);
    std::map<std::string, std::unique_ptr<BlockKernel>> tried;
    const auto make = [&](const BlockConfig& config) -> BlockKernel& {
      std::unique_ptr<BlockKernel>& kernel = tried[config.name(problem)];
      if (kernel == nullptr)
        kernel = std::make_unique<BlockKernel>(problem, config, pattern_, stream);
      return *kernel;
    };
    bool compiled = false;
    const BlockChooser::Timer timer = [&](const BlockConfig& config) {
      if (!std::exchange(compiled, true)) {
        compile_candidates(problem);
        const cuda::Event ready(workshop_->device);
        ready.record(caller);
        ready.block(stream);
      }
      BlockKernel& kernel = make(config);
      kernel.prepare(stream, call.tokens);
      return cuda::time_calls(stream, [&](int) { kernel.enqueue(stream, call); },
                              {.calls = 5, .replays = 6, .budget_us = 20e3})
          .median_us;
    };
    const BlockChoice choice =
        workshop_->chooser.choose(problem, facts, measure ? timer : BlockChooser::Timer());
    make(choice.config);
    std::string name = choice.config.name(problem);
    return {choice, name, std::move(tried[name])};
  }

  /// All of them side by side, into the cache: alone they take a second each.
  void compile_candidates(const BlockProblem& problem) const {
    const cuda::DeviceFacts& facts = workshop_->device.facts();
    const std::vector<BlockConfig> candidates = block_candidates(problem, facts);
    default_pool().parallel_dynamic(
        std::ssize(candidates), 1, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t i = begin; i < end; ++i) {
            try {
              (void)cuda::compile(candidates[static_cast<std::size_t>(i)].source(problem),
                                  facts.arch());
            } catch (const Error&) {
              continue;  // Says so again when it is made.
            }
          }
        });
  }

  Workshop* workshop_;
  std::vector<std::int32_t> row_offsets_, col_indices_;
  BlockColumns columns_;
  BlockPattern pattern_;
  std::atomic<bool> recorded_ = false;
  mutable std::mutex mutex_;  ///< Of what follows; after the workshop's where both are held.
  std::map<std::string, std::unique_ptr<BlockKernel>> kernels_;
  std::map<Key, Chosen> chosen_;
};

}  // namespace
}  // namespace rarefy::gpu

namespace rarefy {

const char* to_string(DeviceProduct product) {
  switch (product) {
    case DeviceProduct::kLinear:
      return "linear";
    case DeviceProduct::kTransposed:
      return "transposed";
    default:
      return "samples";
  }
}

std::unique_ptr<DeviceBlocks> blocks_on_device(const BlockPattern& pattern, int device) {
  return std::make_unique<gpu::CudaBlocks>(pattern, gpu::Workshop::of(device));
}

}  // namespace rarefy
