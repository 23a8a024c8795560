#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <set>

#include "base/json.h"
#include "expect_error.h"
#include "rarefy/checkpoint.h"
#include "rarefy/config.h"
#include "rarefy/safetensors.h"
#include "shared_data.h"
#include "temporary_directory.h"

namespace rarefy {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::TemporaryDirectory;

std::string contents(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::set<std::string> listing(const fs::path& directory) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) {
    names.insert(entry.path().filename().string());
  }
  return names;
}

std::string rows_of(const RowSource& source) {
  std::string out(static_cast<std::size_t>(source.rows() * source.cols()) * size_of(source.dtype()),
                  '\0');
  source.read_rows(0, source.rows(), out.data());
  return out;
}

/// tiny-lm with every second weight of its matrices gone; a third of those as -0.0.
class HalfSource final : public RowSource {
 public:
  explicit HalfSource(std::shared_ptr<const RowSource> base) : base_(std::move(base)) {}
  [[nodiscard]] std::int64_t rows() const override { return base_->rows(); }
  [[nodiscard]] std::int64_t cols() const override { return base_->cols(); }
  [[nodiscard]] DType dtype() const override { return base_->dtype(); }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override {
    base_->read_rows(begin, end, out);
    auto* values = static_cast<std::uint16_t*>(out);
    for (std::int64_t i = 0; i < (end - begin) * cols(); ++i) {
      const std::int64_t at = begin * cols() + i;
      if (at % 2 == 1) values[i] = at % 3 == 0 ? 0x8000 : 0;
    }
  }

 private:
  std::shared_ptr<const RowSource> base_;
};

/// The same without signs on zeros: what comes back from a bitmask.
std::string expected_rows(const RowSource& source) {
  std::string rows = rows_of(source);
  auto* values = reinterpret_cast<std::uint16_t*>(rows.data());
  for (std::size_t i = 0; i < rows.size() / 2; ++i) {
    if (values[i] == 0x8000) values[i] = 0;
  }
  return rows;
}

class CheckpointWriterTest : public ::testing::Test {
 protected:
  std::shared_ptr<const Checkpoint> like =
      Checkpoint::open(testing::source_path("examples/models/tiny-lm"));
  TemporaryDirectory dir;
  fs::path out = dir.path() / "out";

  void copy_all(CheckpointWriter& writer) const {
    for (const CheckpointTensor& tensor : like->tensors()) writer.copy(tensor.name);
  }

  void write_halved(CheckpointWriter::Options options) const {
    CheckpointWriter writer(out, *like, options);
    for (const CheckpointTensor& tensor : like->tensors()) {
      if (tensor.shape.size() != 2) {
        writer.copy(tensor.name);
      } else {
        writer.add(tensor.name, HalfSource(like->source(tensor.name)), Storage::kSparseBitmask);
      }
    }
    writer.finish();
  }
};

TEST_F(CheckpointWriterTest, CopiesBitForBit) {
  {
    CheckpointWriter writer(out, *like);
    copy_all(writer);
    writer.add_file("recipe.yaml", "steps: []\n");
    writer.finish();
  }
  const auto copy = Checkpoint::open(out);
  ASSERT_EQ(copy->tensors().size(), like->tensors().size());
  for (const CheckpointTensor& tensor : like->tensors()) {
    const CheckpointTensor* other = copy->find(tensor.name);
    ASSERT_NE(other, nullptr) << tensor.name;
    EXPECT_EQ(other->shape, tensor.shape);
    EXPECT_EQ(rows_of(*copy->source(tensor.name)), rows_of(*like->source(tensor.name)));
    // Fast kernels read weights in place: all of tiny-lm's sizes are multiples of 64 bytes.
    const auto address = reinterpret_cast<std::uintptr_t>(copy->bytes(tensor.name).data());
    EXPECT_EQ(address % 64, 0U) << tensor.name;
  }
  EXPECT_EQ(listing(out),
            (std::set<std::string>{"config.json", "generation_config.json", "model.safetensors",
                                   "recipe.yaml", "tokenizer.json", "tokenizer_config.json"}));
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}) {
    EXPECT_EQ(contents(out / name), contents(like->directory() / name)) << name;
  }
  EXPECT_EQ(contents(out / "recipe.yaml"), "steps: []\n");
  EXPECT_EQ(Json::parse(contents(out / "config.json")),
            Json::parse(contents(like->directory() / "config.json")));
  // No room is wasted on a small model.
  EXPECT_LT(fs::file_size(out / "model.safetensors"),
            fs::file_size(like->directory() / "model.safetensors") + 4096);
}

TEST_F(CheckpointWriterTest, WritesBitmasksThatReadBack) {
  write_halved({});
  const auto thin = Checkpoint::open(out);
  std::size_t bytes = 0;
  for (const CheckpointTensor& tensor : thin->tensors()) {
    bytes += tensor.bytes;
    if (tensor.shape.size() != 2) continue;
    EXPECT_EQ(tensor.storage, Storage::kSparseBitmask);
    EXPECT_EQ(rows_of(*thin->source(tensor.name)),
              expected_rows(HalfSource(like->source(tensor.name))))
        << tensor.name;
  }
  EXPECT_LT(bytes, fs::file_size(like->directory() / "model.safetensors") * 6 / 10);

  const auto file = SafetensorsFile::open(out / "model.safetensors");
  EXPECT_EQ(file->metadata().at("format"), "pt");
  for (const TensorInfo& info : file->tensors()) {
    const auto address = reinterpret_cast<std::uintptr_t>(file->data(info));
    EXPECT_EQ(address % size_of(info.dtype), 0U) << info.name;
  }
  const TensorInfo* offsets = file->find("model.layers.0.mlp.up_proj.row_offsets");
  ASSERT_NE(offsets, nullptr);
  EXPECT_EQ(offsets->dtype, DType::kI64);
  EXPECT_EQ(offsets->shape, (Shape{512}));

  const Json config = Json::parse(contents(out / "config.json"));
  const Json& quantization = config.at("quantization_config");
  EXPECT_EQ(quantization.at("quant_method"), "compressed-tensors");
  const Json& sparsity = quantization.at("sparsity_config");
  EXPECT_EQ(sparsity.at("format"), "sparse-bitmask");
  EXPECT_NEAR(sparsity.at("global_sparsity").get<double>(), 0.5, 0.01);
  EXPECT_EQ(ModelConfig::load(out).hidden_size, 192);

  // And back to dense, where config.json forgets about it again.
  const fs::path dense = dir.path() / "dense";
  CheckpointWriter writer(dense, *thin);
  for (const CheckpointTensor& tensor : thin->tensors()) {
    writer.add(tensor.name, *thin->source(tensor.name), Storage::kDense);
  }
  writer.finish();
  EXPECT_FALSE(Json::parse(contents(dense / "config.json")).contains("quantization_config"));
  const auto again = Checkpoint::open(dense);
  EXPECT_EQ(again->find("model.norm.weight")->shape, (Shape{192}));
  for (const CheckpointTensor& tensor : thin->tensors()) {
    EXPECT_EQ(rows_of(*again->source(tensor.name)), rows_of(*thin->source(tensor.name)));
  }
}

TEST_F(CheckpointWriterTest, CopiesBitmasksAsTheyAre) {
  write_halved({});
  const auto thin = Checkpoint::open(out);
  CheckpointWriter writer(dir.path() / "copy", *thin);
  for (const CheckpointTensor& tensor : thin->tensors()) writer.copy(tensor.name);
  writer.finish();
  EXPECT_EQ(contents(dir.path() / "copy" / "model.safetensors"),
            contents(out / "model.safetensors"));
}

TEST_F(CheckpointWriterTest, SplitsIntoShards) {
  write_halved({.shard_bytes = 700'000});
  EXPECT_TRUE(fs::exists(out / "model.safetensors.index.json"));
  EXPECT_FALSE(fs::exists(out / "model.safetensors"));
  EXPECT_TRUE(fs::exists(out / "model-00001-of-00006.safetensors")) << listing(out).size();
  const auto thin = Checkpoint::open(out);
  EXPECT_EQ(thin->tensors().size(), like->tensors().size());
  for (const CheckpointTensor& tensor : thin->tensors()) {
    if (tensor.shape.size() == 2) {
      EXPECT_EQ(rows_of(*thin->source(tensor.name)),
                expected_rows(HalfSource(like->source(tensor.name))));
    }
  }
  const Json index = Json::parse(contents(out / "model.safetensors.index.json"));
  std::size_t total = 0;
  for (const CheckpointTensor& tensor : thin->tensors()) total += tensor.bytes;
  EXPECT_EQ(index.at("metadata").at("total_size"), total);

  // One file over several: nothing of the older checkpoint stays.
  write_halved({.overwrite = true});
  EXPECT_FALSE(fs::exists(out / "model.safetensors.index.json"));
  EXPECT_FALSE(fs::exists(out / "model-00001-of-00006.safetensors"));
  EXPECT_TRUE(fs::exists(out / "model.safetensors"));
}

TEST_F(CheckpointWriterTest, StreamsWhatDoesNotFitMemory) {
  // Odd numbers of values and bytes behind 40 MiB: everything after is misaligned unless kept.
  const std::int64_t rows = 5001;
  const std::int64_t cols = 4199;
  std::vector<std::uint16_t> values(static_cast<std::size_t>(rows * cols));
  std::mt19937 random(5);
  for (auto& v : values) v = random() % 3 == 0 ? static_cast<std::uint16_t>(random()) : 0;
  for (auto& v : values) v = v == 0x8000 ? 0 : v;
  const DenseSource source({values.data(), DType::kBF16, rows, cols, cols});
  const std::vector<float> small = {1, 2, 3};
  const DenseSource tail({small.data(), DType::kF32, 1, 3, 3});
  {
    CheckpointWriter writer(out, *like);
    writer.add("a.weight", source, Storage::kSparseBitmask);
    writer.add("b.weight", source, Storage::kDense);
    writer.add("c.bias", tail, Storage::kDense);
    writer.add("d.weight", source, Storage::kSparseBitmask);
    writer.finish();
  }
  const auto written = Checkpoint::open(out);
  for (const char* name : {"a.weight", "b.weight", "d.weight"}) {
    const std::string rows_written = rows_of(*written->source(name));
    ASSERT_EQ(rows_written.size(), values.size() * 2);
    EXPECT_EQ(std::memcmp(rows_written.data(), values.data(), rows_written.size()), 0) << name;
  }
  EXPECT_EQ(written->floats("c.bias"), small);
  for (const auto& entry : fs::directory_iterator(out)) {
    if (entry.path().extension() != ".safetensors") continue;
    const auto file = SafetensorsFile::open(entry.path());
    for (const TensorInfo& info : file->tensors()) {
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(file->data(info)) % size_of(info.dtype), 0U)
          << info.name;
    }
  }
}

TEST_F(CheckpointWriterTest, LeavesNothingBehindWithoutFinish) {
  {
    CheckpointWriter writer(out, *like);
    copy_all(writer);
  }
  EXPECT_FALSE(fs::exists(out));

  write_halved({});
  const std::string before = contents(out / "model.safetensors");
  const auto names = listing(out);
  {
    CheckpointWriter writer(out, *like, {.overwrite = true});
    copy_all(writer);
  }
  EXPECT_EQ(contents(out / "model.safetensors"), before);
  EXPECT_EQ(listing(out), names);
}

/// Files of this process may not grow past a limit while this lives, as on a disk that is full.
class SmallDisk {
 public:
  explicit SmallDisk(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~SmallDisk() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

 private:
  rlimit before_{};
  void (*handler_)(int);
};

TEST_F(CheckpointWriterTest, KeepsTheOldCheckpointWhenTheDiskFills) {
  write_halved({});
  const auto names = listing(out);
  const std::string before = contents(out / "model.safetensors");
  {
    const SmallDisk full(1 << 20);
    expect_error([&] { write_halved({.overwrite = true}); }, ErrorKind::kIo,
                 {"out/model", "could not write"});
  }
  EXPECT_EQ(listing(out), names);
  EXPECT_EQ(contents(out / "model.safetensors"), before);
}

TEST_F(CheckpointWriterTest, RefusesConfigsThatItCannotKeep) {
  const fs::path model = dir.path() / "model";
  fs::create_directories(model);
  fs::copy(like->directory() / "model.safetensors", model);
  const auto open_writer = [&](const std::string& config) {
    std::ofstream(model / "config.json") << config;
    CheckpointWriter(out, *Checkpoint::open(model));
  };
  // Its settings would be lost, and the weights with them.
  expect_error([&] { open_writer(R"({"quantization_config": {"quant_method": "gptq"}})"); },
               ErrorKind::kUnsupported, {"config.json", "compressed-tensors", "gptq"});
  expect_error([&] { open_writer(""); }, ErrorKind::kCorrupt, {"config.json", "JSON"});
  expect_error([&] { open_writer("[]"); }, ErrorKind::kCorrupt, {"config.json", "object"});
  EXPECT_FALSE(fs::exists(out));
  open_writer(R"({"quantization_config": {"quant_method": "compressed-tensors"}})");
}

TEST_F(CheckpointWriterTest, RefusesWhatItShould) {
  const auto kInvalid = ErrorKind::kInvalidArgument;
  expect_error([&] { CheckpointWriter(like->directory(), *like, {.overwrite = true}); }, kInvalid,
               {"other than the input"});
  write_halved({});
  expect_error([&] { CheckpointWriter(out, *like); }, kInvalid,
               {"'model.safetensors'", "overwrite"});

  CheckpointWriter writer(dir.path() / "x", *like);
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  const auto source = like->source(name);
  expect_error([&] { writer.add(name, *source, Storage::kSparse24Bitmask); },
               ErrorKind::kUnsupported, {name.c_str(), "sparse-24-bitmask"});
  expect_error([&] { writer.copy(name); }, kInvalid, {"once", "twice"});
  expect_error([&] { writer.copy("nothing"); }, kInvalid, {"'nothing'"});
  expect_error([&] { writer.add("odd", *source, Storage::kSparseBitmask); }, kInvalid,
               {"'odd'", ".weight"});
  expect_error(
      [&] {
        writer.add("model.norm.weight", *like->source("model.norm.weight"),
                   Storage::kSparseBitmask);
      },
      kInvalid, {"model.norm.weight", "matrix"});
  for (const char* file : {"../x", "", "config.json", "model.safetensors", ".."}) {
    expect_error([&] { writer.add_file(file, ""); }, kInvalid, {"file"});
  }
  expect_error([&] { writer.finish(); }, kInvalid, {"expected tensors", "none"});
  std::ofstream(dir.path() / "plain") << "x";
  expect_error([&] { CheckpointWriter(dir.path() / "plain" / "sub", *like); }, ErrorKind::kIo,
               {"plain/sub"});
}

}  // namespace
}  // namespace rarefy
