// sparse-bitmask and sparse-24-bitmask: kernels, encoding, decoding, and structures that lie.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "expect_error.h"
#include "io/bitmask_encode.h"
#include "io/bitmask_kernels.h"
#include "rarefy/checkpoint.h"
#include "rarefy/cpu.h"
#include "rarefy/safetensors.h"
#include "temporary_directory.h"

namespace rarefy {
namespace {

using testing::expect_error;
using testing::TemporaryDirectory;

std::vector<const io::BitmaskKernels*> tables() {
  std::vector<const io::BitmaskKernels*> all = {&io::kPortableBitmask};
  if (cpu_info().avx512) all.push_back(&io::kAvx512Bitmask);
  return all;
}

/// Random elements, `density` of them neither +0 nor -0.
template <class Element>
std::vector<Element> random_row(std::size_t cols, double density, std::mt19937& random) {
  constexpr auto kSign = static_cast<Element>(Element{1} << (8 * sizeof(Element) - 1));
  std::vector<Element> row(cols);
  for (Element& e : row) {
    const bool stored = std::uniform_real_distribution<>(0, 1)(random) < density;
    const auto bits = static_cast<Element>(random() | 1U);
    e = stored ? bits : static_cast<Element>(random() % 2 == 0 ? 0 : kSign);
  }
  return row;
}

template <class Element>
void check_round_trips(const io::BitmaskKernels& kernels) {
  std::mt19937 random(7);
  const auto compress = sizeof(Element) == 2 ? kernels.compress16 : kernels.compress32;
  const auto expand = sizeof(Element) == 2 ? kernels.expand16 : kernels.expand32;
  constexpr auto kMagnitude = static_cast<Element>(static_cast<Element>(~Element{0}) >> 1);
  for (std::size_t cols = 1; cols < 140; ++cols) {
    for (const double density : {0.0, 0.05, 0.5, 1.0}) {
      const auto row = random_row<Element>(cols, density, random);
      std::vector<Element> values(cols);
      std::vector<std::uint8_t> bits((cols + 7) / 8, 0xFF);
      const std::size_t stored = compress(row.data(), cols, values.data(), bits.data());
      values.resize(stored);
      values.shrink_to_fit();  // So that a sanitizer sees a read past the last value.

      std::size_t next = 0;
      for (std::size_t c = 0; c < bits.size() * 8; ++c) {
        const bool set = (bits[c / 8] >> (c % 8) & 1) != 0;
        const bool expected = c < cols && (row[c] & kMagnitude) != 0;
        ASSERT_EQ(set, expected) << "column " << c << " of " << cols;
        if (set) {
          ASSERT_EQ(values[next], row[c]);
          ++next;
        }
      }
      ASSERT_EQ(next, stored);
      EXPECT_EQ(kernels.count(bits.data(), bits.size()), stored);

      std::vector<Element> out(cols + 1, Element{0x55});
      expand(values.data(), stored, bits.data(), cols, out.data());
      for (std::size_t c = 0; c < cols; ++c) {
        ASSERT_EQ(out[c], (row[c] & kMagnitude) != 0 ? row[c] : Element{0});
      }
      ASSERT_EQ(out[cols], Element{0x55}) << "wrote past the row";
    }
  }
}

TEST(BitmaskKernels, RoundTripAtEveryLength) {
  for (const io::BitmaskKernels* kernels : tables()) {
    check_round_trips<std::uint16_t>(*kernels);
    check_round_trips<std::uint32_t>(*kernels);
  }
}

TEST(BitmaskKernels, CountLongMasks) {
  std::mt19937 random(3);
  for (const std::size_t bytes : {0U, 1U, 63U, 64U, 65U, 1000U}) {
    std::vector<std::uint8_t> bits(bytes);
    std::uint64_t expected = 0;
    for (std::uint8_t& b : bits) {
      b = static_cast<std::uint8_t>(random());
      expected += static_cast<std::uint64_t>(__builtin_popcount(b));
    }
    for (const io::BitmaskKernels* kernels : tables()) {
      EXPECT_EQ(kernels->count(bits.data(), bytes), expected);
    }
  }
}

TEST(EncodeBitmask, IsTheSameForAnyNumberOfThreadsAndAnySource) {
  std::mt19937 random(11);
  const std::int64_t rows = 300;
  const std::int64_t cols = 1777;
  auto dense = random_row<std::uint32_t>(static_cast<std::size_t>(rows * cols), 0.3, random);
  const DenseSource direct({dense.data(), DType::kF32, rows, cols, cols});
  std::vector<std::uint32_t> padded(static_cast<std::size_t>(rows * (cols + 3)));
  for (std::int64_t r = 0; r < rows; ++r) {
    std::memcpy(&padded[static_cast<std::size_t>(r * (cols + 3))],
                &dense[static_cast<std::size_t>(r * cols)], static_cast<std::size_t>(cols) * 4);
  }
  const DenseSource strided({padded.data(), DType::kF32, rows, cols, cols + 3});
  ASSERT_EQ(strided.dense_data(), nullptr);

  std::string first_values;
  io::EncodedBitmask first;
  for (const int threads : {1, 2, 5}) {
    for (const RowSource* source :
         {static_cast<const RowSource*>(&direct), static_cast<const RowSource*>(&strided)}) {
      ThreadPool pool(threads);
      std::string values;
      const io::EncodedBitmask encoded =
          io::encode_bitmask(*source, pool, [&](const void* data, std::size_t bytes) {
            values.append(static_cast<const char*>(data), bytes);
          });
      EXPECT_EQ(values.size(), static_cast<std::size_t>(encoded.values) * 4);
      if (first_values.empty()) {
        first_values = values;
        first = encoded;
      }
      EXPECT_EQ(values, first_values);
      EXPECT_EQ(encoded.bitmask, first.bitmask);
      EXPECT_EQ(encoded.row_offsets, first.row_offsets);
    }
  }
}

/// A file of one compressed 3×10 bf16 matrix, to be changed before it is written:
///   row 0: columns 1, 9; row 1: none; row 2: 0, 1, 2.
struct Fixture {
  std::string prefix = "model.layers.0.mlp.up_proj";
  DType value_dtype = DType::kBF16;
  Shape value_shape = {5};
  std::vector<std::uint16_t> values = {0x3F80, 0x4000, 0x4040, 0x4080, 0x40A0};  // 1 2 3 4 5
  DType mask_dtype = DType::kU8;
  Shape mask_shape = {3, 2};
  std::vector<std::uint8_t> mask = {0x02, 0x02, 0x00, 0x00, 0x07, 0x00};
  Shape shape_shape = {2};
  std::vector<std::int64_t> shape = {3, 10};
  DType offset_dtype = DType::kI64;
  Shape offset_shape = {3};
  std::vector<std::int64_t> offsets = {0, 2, 2};
  bool with_shape = true, with_mask = true, with_offsets = true, with_dense = false;

  std::shared_ptr<const Checkpoint> open(const TemporaryDirectory& dir) const {
    SafetensorsWriter writer(dir.path() / "model.safetensors");
    if (with_offsets) writer.declare(prefix + ".row_offsets", offset_dtype, offset_shape);
    if (with_shape) writer.declare(prefix + ".shape", DType::kI64, shape_shape);
    writer.declare(prefix + ".compressed", value_dtype, value_shape);
    if (with_mask) writer.declare(prefix + ".bitmask", mask_dtype, mask_shape);
    if (with_dense) writer.declare(prefix + ".weight", DType::kU8, {0});
    if (with_offsets) writer.write(offsets.data(), offsets.size() * 8);
    if (with_shape) writer.write(shape.data(), shape.size() * 8);
    writer.write(values.data(), values.size() * 2);
    if (with_mask) writer.write(mask.data(), mask.size());
    writer.finish();
    return Checkpoint::open(dir.path());
  }
};

std::vector<float> decode(const RowSource& source) {
  const auto count = static_cast<std::size_t>(source.rows() * source.cols());
  Buffer raw(count * size_of(source.dtype()));
  source.read_rows(0, source.rows(), raw.data());
  std::vector<float> out(count);
  convert_elements(raw.data(), source.dtype(), out.data(), DType::kF32, count);
  return out;
}

const std::vector<float> kExpected = {0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0,
                                      0, 0, 0, 0, 0, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0};

TEST(SparseBitmask, ReadsTheCurrentAndTheOlderNames) {
  for (const char* prefix : {"model.layers.0.mlp.up_proj", "model.layers.0.mlp.up_proj.weight"}) {
    const TemporaryDirectory dir;
    Fixture fixture;
    fixture.prefix = prefix;
    const auto checkpoint = fixture.open(dir);
    ASSERT_EQ(checkpoint->tensors().size(), 1U);
    const CheckpointTensor& tensor = checkpoint->tensors()[0];
    EXPECT_EQ(tensor.name, "model.layers.0.mlp.up_proj.weight");
    EXPECT_EQ(tensor.shape, (Shape{3, 10}));
    EXPECT_EQ(tensor.storage, Storage::kSparseBitmask);
    EXPECT_EQ(tensor.bytes, 10U + 6 + 16 + 24);
    EXPECT_EQ(tensor.dense_bytes, 60U);
    const auto source = checkpoint->source(tensor.name);
    EXPECT_EQ(source->dense_data(), nullptr);
    EXPECT_EQ(decode(*source), kExpected);
    std::vector<std::uint16_t> last(10);
    source->read_rows(2, 3, last.data());
    EXPECT_EQ(last[2], 0x40A0);
    EXPECT_EQ(checkpoint->floats(tensor.name), kExpected);
    EXPECT_NO_THROW(checkpoint->drop_pages(tensor.name));
  }
}

TEST(SparseBitmask, ReadsVectors) {
  const TemporaryDirectory dir;
  Fixture fixture;
  fixture.prefix = "model.norm.weight";
  fixture.shape = {10};
  fixture.shape_shape = {1};
  fixture.mask = {0x1F, 0x00};
  fixture.mask_shape = {2};
  fixture.offsets = {0};
  fixture.offset_shape = {};
  const auto checkpoint = fixture.open(dir);
  EXPECT_EQ(checkpoint->tensors()[0].shape, (Shape{10}));
  EXPECT_EQ(checkpoint->floats("model.norm.weight"),
            (std::vector<float>{1, 2, 3, 4, 5, 0, 0, 0, 0, 0}));
}

TEST(SparseBitmask, RefusesStructuresThatLie) {
  const auto refused = [](const char* what, void (*change)(Fixture&),
                          std::initializer_list<const char*> parts,
                          ErrorKind kind = ErrorKind::kCorrupt) {
    SCOPED_TRACE(what);
    const TemporaryDirectory dir;
    Fixture fixture;
    change(fixture);
    expect_error([&] { (void)fixture.open(dir)->source("model.layers.0.mlp.up_proj.weight"); },
                 kind, parts);
  };
  refused("offset",
          [](Fixture& f) {
            f.offsets = {0, 1, 2};
          },
          {"model.safetensors", "up_proj.row_offsets'", "row 1", "expected offset 2", "found 1"});
  refused("first offset", [](Fixture& f) { f.offsets = {1, 2, 2}; }, {"row 0", "found 1"});
  refused("descending", [](Fixture& f) { f.offsets = {0, 2, -1}; }, {"row 2", "found -1"});
  refused("huge", [](Fixture& f) { f.offsets = {0, 2, std::int64_t{1} << 62}; }, {"row 2"});
  refused("bits", [](Fixture& f) { f.mask[4] = 0x03; },
          {"up_proj.compressed'", "expected 4 values", "found 5"});
  refused("padding",
          [](Fixture& f) {
            f.mask[1] = 0x04;
            f.mask[0] = 0x02;
          },
          {"up_proj.bitmask'", "row 0", "beyond column 9"});
  refused("mask dtype", [](Fixture& f) { f.mask_dtype = DType::kI8; }, {"expected U8", "found I8"});
  refused("mask shape",
          [](Fixture& f) {
            f.mask_shape = {2, 3};
          },
          {"up_proj.bitmask'", "expected shape [3, 2]", "found [2, 3]"});
  refused("values shape",
          [](Fixture& f) {
            f.value_shape = {1, 5};
          },
          {"up_proj.compressed'", "one dimension", "[1, 5]"});
  refused("dense shape", [](Fixture& f) { f.shape = {-3, 10}; }, {"up_proj.shape'", "positive"});
  refused("no rows", [](Fixture& f) { f.shape = {0, 10}; }, {"positive", "[0, 10]"});
  refused("overflow",
          [](Fixture& f) {
            f.shape = {std::int64_t{1} << 40, std::int64_t{1} << 40};
          },
          {"up_proj.shape'", "2^63"});
  refused("three dimensions",
          [](Fixture& f) {
            f.shape = {3, 2, 5};
            f.shape_shape = {3};
          },
          {"up_proj.shape'", "1 or 2"});
  refused("offset count",
          [](Fixture& f) {
            f.offsets = {0, 2};
            f.offset_shape = {2};
          },
          {"up_proj.row_offsets'", "expected 3 offsets", "[2]"});
  refused("offset dtype", [](Fixture& f) { f.offset_dtype = DType::kF64; }, {"F64"});
  refused("no shape", [](Fixture& f) { f.with_shape = false; }, {"up_proj.shape'", "found none"});
  refused("no mask", [](Fixture& f) { f.with_mask = false; }, {"up_proj.bitmask'", "found none"});
  refused("two forms", [](Fixture& f) { f.with_dense = true; }, {"one form", "found two"});
  refused(
      "fp8",
      [](Fixture& f) {
        f.value_dtype = DType::kF8E4M3;
        f.value_shape = {10};
      },
      {"F32, F16 or BF16", "F8_E4M3"}, ErrorKind::kUnsupported);
}

TEST(Sparse24Bitmask, ReadsAndChecks) {
  Fixture good;
  good.with_offsets = false;
  good.shape = {1, 8};
  good.shape_shape = {2, 1};
  good.mask = {0xA3};
  good.mask_shape = {1, 1};
  good.values = {0x3F80, 0x4000, 0x4040, 0x4080};
  good.value_shape = {1, 4};
  {
    const TemporaryDirectory dir;
    const auto checkpoint = good.open(dir);
    EXPECT_EQ(checkpoint->tensors()[0].storage, Storage::kSparse24Bitmask);
    EXPECT_EQ(decode(*checkpoint->source("model.layers.0.mlp.up_proj.weight")),
              (std::vector<float>{1, 2, 0, 0, 0, 3, 0, 4}));
  }
  const auto refused = [&good](void (*change)(Fixture&), std::initializer_list<const char*> parts) {
    const TemporaryDirectory dir;
    Fixture fixture = good;
    change(fixture);
    expect_error([&] { (void)fixture.open(dir)->source("model.layers.0.mlp.up_proj.weight"); },
                 ErrorKind::kCorrupt, parts);
  };
  refused([](Fixture& f) { f.mask = {0x71}; }, {"columns 0 to 3", "2 of 4", "found 1"});
  refused([](Fixture& f) { f.value_shape = {4}; }, {"expected shape [1, 4]", "found [4]"});
  refused([](Fixture& f) { f.shape = {1, 6}; }, {"columns in fours", "[1, 6]"});
}

}  // namespace
}  // namespace rarefy
