#include "rarefy/safetensors.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <string>

#include "expect_error.h"
#include "io/safetensors_header.h"
#include "shared_data.h"
#include "temporary_directory.h"

namespace rarefy {
namespace {

using testing::expect_error;
using testing::TemporaryDirectory;

/// A file of `header` and `data`, with the length in front.
std::string file_of(const std::string& header, std::size_t data_bytes) {
  const std::uint64_t length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + header + std::string(data_bytes, '\x01');
}

std::string entry(const std::string& dtype, const std::string& shape, std::uint64_t begin,
                  std::uint64_t end) {
  return fmt::format(R"({{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})", dtype, shape, begin,
                     end);
}

io::SafetensorsHeader parse(const std::string& file) {
  return io::parse_safetensors(file, "x.safetensors");
}

void expect_corrupt(const std::string& file, std::initializer_list<const char*> parts) {
  SCOPED_TRACE(file.substr(8));
  expect_error([&] { parse(file); }, ErrorKind::kCorrupt, parts);
}

TEST(Safetensors, ReadsEveryDTypeOfTheSpecification) {
  const struct {
    const char* name;
    DType dtype;
    int bits;
  } cases[] = {
      {"F32", DType::kF32, 32},
      {"F16", DType::kF16, 16},
      {"BF16", DType::kBF16, 16},
      {"F64", DType::kF64, 64},
      {"I64", DType::kI64, 64},
      {"I32", DType::kI32, 32},
      {"I16", DType::kI16, 16},
      {"I8", DType::kI8, 8},
      {"U64", DType::kU64, 64},
      {"U32", DType::kU32, 32},
      {"U16", DType::kU16, 16},
      {"U8", DType::kU8, 8},
      {"BOOL", DType::kBool, 8},
      {"F8_E4M3", DType::kF8E4M3, 8},
      {"F8_E5M2", DType::kF8E5M2, 8},
      {"F8_E8M0", DType::kF8E8M0, 8},
      {"F6_E2M3", DType::kF6E2M3, 6},
      {"F6_E3M2", DType::kF6E3M2, 6},
      {"F4", DType::kF4, 4},
      {"C64", DType::kC64, 64},
      {"F8_E4M3FNUZ", DType::kF8E4M3FNUZ, 8},
      {"F8_E5M2FNUZ", DType::kF8E5M2FNUZ, 8},
  };
  for (const auto& c : cases) {
    const std::uint64_t bytes = 12 * static_cast<std::uint64_t>(c.bits) / 8;
    const auto header = parse(file_of("{\"a\":" + entry(c.name, "[3,4]", 0, bytes) + "}", bytes));
    ASSERT_EQ(header.tensors.size(), 1U) << c.name;
    EXPECT_EQ(header.tensors[0].dtype, c.dtype);
    EXPECT_EQ(header.tensors[0].elements(), 12);
    EXPECT_EQ(header.tensors[0].bytes(), bytes);
  }
}

TEST(Safetensors, ReadsScalarsEmptyTensorsMetadataAndPadding) {
  const auto header = parse(
      file_of(R"({"__metadata__":{"format":"pt","k":"v"},"z":)" + entry("F32", "[]", 0, 4) +
                  ",\"e\":" + entry("I64", "[0,4611686018427387904,4611686018427387904]", 4, 4) +
                  ",\"b\":" + entry("U8", "[3]", 4, 7) + "}   ",
              7));
  ASSERT_EQ(header.tensors.size(), 3U);
  EXPECT_EQ(header.tensors[0].name, "z");
  EXPECT_EQ(header.tensors[0].elements(), 1);
  EXPECT_EQ(header.tensors[1].name, "e");
  EXPECT_EQ(header.tensors[1].elements(), 0);
  EXPECT_EQ(header.tensors[2].name, "b");
  EXPECT_EQ(header.metadata.at("k"), "v");
  EXPECT_TRUE(parse(file_of("{}", 0)).tensors.empty());
}

TEST(Safetensors, RefusesLyingLengths) {
  expect_error([] { parse("1234567"); }, ErrorKind::kCorrupt, {"x.safetensors", "8 bytes", "7"});
  expect_error([] { parse(""); }, ErrorKind::kCorrupt, {"found 0"});
  std::string file = file_of("{}", 0);
  file[0] = 3;
  expect_corrupt(file, {"expected a header of 3 bytes", "found 2"});
  file[7] = '\x7f';
  expect_corrupt(file, {"at most 100000000"});
  expect_corrupt(file_of("", 0), {"begin with '{'"});
  expect_corrupt(file_of(" {}", 0), {"begin with '{'", "0x20"});
  expect_corrupt(file_of("{}{", 0), {"valid JSON"});
  expect_corrupt(file_of(std::string("{}\0x", 4), 0), {"NUL"});
  expect_corrupt(file_of(R"({"a":{"dtype":"F32")", 0), {"valid JSON"});
}

TEST(Safetensors, RefusesBadLayouts) {
  const auto two = [](std::uint64_t b0, std::uint64_t e0, std::uint64_t b1, std::uint64_t e1,
                      std::size_t data) {
    return file_of(fmt::format(R"({{"first":{},"second":{}}})", entry("U8", "[4]", b0, e0),
                               entry("U8", "[4]", b1, e1)),
                   data);
  };
  EXPECT_EQ(parse(two(0, 4, 4, 8, 8)).tensors.size(), 2U);
  EXPECT_EQ(parse(two(4, 8, 0, 4, 8)).tensors[0].name, "second");
  expect_corrupt(two(0, 4, 2, 6, 6), {"'second'", "begin at 4", "found 2", "overlap"});
  expect_corrupt(two(0, 4, 0, 4, 4), {"'second'", "overlap"});
  expect_corrupt(two(0, 4, 5, 9, 9), {"'second'", "begin at 4", "found 5", "hole"});
  expect_corrupt(two(1, 5, 5, 9, 9), {"'first'", "begin at 0", "hole"});
  expect_corrupt(two(0, 4, 4, 8, 9), {"expected 8 data bytes", "found 9"});
  expect_corrupt(two(0, 4, 4, 8, 7), {"'second'", "7 data bytes", "[4, 8]"});
  expect_corrupt(file_of("{}", 1), {"expected 0 data bytes", "found 1"});
}

TEST(Safetensors, RefusesBadEntries) {
  const auto one = [](const std::string& value) { return file_of("{\"t\":" + value + "}", 8); };
  expect_corrupt(one("3"), {"'t'", "object", "number"});
  expect_corrupt(one(entry("F33", "[2]", 0, 8)), {"'t'", "dtype", "F33"});
  expect_corrupt(one(R"({"dtype":3,"shape":[2],"data_offsets":[0,8]})"), {"dtype", "string"});
  expect_corrupt(one(R"({"shape":[2],"data_offsets":[0,8]})"), {"'dtype'", "none"});
  expect_corrupt(one(R"({"dtype":"F32","data_offsets":[0,8]})"), {"'shape'", "none"});
  expect_corrupt(one(R"({"dtype":"F32","shape":[2]})"), {"'data_offsets'", "none"});
  expect_corrupt(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1})"), {"'x'"});
  expect_corrupt(one(entry("F32", "2", 0, 8)), {"shape", "array"});
  expect_corrupt(one(entry("F32", "[-2]", 0, 8)), {"shape", "-2"});
  expect_corrupt(one(entry("F32", "[2.0]", 0, 8)), {"shape", "2.0"});
  expect_corrupt(one(entry("F32", "[18446744073709551616]", 0, 8)), {"shape", "2^63"});
  expect_corrupt(one(entry("F32", "[9223372036854775808]", 0, 8)), {"shape", "2^63"});
  expect_corrupt(one(entry("F32", "[3]", 0, 8)), {"expected 12 bytes for F32 [3]", "found 8"});
  expect_corrupt(one(entry("F32", "[2]", 8, 0)), {"begin <= end", "[8, 0]"});
  expect_corrupt(one(entry("F4", "[3]", 0, 2)), {"whole number of bytes", "12 bits"});
  expect_corrupt(one(entry("F6_E2M3", "[3]", 0, 3)), {"whole number of bytes", "18 bits"});
  // 2^62 × 2^62 elements wrap to 0 in 64 bits, 2^61 × F64 in bits.
  expect_corrupt(one(entry("U8", "[4611686018427387904,4611686018427387904]", 0, 0)),
                 {"2^63 bits"});
  expect_corrupt(one(entry("F64", "[2305843009213693952]", 0, 0)), {"2^63 bits"});
  expect_corrupt(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0]})"), {"[begin, end]", "1"});
  expect_corrupt(one(R"({"dtype":"F32","shape":[2],"data_offsets":"ab"})"), {"[begin, end]"});
}

TEST(Safetensors, RefusesDuplicateKeysAndBadMetadata) {
  expect_corrupt(file_of(fmt::format(R"({{"a":{0},"a":{0}}})", entry("U8", "[4]", 0, 4)), 4),
                 {"'a'", "twice"});
  expect_corrupt(file_of(R"({"__metadata__":[]})", 0), {"__metadata__", "object"});
  expect_corrupt(file_of(R"({"__metadata__":{"a":1}})", 0), {"__metadata__ 'a'", "string"});
  expect_corrupt(file_of(R"({"__metadata__":{"a":"1","a":"2"}})", 0), {"'a'", "twice"});
}

TEST(Safetensors, OpensAFileAndFindsItsTensors) {
  const auto file =
      SafetensorsFile::open(testing::source_path("examples/models/tiny-lm/model.safetensors"));
  const TensorInfo* norm = file->find("model.norm.weight");
  ASSERT_NE(norm, nullptr);
  EXPECT_EQ(norm->shape, (Shape{192}));
  EXPECT_EQ(norm->dtype, DType::kBF16);
  EXPECT_EQ(file->find("model.norm"), nullptr);
  expect_error([] { SafetensorsFile::open("/nonexistent/x.safetensors"); }, ErrorKind::kIo,
               {"/nonexistent/x.safetensors"});
  const TemporaryDirectory dir;
  expect_error([&] { SafetensorsFile::open(dir.path()); }, ErrorKind::kIo, {"regular file"});
  expect_error([&] { SafetensorsFile::open(dir.write("empty.safetensors", "")); },
               ErrorKind::kCorrupt, {"empty.safetensors", "found 0"});
}

TEST(SafetensorsWriter, WritesWhatItReads) {
  const TemporaryDirectory dir;
  const auto path = dir.path() / "x.safetensors";
  const float values[6] = {1, -2, 3.5F, -0.0F, 5, 6};
  const std::uint8_t packed[3] = {0x12, 0x34, 0x56};
  {
    SafetensorsWriter writer(path, {{"k", "v \"quoted\" \n"}});
    writer.declare("zwei \"x\"", DType::kF32, {2, 3});
    writer.declare("skalar", DType::kF32, {});
    writer.declare("empty", DType::kI64, {0, 5});
    writer.declare("nibbles", DType::kF4, {6});
    writer.write(values, 10);  // In any pieces.
    writer.write(reinterpret_cast<const char*>(values) + 10, 14);
    writer.write(values, 4);
    writer.write(packed, 3);
    EXPECT_FALSE(std::filesystem::exists(path));
    writer.finish();
  }
  const auto file = SafetensorsFile::open(path);
  EXPECT_EQ(file->metadata().at("k"), "v \"quoted\" \n");
  const TensorInfo* first = file->find("zwei \"x\"");
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(first->shape, (Shape{2, 3}));
  EXPECT_EQ(std::memcmp(file->data(*first), values, sizeof values), 0);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(file->data(*first)) % 64, 0U);
  EXPECT_EQ(std::memcmp(file->data(*file->find("nibbles")), packed, 3), 0);
  EXPECT_EQ(file->find("empty")->elements(), 0);
  EXPECT_TRUE(file->find("skalar")->shape.empty());
}

TEST(SafetensorsWriter, KeepsTheOldFileUntilItFinishes) {
  const TemporaryDirectory dir;
  const auto path = dir.write("x.safetensors", "old");
  {
    SafetensorsWriter writer(path);
    writer.declare("a", DType::kU8, {4});
    writer.write("ab", 2);
    expect_error([&] { writer.finish(); }, ErrorKind::kInvalidArgument,
                 {"expected 4 data bytes", "got 2"});
    expect_error([&] { writer.write("cde", 3); }, ErrorKind::kInvalidArgument, {"1 more"});
    expect_error([&] { writer.declare("b", DType::kU8, {1}); }, ErrorKind::kInvalidArgument,
                 {"'b'", "before data"});
  }
  EXPECT_EQ(std::filesystem::file_size(path), 3U);
  std::size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(dir.path())) {
    files += entry.exists() ? 1 : 0;
  }
  EXPECT_EQ(files, 1U);

  SafetensorsWriter writer(path);
  writer.declare("a", DType::kU8, {});
  expect_error([&] { writer.declare("a", DType::kU8, {}); }, ErrorKind::kInvalidArgument,
               {"'a'", "twice"});
  expect_error([&] { writer.declare("__metadata__", DType::kU8, {}); }, ErrorKind::kInvalidArgument,
               {"__metadata__"});
  expect_error([&] { writer.declare("\xff", DType::kU8, {}); }, ErrorKind::kInvalidArgument,
               {"UTF-8"});
  expect_error([&] { writer.declare("n", DType::kU8, {-1}); }, ErrorKind::kInvalidArgument,
               {"[-1]"});
  expect_error([&] { writer.declare("f", DType::kF4, {3}); }, ErrorKind::kInvalidArgument,
               {"12 bits"});
}

}  // namespace
}  // namespace rarefy
