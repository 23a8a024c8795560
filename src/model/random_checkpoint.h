// A Llama checkpoint of any shape with random weights: for benchmarks and demonstrations of speed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>

#include "rarefy/checkpoint.h"
#include "rarefy/config.h"
#include "rarefy/progress.h"
#include "rarefy/threads.h"

namespace rarefy {

/// Where the zeros of a random weight lie.
enum class ZeroPattern : std::uint8_t {
  kEven,       ///< As many everywhere; whole blocks, where blocks are larger than 1x1.
  kBlockSkew,  ///< 64x64 blocks of 30 to 99 % zeros (base/skewed_shares.h).
  kRowSkew,    ///< Rows of lognormal densities.
};

struct RandomCheckpoint {
  ModelConfig config;     ///< A shape of `random_shape`, or any of the Llama family.
  double sparsity = 0.0;  ///< Share of zeros in the linear weights of the layers, as pruning each
                          ///< by magnitude would leave them: the smallest of the weight, of a
                          ///< block or of a row go, or, where zeros come in blocks, blocks at
                          ///< random places.
  ZeroPattern pattern = ZeroPattern::kEven;
  int block_rows = 1, block_cols = 1;  ///< Zeros come in blocks of this shape, at random places.
  bool prune_head = false;             ///< The output head too.
  std::uint64_t seed = 0;
  /// tokenizer.json (and tokenizer_config.json) are copied from here, unless it is empty.
  std::filesystem::path tokenizer_from;
};

/// Shapes of well-known sizes: "tiny" (1.6 M parameters, for tests), "100m", "1b" (Llama 3.2 1B's
/// layers, vocabulary 32000, tied), "1b-128k" (with its vocabulary of 128256), "3b", "7b" (Llama
/// 2's), "8b", "27b" (64 layers of Gemma 3 27B's sizes, vocabulary 32000: 26.8 B parameters).
/// Throws `Error` naming them for anything else.
ModelConfig random_shape(std::string_view name);

/// Writes config.json, generation_config.json, model.safetensors and the tokenizer to `directory`:
/// bf16 weights from N(0, 0.02), norms of 1. The same seed gives the same bytes for any number of
/// threads. Throws `Error` (kIo), also when the folder holds a model already.
void write_random_checkpoint(const std::filesystem::path& directory, const RandomCheckpoint& model,
                             ThreadPool& pool = default_pool(), Progress& progress = no_progress());

/// The same tensors in no file: rows are made as they are read, whichever are asked for, so that a
/// model takes no more memory and disk than it has when it is packed.
std::shared_ptr<const Checkpoint> random_checkpoint(const RandomCheckpoint& model);

}  // namespace rarefy
