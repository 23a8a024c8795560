// Everything that can go wrong becomes a status and one line, and nothing is written or thrown.
#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "capi/support.h"
#include "rarefy/c.h"

namespace rarefy {
namespace {

using testing::ModelHandle;
using testing::source_path;

/// Expects the status, and a last error that names what it is about.
void expect_error(rarefy_status got, rarefy_status expected, const std::string& part) {
  EXPECT_EQ(got, expected) << rarefy_last_error();
  const std::string message = rarefy_last_error();
  EXPECT_NE(message.find(part), std::string::npos) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

TEST(CApi, NamesEveryStatus) {
  EXPECT_STREQ(rarefy_status_name(RAREFY_OK), "ok");
  EXPECT_STREQ(rarefy_status_name(RAREFY_INVALID_ARGUMENT), "invalid-argument");
  EXPECT_STREQ(rarefy_status_name(RAREFY_UNSUPPORTED), "unsupported");
  EXPECT_STREQ(rarefy_status_name(RAREFY_CORRUPT), "corrupt");
  EXPECT_STREQ(rarefy_status_name(RAREFY_IO), "io");
  EXPECT_STREQ(rarefy_status_name(RAREFY_OUT_OF_MEMORY), "out-of-memory");
  EXPECT_STREQ(rarefy_status_name(RAREFY_INTERNAL), "internal");
  EXPECT_STREQ(rarefy_status_name(-1), "unknown");
  EXPECT_STREQ(rarefy_status_name(7), "unknown");
}

TEST(CApi, HasAVersionOfThreeNumbers) {
  int major = -1;
  int minor = -1;
  int patch = -1;
  ASSERT_EQ(std::sscanf(rarefy_version(), "%d.%d.%d", &major, &minor, &patch), 3);
}

TEST(CApi, RefusesNull) {
  const int32_t bad = RAREFY_INVALID_ARGUMENT;
  rarefy_model* model = nullptr;
  rarefy_tokenizer* tokenizer = nullptr;
  rarefy_matrix* matrix = nullptr;
  expect_error(rarefy_model_load(nullptr, nullptr, &model), bad, "directory");
  expect_error(rarefy_model_load("x", nullptr, nullptr), bad, "rarefy_model_load: model");
  rarefy_model_description info = {sizeof(info)};
  expect_error(rarefy_model_info(nullptr, &info), bad, "model");
  expect_error(rarefy_generate(nullptr, "", 0, nullptr, nullptr, nullptr, nullptr, nullptr), bad,
               "model");
  rarefy_perplexity_result ppl = {sizeof(ppl)};
  expect_error(rarefy_perplexity(nullptr, "", 0, 8, 0, &ppl), bad, "model");
  expect_error(rarefy_tokenizer_load(nullptr, &tokenizer), bad, "path");
  expect_error(rarefy_tokenizer_load("x", nullptr), bad, "rarefy_tokenizer_load: tokenizer");
  std::size_t count = 0;
  expect_error(rarefy_tokenizer_encode(nullptr, "a", 1, 0, nullptr, 0, &count), bad, "tokenizer");
  char* text = nullptr;
  expect_error(rarefy_tokenizer_decode(nullptr, nullptr, 0, 0, &text, nullptr), bad, "tokenizer");
  expect_error(rarefy_matrix_pack(nullptr, RAREFY_F32, 2, 2, 0, "csr", &matrix), bad, "dense");
  const float one = 1;
  expect_error(rarefy_matrix_pack(&one, RAREFY_F32, 1, 1, 0, "csr", nullptr), bad, "matrix");
  expect_error(rarefy_matrix_info(nullptr, nullptr), bad, "matrix");
  rarefy_spmm_args args = {sizeof(args)};
  expect_error(rarefy_spmm(nullptr, &args), bad, "matrix");
  EXPECT_EQ(model, nullptr);
  EXPECT_EQ(tokenizer, nullptr);
  EXPECT_EQ(matrix, nullptr);
  rarefy_model_free(nullptr);
  rarefy_tokenizer_free(nullptr);
  rarefy_matrix_free(nullptr);
  rarefy_string_free(nullptr);
}

TEST(CApi, NamesWhatIsMissingOrCorrupt) {
  rarefy_model* model = nullptr;
  expect_error(rarefy_model_load("/no/such/folder", nullptr, &model), RAREFY_IO, "/no/such/folder");
  rarefy_tokenizer* tokenizer = nullptr;
  expect_error(rarefy_tokenizer_load("/no/such/folder", &tokenizer), RAREFY_IO, "/no/such/folder");
  const std::string not_one = source_path("examples/models/tiny-lm/model.safetensors").string();
  expect_error(rarefy_tokenizer_load(not_one.c_str(), &tokenizer), RAREFY_CORRUPT,
               "model.safetensors");
  EXPECT_EQ(model, nullptr);
  EXPECT_EQ(tokenizer, nullptr);
}

TEST(CApi, RefusesMatricesThatCannotBe) {
  const std::vector<float> dense(64, 1.0F);
  rarefy_matrix* matrix = nullptr;
  const auto pack = [&](int32_t dtype, std::int64_t rows, std::int64_t cols, std::int64_t stride,
                        const char* format) {
    return rarefy_matrix_pack(dense.data(), dtype, rows, cols, stride, format, &matrix);
  };
  expect_error(pack(RAREFY_F32, 8, 8, 0, "no such"), RAREFY_INVALID_ARGUMENT, "'no such'");
  expect_error(pack(3, 8, 8, 0, "csr"), RAREFY_INVALID_ARGUMENT, "dtype");
  expect_error(pack(-1, 8, 8, 0, "csr"), RAREFY_INVALID_ARGUMENT, "dtype");
  expect_error(pack(RAREFY_F32, -1, 8, 0, "csr"), RAREFY_INVALID_ARGUMENT, "-1x8");
  expect_error(pack(RAREFY_F32, 8, 8, 7, "csr"), RAREFY_INVALID_ARGUMENT, "row_stride");
  expect_error(pack(RAREFY_F32, 8, 8, INT64_MAX / 2, "csr"), RAREFY_INVALID_ARGUMENT, "row_stride");
  expect_error(pack(RAREFY_F32, 8, 8, 0, "2:4"), RAREFY_UNSUPPORTED, "2:4");  // all ones
  EXPECT_EQ(matrix, nullptr);
}

TEST(CApi, RefusesProductsThatDoNotFit) {
  std::vector<float> dense(12, 1.0F);
  std::vector<float> b(8, 1.0F);
  std::vector<float> c(6, -5.0F);
  rarefy_matrix* matrix = nullptr;
  ASSERT_EQ(rarefy_matrix_pack(dense.data(), RAREFY_F32, 3, 4, 0, "csr", &matrix), RAREFY_OK);
  rarefy_spmm_args good = {sizeof(good)};
  good.n = 2;
  good.b = b.data();
  good.c = c.data();
  const auto refused = [&](const std::string& part, auto change) {
    rarefy_spmm_args args = good;
    change(args);
    expect_error(rarefy_spmm(matrix, &args), RAREFY_INVALID_ARGUMENT, part);
  };
  refused("size", [](auto& a) { a.size = 0; });
  refused("n: expected", [](auto& a) { a.n = -1; });
  refused("b: data is null", [](auto& a) { a.b = nullptr; });
  refused("c: data is null", [](auto& a) { a.c = nullptr; });
  refused("b_dtype", [](auto& a) { a.b_dtype = 9; });
  refused("c_dtype", [](auto& a) { a.c_dtype = -9; });
  refused("activation", [](auto& a) { a.activation = 4; });
  refused("layout", [](auto& a) { a.layout = 2; });
  refused("reserved", [](auto& a) { a.reserved = 1; });
  refused("b_row_stride", [](auto& a) { a.b_row_stride = 3; });
  refused("c_row_stride", [](auto& a) { a.c_row_stride = 2; });
  refused("overlap", [&](auto& a) { a.c = b.data(); });
  expect_error(rarefy_spmm(matrix, nullptr), RAREFY_INVALID_ARGUMENT, "args");
  EXPECT_EQ(c, std::vector<float>(6, -5.0F));
  ASSERT_EQ(rarefy_spmm(matrix, &good), RAREFY_OK) << rarefy_last_error();
  EXPECT_EQ(c, std::vector<float>(6, 4.0F));
  rarefy_matrix_free(matrix);
}

TEST(CApi, ReadsStructsOfOlderAndNewerCallers) {
  struct Newer {
    rarefy_load_options now = {sizeof(Newer)};
    std::uint64_t later = 0;
  } newer;
  rarefy_model* model = nullptr;
  expect_error(rarefy_model_load("/no/such/folder", &newer.now, &model), RAREFY_IO, "folder");
  newer.later = 1;
  expect_error(rarefy_model_load("/no/such/folder", &newer.now, &model), RAREFY_UNSUPPORTED,
               "newer than this library");
  // An older caller's struct ends before `memory_budget`; what lies behind is not read.
  rarefy_load_options older = {offsetof(rarefy_load_options, memory_budget)};
  older.memory_budget = 1;
  expect_error(rarefy_model_load("/no/such/folder", &older, &model), RAREFY_IO, "folder");
  rarefy_load_options bad = {sizeof(bad)};
  bad.device = "tpu";
  expect_error(rarefy_model_load("/no/such/folder", &bad, &model), RAREFY_INVALID_ARGUMENT,
               "device");
  bad.device = "cuda";
  bad.formats = "bitmap";
  expect_error(rarefy_model_load("/no/such/folder", &bad, &model), RAREFY_INVALID_ARGUMENT,
               "formats");
  bad.device = nullptr;
  bad.formats = "bitmap,,csr";
  expect_error(rarefy_model_load("/no/such/folder", &bad, &model), RAREFY_INVALID_ARGUMENT,
               "formats");

  const float one = 1;
  rarefy_matrix* matrix = nullptr;
  ASSERT_EQ(rarefy_matrix_pack(&one, RAREFY_F32, 1, 1, 0, "csr", &matrix), RAREFY_OK);
  rarefy_matrix_description info = {offsetof(rarefy_matrix_description, nnz)};
  info.nnz = -77;
  ASSERT_EQ(rarefy_matrix_info(matrix, &info), RAREFY_OK);
  EXPECT_EQ(info.cols, 1);
  EXPECT_EQ(info.nnz, -77);
  EXPECT_EQ(info.size, offsetof(rarefy_matrix_description, nnz));
  rarefy_matrix_free(matrix);
}

TEST(CApi, RefusesGenerationsThatCannotBe) {
  const ModelHandle model;
  const auto refused = [&](const std::string& part, auto change) {
    rarefy_generate_options options = {sizeof(options)};
    change(options);
    char* text = nullptr;
    expect_error(rarefy_generate(model.get(), "a", 1, &options, nullptr, nullptr, &text, nullptr),
                 RAREFY_INVALID_ARGUMENT, part);
    EXPECT_EQ(text, nullptr);
  };
  refused("max_tokens", [](auto& o) { o.max_tokens = -1; });
  refused("temperature", [](auto& o) { o.temperature = -1; });
  refused("temperature", [](auto& o) { o.temperature = std::nanf(""); });
  refused("top_p", [](auto& o) { o.top_p = 2; });
  refused("stop", [](auto& o) { o.stop_count = 1; });
  expect_error(
      rarefy_generate(model.get(), nullptr, 1, nullptr, nullptr, nullptr, nullptr, nullptr),
      RAREFY_INVALID_ARGUMENT, "prompt");
  rarefy_perplexity_result result = {sizeof(result)};
  expect_error(rarefy_perplexity(model.get(), "short", 5, 64, 0, &result), RAREFY_INVALID_ARGUMENT,
               "perplexity");
}

TEST(CApi, NoExceptionOfACallbackPasses) {
  const ModelHandle model;
  const auto callback = [](const char*, std::size_t, void*) -> std::int32_t {
    throw std::runtime_error("thrown by the callback");
  };
  rarefy_generate_options options = {sizeof(options)};
  options.max_tokens = 4;
  expect_error(
      rarefy_generate(model.get(), "Once", 4, &options, callback, nullptr, nullptr, nullptr),
      RAREFY_INTERNAL, "thrown by the callback");
  // The model is free again.
  EXPECT_EQ(rarefy_generate(model.get(), "Once", 4, &options, nullptr, nullptr, nullptr, nullptr),
            RAREFY_OK);
}

TEST(CApi, KeepsTheLastErrorOfEachThread) {
  ASSERT_EQ(rarefy_set_threads(-1), RAREFY_INVALID_ARGUMENT);
  const std::string mine = rarefy_last_error();
  EXPECT_NE(mine.find("threads"), std::string::npos) << mine;
  std::thread([] { EXPECT_STREQ(rarefy_last_error(), ""); }).join();
  EXPECT_EQ(rarefy_last_error(), mine);
}

TEST(CApi, CutsALongErrorBetweenCharacters) {
  std::string format;
  for (int i = 0; i < 1000; ++i) format += "\u20ac";
  const float one = 1;
  rarefy_matrix* matrix = nullptr;
  for (int shift = 0; shift < 3; ++shift) {
    ASSERT_EQ(rarefy_matrix_pack(&one, RAREFY_F32, 1, 1, 0, format.c_str(), &matrix),
              RAREFY_INVALID_ARGUMENT);
    const std::string message = rarefy_last_error();
    EXPECT_LE(message.size(), 1023U);
    EXPECT_GE(message.size(), 1021U);
    EXPECT_EQ(message.substr(message.size() - 3), "\u20ac");
    format.insert(0, "x");
  }
}

}  // namespace
}  // namespace rarefy
