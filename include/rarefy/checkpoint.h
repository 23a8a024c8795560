// A model folder as Hugging Face lays it out: shards, index, config.json, tokenizer; dense or
// compressed-tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "rarefy/dtype.h"
#include "rarefy/tensor.h"
#include "rarefy/threads.h"

namespace rarefy {

/// How a checkpoint stores a tensor.
enum class Storage : std::uint8_t { kDense, kSparseBitmask, kSparse24Bitmask };

const char* to_string(Storage storage);  ///< compressed-tensors' names: "dense", "sparse-bitmask",
                                         ///< "sparse-24-bitmask".

/// One logical tensor of a checkpoint; the several arrays of a compressed weight count as one.
struct CheckpointTensor {
  std::string name;  ///< As the dense model calls it: "model.layers.0.mlp.up_proj.weight".
  DType dtype = DType::kF32;
  Shape shape;  ///< The dense shape.
  Storage storage = Storage::kDense;
  std::size_t bytes = 0;  ///< In the file, all arrays together.
  std::size_t dense_bytes = 0;
};

/// All shards of a folder (or one .safetensors file), mapped. Immutable; may be read by many
/// threads.
class Checkpoint {
 public:
  /// Finds model.safetensors, model.safetensors.index.json or the only *.safetensors of the folder,
  /// in this order as transformers does, checks that index and shards agree, and groups
  /// compressed-tensors arrays (current and older spellings). Throws `Error`.
  static std::shared_ptr<const Checkpoint> open(const std::filesystem::path& path);
  /// Tensors that lie in no file: dense, of a compute dtype, made as they are read. `source` is
  /// called for the name of one of `tensors`, and may be called often and by many threads.
  static std::shared_ptr<const Checkpoint> of(
      std::string name, std::vector<CheckpointTensor> tensors,
      std::function<std::shared_ptr<const RowSource>(const std::string&)> source);
  ~Checkpoint();

  /// The folder; the name of what lies in no file.
  [[nodiscard]] const std::filesystem::path& directory() const;
  [[nodiscard]] const std::vector<CheckpointTensor>& tensors()
      const;  ///< Sorted by name, numbers by value.
  [[nodiscard]] const CheckpointTensor* find(const std::string& name) const;

  /// A 1-D or 2-D tensor of a compute dtype as a source (1-D gives one row); shares ownership of
  /// the mapping. Compressed rows decode on demand. The structure of a compressed tensor is
  /// validated here. Throws `Error` when it is missing, of another rank or dtype.
  [[nodiscard]] std::shared_ptr<const RowSource> source(const std::string& name) const;

  /// Copy of a small tensor as f32 (norm weights, biases), from f32, f16, bf16 or f64.
  [[nodiscard]] std::vector<float> floats(const std::string& name) const;

  /// The elements of a dense tensor as the file has them, whatever their dtype and alignment; valid
  /// as long as the checkpoint is. Throws `Error` when the tensor is missing, compressed or in no
  /// file.
  [[nodiscard]] std::span<const std::byte> bytes(const std::string& name) const;

  /// Tells the kernel that the pages behind `name` will not be needed again soon: keeps the
  /// resident set at one layer.
  void drop_pages(const std::string& name) const;

 private:
  struct Impl;
  explicit Checkpoint(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Writes a folder that Hugging Face and compressed-tensors read: shards of at most `shard_bytes`
/// (a larger tensor has one of its own) with an index when there are several, config.json with
/// `quantization_config.sparsity_config` where anything is stored sparse, and the side files
/// (tokenizer, generation config) copied. Everything is written under temporary names, flushed and
/// then renamed by `finish`; a failure leaves an older checkpoint as it was. Tensors stream to disk
/// as they come: memory holds one panel of the current one, and at most 64 MiB of small arrays.
/// The folder must not be the input's: `like` reads from it until the end. `like` must outlive
/// this.
class CheckpointWriter {
 public:
  struct Options {
    std::uint64_t shard_bytes = std::uint64_t{5} << 30;
    bool overwrite = false;  ///< Otherwise an existing checkpoint in the folder is an error.
  };
  CheckpointWriter(std::filesystem::path directory, const Checkpoint& like, Options options);
  CheckpointWriter(std::filesystem::path directory, const Checkpoint& like)
      : CheckpointWriter(std::move(directory), like, Options{}) {}
  ~CheckpointWriter();

  /// Writes a tensor, dense or as kSparseBitmask; the latter, for matrices called "….weight",
  /// leaves out -0.0 as well as +0.0, so that both read as +0.0.
  void add(const std::string& name, const RowSource& source, Storage storage,
           ThreadPool& pool = default_pool());
  /// Copies a tensor of the original: dense ones bit for bit, whatever their dtype; compressed ones
  /// with all values, as sparse-bitmask in the current names (matrices) or dense (the rest).
  void copy(const std::string& name);
  /// Text to be kept beside the weights, such as the recipe that made them ("recipe.yaml").
  void add_file(const std::string& file_name, const std::string& contents);
  void finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rarefy
