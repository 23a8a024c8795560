#include <algorithm>
#include <cstring>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/files.h"
#include "io/bitmask_encode.h"
#include "io/checkpoint_arrays.h"
#include "io/checkpoint_config.h"
#include "io/safetensors_header.h"
#include "io/shard_writer.h"
#include "io/shards.h"
#include "rarefy/checkpoint.h"

namespace rarefy {
namespace fs = std::filesystem;
namespace {

constexpr std::uint64_t kMostRoom = std::uint64_t{32} << 20;
constexpr std::size_t kPanelBytes = std::size_t{8} << 20;
constexpr const char* kConfigFile = "config.json";

/// Everything beside the weights that makes a folder a model for transformers.
constexpr const char* kSideFiles[] = {
    "added_tokens.json", "chat_template.jinja",     "chat_template.json", "generation_config.json",
    "merges.txt",        "special_tokens_map.json", "spiece.model",       "tokenizer.json",
    "tokenizer.model",   "tokenizer_config.json",   "vocab.json",         "vocab.txt",
};

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

/// Names that a checkpoint's weights go by; they are replaced as a set.
bool is_weight_file(const std::string& name) {
  return name == io::kSingleFile || name == io::kIndexFile ||
         (name.starts_with("model-") && name.ends_with(".safetensors"));
}

std::vector<std::string> weight_files(const fs::path& directory) {
  std::vector<std::string> names;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(directory, ignored)) {
    const std::string name = entry.path().filename().string();
    if (is_weight_file(name)) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

/// Arrays of one tensor go to one shard; these are what it takes there at most.
struct Demand {
  std::uint64_t header = 0;  ///< in the header
  std::uint64_t kept = 0;    ///< in kept arrays once the shard is streaming
  std::uint64_t total = 0;
};

std::uint64_t kept_part(std::uint64_t bytes) {
  return bytes <= io::ShardWriter::kSmall ? bytes : 0;
}

Demand dense_demand(const std::string& name, const Shape& shape, std::uint64_t bytes) {
  return {io::ShardWriter::header_bytes(name, shape.size()), kept_part(bytes), bytes};
}

Demand sparse_demand(const std::string& prefix, std::int64_t rows, std::int64_t cols,
                     std::uint64_t dense_bytes) {
  const std::uint64_t mask =
      static_cast<std::uint64_t>(rows) * static_cast<std::uint64_t>((cols + 7) / 8);
  const std::uint64_t offsets = static_cast<std::uint64_t>(rows) * 8 + 16;
  return {4 * io::ShardWriter::header_bytes(prefix + ".row_offsets", 2),
          kept_part(dense_bytes) + kept_part(mask) + offsets, dense_bytes + mask + offsets};
}

/// The module of a weight: what compressed-tensors puts before ".compressed" and the others.
std::string module_of(const std::string& name) {
  constexpr std::string_view kSuffix = ".weight";
  require(name.size() > kSuffix.size() && name.ends_with(kSuffix),
          "tensor '{}': expected a name that ends in '.weight' to be stored as sparse-bitmask",
          name);
  return name.substr(0, name.size() - kSuffix.size());
}

}  // namespace

struct CheckpointWriter::Impl {
  Impl(fs::path out, const Checkpoint& original, Options opts)
      : directory(std::move(out)), like(original), options(opts) {
    require(options.shard_bytes > 0, "checkpoint writer: expected shard_bytes > 0, got 0");
    std::error_code error;
    require(!fs::equivalent(directory, like.directory(), error) || error,
            "{}: expected an output folder other than the input's", directory.string());
    const std::vector<std::string> present = weight_files(directory);
    require(options.overwrite || present.empty(),
            "{}: expected a folder without a checkpoint, found '{}' (overwrite was not asked for)",
            directory.string(), present.empty() ? "" : present.front());
    if (is_there(config_path())) {
      config = read_text(config_path());
      io::config_with_sparsity(config, config_path(), {});  // Refuses now what it would at the end.
    }
    created = fs::create_directories(directory, error);
    if (error) {
      fail(ErrorKind::kIo, "{}: could not create the folder: {}", directory.string(),
           error.message());
    }
  }

  ~Impl() {
    if (finished || !created) return;
    shards.clear();  // Removes the temporary files, so that the folder is empty again.
    std::error_code ignored;
    fs::remove(directory, ignored);
  }

  /// Room that a shard of this model will need for headers and small arrays.
  [[nodiscard]] std::uint64_t room() const {
    std::uint64_t total = 0;
    for (const CheckpointTensor& tensor : like.tensors()) {
      Demand demand = dense_demand(tensor.name, tensor.shape, tensor.dense_bytes);
      if (tensor.shape.size() == 2) {
        demand = sparse_demand(tensor.name, tensor.shape[0], tensor.shape[1], tensor.dense_bytes);
      }
      total += demand.header + demand.kept;
    }
    return std::min(total, kMostRoom);
  }

  void name_once(const std::string& name) {
    require(!finished, "{}: expected no tensor after finish, got '{}'", directory.string(), name);
    require(io::is_utf8(name), "{}: tensor '{}': expected a name in UTF-8", directory.string(),
            name);
    require(names.insert(name).second, "{}: tensor '{}': expected once, got twice",
            directory.string(), name);
  }

  /// The shard that takes the next tensor: the current one, or a new one when that is full.
  io::ShardWriter& shard_for(const Demand& demand, DType dtype) {
    const bool fits =
        !shards.empty() && shards.back()->bytes() + demand.total <= options.shard_bytes &&
        shards.back()->has_room(demand.header, demand.kept) &&
        (shards.back()->prefers_keeping(demand.total) || shards.back()->aligned_for(dtype));
    if (shards.empty() || (!fits && shards.back()->bytes() > 0)) {
      if (!shards.empty()) shards.back()->finish();
      shards.push_back(std::make_unique<io::ShardWriter>(
          directory / io::kSingleFile, std::max(room(), demand.header + demand.kept)));
    }
    return *shards.back();
  }

  /// An array that lies in memory as a whole.
  void put(io::ShardWriter& shard, const std::string& name, DType dtype, const Shape& shape,
           const void* data, std::size_t bytes) {
    if (shard.prefers_keeping(bytes) || !shard.aligned_for(dtype)) {
      shard.keep(name, dtype, shape, {static_cast<const char*>(data), bytes});
      return;
    }
    shard.begin(name, dtype);
    shard.write(data, bytes);
    shard.end(shape);
  }

  void add_dense(const std::string& name, const RowSource& source, const Shape& shape,
                 ThreadPool& pool) {
    const DType dtype = source.dtype();
    const std::size_t row_bytes = static_cast<std::size_t>(source.cols()) * size_of(dtype);
    const std::size_t bytes = static_cast<std::size_t>(source.rows()) * row_bytes;
    io::ShardWriter& shard = shard_for(dense_demand(name, shape, bytes), dtype);
    if (source.dense_data() != nullptr) {
      return put(shard, name, dtype, shape, source.dense_data(), bytes);
    }
    const auto read = [&](std::int64_t begin, std::int64_t end, void* out) {
      pool.parallel_for(end - begin, [&](std::int64_t first, std::int64_t last) {
        source.read_rows(
            begin + first, begin + last,
            static_cast<std::byte*>(out) + static_cast<std::size_t>(first) * row_bytes);
      });
    };
    if (shard.prefers_keeping(bytes)) {
      std::string data(bytes, '\0');
      read(0, source.rows(), data.data());
      return shard.keep(name, dtype, shape, std::move(data));
    }
    const auto panel = static_cast<std::int64_t>(std::max<std::size_t>(kPanelBytes / row_bytes, 1));
    Buffer buffer(static_cast<std::size_t>(std::min(panel, source.rows())) * row_bytes);
    shard.begin(name, dtype);
    for (std::int64_t begin = 0; begin < source.rows(); begin += panel) {
      const std::int64_t end = std::min(begin + panel, source.rows());
      read(begin, end, buffer.data());
      shard.write(buffer.data(), static_cast<std::size_t>(end - begin) * row_bytes);
    }
    shard.end(shape);
  }

  void add_sparse(const std::string& name, const RowSource& source, const Shape& shape,
                  ThreadPool& pool) {
    const std::string module = module_of(name);
    const std::int64_t rows = source.rows();
    const std::int64_t cols = source.cols();
    require(rows > 0 && cols > 0, "tensor '{}': expected rows and columns to store, got {}x{}",
            name, rows, cols);
    const DType dtype = source.dtype();
    const std::uint64_t dense_bytes = static_cast<std::uint64_t>(rows * cols) * size_of(dtype);
    const Demand demand = sparse_demand(module, rows, cols, dense_bytes);
    io::ShardWriter& shard = shard_for(demand, dtype);
    const std::string values_name = module + ".compressed";
    io::EncodedBitmask encoded;
    if (shard.prefers_keeping(demand.total)) {
      std::string values;
      encoded = io::encode_bitmask(source, pool, [&values](const void* data, std::size_t bytes) {
        values.append(static_cast<const char*>(data), bytes);
      });
      shard.keep(values_name, dtype, {encoded.values}, std::move(values));
    } else {
      shard.begin(values_name, dtype);
      encoded = io::encode_bitmask(source, pool, [&shard](const void* data, std::size_t bytes) {
        shard.write(data, bytes);
      });
      shard.end({encoded.values});
    }
    put(shard, module + ".bitmask", DType::kU8, {rows, (cols + 7) / 8}, encoded.bitmask.data(),
        encoded.bitmask.size());
    put(shard, module + ".row_offsets", DType::kI64, {rows}, encoded.row_offsets.data(),
        encoded.row_offsets.size() * sizeof(std::int64_t));
    put(shard, module + ".shape", DType::kI64, {static_cast<std::int64_t>(shape.size())},
        shape.data(), shape.size() * sizeof(std::int64_t));
    sparse.modules.push_back(module);
    sparse.elements += rows * cols;
    sparse.zeros += rows * cols - encoded.values;
  }

  /// Writes and flushes every file that is not a shard, under temporary names.
  std::vector<std::unique_ptr<AtomicFile>> write_texts(
      const std::map<std::string, std::string>& texts) const {
    std::vector<std::unique_ptr<AtomicFile>> files;
    for (const auto& [name, text] : texts) {
      auto file = std::make_unique<AtomicFile>(directory / name);
      file->write(text);
      file->flush();
      files.push_back(std::move(file));
    }
    return files;
  }

  [[nodiscard]] std::map<std::string, std::string> texts(
      const std::vector<std::string>& shard_names) const {
    std::map<std::string, std::string> texts;
    for (const char* name : kSideFiles) {
      const fs::path path = like.directory() / name;
      if (is_there(path)) texts.emplace(name, read_text(path));
    }
    for (const auto& [name, contents] : extra) texts[name] = contents;
    if (config || !sparse.modules.empty())
      texts[kConfigFile] = io::config_with_sparsity(config, config_path(), sparse);
    if (shards.size() > 1) {
      std::map<std::string, std::string> file_of;
      std::uint64_t total = 0;
      for (std::size_t i = 0; i < shards.size(); ++i) {
        total += shards[i]->bytes();
        for (const std::string& tensor : shards[i]->names()) file_of[tensor] = shard_names[i];
      }
      texts[io::kIndexFile] = io::index_json(file_of, total);
    }
    return texts;
  }

  [[nodiscard]] std::string config_path() const {
    return (like.directory() / kConfigFile).string();
  }

  [[nodiscard]] std::vector<std::string> shard_names() const {
    if (shards.size() == 1) return {io::kSingleFile};
    std::vector<std::string> names_of_shards;
    for (std::size_t i = 1; i <= shards.size(); ++i) {
      names_of_shards.push_back(fmt::format("model-{:05}-of-{:05}.safetensors", i, shards.size()));
    }
    return names_of_shards;
  }

  fs::path directory;
  const Checkpoint& like;
  Options options;
  std::optional<std::string> config;  ///< The original's config.json.
  bool created = false, finished = false;
  std::vector<std::unique_ptr<io::ShardWriter>> shards;  ///< All but the last are on disk.
  std::set<std::string> names;
  std::map<std::string, std::string> extra;
  io::SparseSummary sparse;
};

CheckpointWriter::CheckpointWriter(fs::path directory, const Checkpoint& like, Options options)
    : impl_(std::make_unique<Impl>(std::move(directory), like, options)) {}

CheckpointWriter::~CheckpointWriter() = default;

void CheckpointWriter::add(const std::string& name, const RowSource& source, Storage storage,
                           ThreadPool& pool) {
  impl_->name_once(name);
  // A source has two dimensions; a vector of the original is one row of them.
  const CheckpointTensor* original = impl_->like.find(name);
  const bool vector = original != nullptr && original->shape.size() == 1 && source.rows() == 1;
  const Shape shape = vector ? Shape{source.cols()} : Shape{source.rows(), source.cols()};
  switch (storage) {
    case Storage::kDense:
      return impl_->add_dense(name, source, shape, pool);
    case Storage::kSparseBitmask:
      require(!vector, "tensor '{}': expected a matrix to be stored as sparse-bitmask, got {}",
              name, to_string(shape));
      return impl_->add_sparse(name, source, shape, pool);
    case Storage::kSparse24Bitmask:
      break;
  }
  fail(ErrorKind::kUnsupported, "tensor '{}': expected storage dense or sparse-bitmask, got {}",
       name, to_string(storage));
}

void CheckpointWriter::copy(const std::string& name) {
  const CheckpointTensor* original = impl_->like.find(name);
  require(original != nullptr, "{}: expected a tensor '{}' to copy, found none",
          impl_->like.directory().string(), name);
  if (original->storage != Storage::kDense) {
    const auto source = impl_->like.source(name);
    // Once decoded and encoded, a bitmask is the same; others become what every reader knows.
    const bool matrix = original->shape.size() == 2 && original->storage == Storage::kSparseBitmask;
    return add(name, *source, matrix ? Storage::kSparseBitmask : Storage::kDense);
  }
  impl_->name_once(name);
  const std::span<const std::byte> data = impl_->like.bytes(name);
  io::ShardWriter& shard =
      impl_->shard_for(dense_demand(name, original->shape, data.size()), original->dtype);
  impl_->put(shard, name, original->dtype, original->shape, data.data(), data.size());
}

void CheckpointWriter::add_file(const std::string& file_name, const std::string& contents) {
  require(!file_name.empty() && file_name.find('/') == std::string::npos && file_name != "." &&
              file_name != "..",
          "checkpoint writer: expected a plain file name, got '{}'", file_name);
  require(file_name != kConfigFile && !is_weight_file(file_name),
          "checkpoint writer: expected a file that it does not write itself, got '{}'", file_name);
  impl_->extra[file_name] = contents;
}

void CheckpointWriter::finish() {
  Impl& impl = *impl_;
  require(!impl.finished, "{}: expected one finish, got two", impl.directory.string());
  require(!impl.shards.empty(), "{}: expected tensors before finish, got none",
          impl.directory.string());
  impl.shards.back()->finish();
  const std::vector<std::string> shard_names = impl.shard_names();
  const auto texts = impl.texts(shard_names);
  for (const auto& [name, text] : texts) {
    const fs::path path = impl.directory / name;
    std::error_code ignored;
    if (fs::is_directory(path, ignored)) {
      fail(ErrorKind::kIo, "{}: expected a file to replace, found a folder", path.string());
    }
  }
  const auto files = impl.write_texts(texts);

  // All is on disk; from here on there are only renames, the weights first.
  for (std::size_t i = 0; i < impl.shards.size(); ++i) {
    impl.shards[i]->commit_as(impl.directory / shard_names[i]);
  }
  for (const auto& file : files) file->commit();
  // Nothing of the old model goes before all of the new one is sure to stay.
  flush_folder(impl.directory);
  impl.finished = true;
  const std::set<std::string> current(shard_names.begin(), shard_names.end());
  for (const std::string& name : weight_files(impl.directory)) {
    if (current.contains(name) || texts.contains(name)) continue;
    std::error_code ignored;
    fs::remove(impl.directory / name, ignored);
  }
}

}  // namespace rarefy
