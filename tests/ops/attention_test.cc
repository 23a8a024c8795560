// Attention against its double version: grouped heads, odd widths, windows, chunks, dtypes.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "ops/transformer_support.h"
#include "rarefy/error.h"
#include "rarefy/transformer_ops.h"

namespace rarefy {
namespace {

using testing::expect_close;
using testing::ForEachIsa;
using testing::random_floats;

/// Queries of some tokens over a cache of keys and values.
struct Problem {
  std::int64_t heads, kv_heads, dim, first, tokens, window = 0;
  DType kv = DType::kF32;
  std::vector<float> q;
  std::vector<std::byte> k, v;

  Problem(std::int64_t h, std::int64_t g, std::int64_t d, std::int64_t f, std::int64_t t,
          std::int64_t w = 0, DType dtype = DType::kF32)
      : heads(h), kv_heads(g), dim(d), first(f), tokens(t), window(w), kv(dtype) {
    q = random_floats(tokens * heads * dim, 1, 2.0F);
    k = cached(2, 2.0F);
    v = cached(3, 1.0F);
  }

  [[nodiscard]] std::vector<std::byte> cached(std::uint64_t seed, float range) const {
    const auto values = random_floats((first + tokens) * kv_heads * dim, seed, range);
    std::vector<std::byte> out(values.size() * size_of(kv));
    convert_elements(values.data(), DType::kF32, out.data(), kv, values.size());
    return out;
  }

  /// Tokens [begin, end) of the problem.
  AttentionArgs args(std::vector<float>& out, std::int64_t begin, std::int64_t end) {
    const std::int64_t width = heads * dim;
    const std::int64_t kv_width = kv_heads * dim;
    AttentionArgs a;
    a.q = matrix_ref(q.data() + begin * width, end - begin, width);
    a.k = {k.data(), kv, first + tokens, kv_width, kv_width};
    a.v = {v.data(), kv, first + tokens, kv_width, kv_width};
    a.out = matrix_ref(out.data() + begin * width, end - begin, width);
    a.heads = heads;
    a.kv_heads = kv_heads;
    a.head_dim = dim;
    a.first_position = first + begin;
    a.window = window;
    a.scale = 1.0F / std::sqrt(static_cast<float>(dim));
    return a;
  }

  std::vector<float> expected() {
    std::vector<float> out(q.size());
    reference::attention(args(out, 0, tokens));
    return out;
  }
  std::vector<float> run(ThreadPool& pool = default_pool()) {
    std::vector<float> out(q.size(), 99.0F);
    attention(args(out, 0, tokens), pool);
    return out;
  }
};

// Outputs are averages of values of at most 1; scores carry some 1e-6 of absolute error.
constexpr float kTolerance = 1e-5F;

using Attention = ForEachIsa;

TEST_P(Attention, ShapesOfRealModelsAndOddOnes) {
  for (Problem p : {
           Problem{4, 2, 64, 0, 1},     // the very first token
           Problem{4, 4, 64, 0, 70},    // no grouping, past one block of keys
           Problem{8, 2, 64, 37, 33},   // a chunk in the middle
           Problem{3, 1, 64, 200, 5},   // tiny-lm's three heads on one
           Problem{4, 2, 80, 5, 20},    // 80 = 5 vectors
           Problem{2, 1, 96, 63, 2},    // crosses a block of keys
           Problem{2, 2, 128, 64, 10},  // starts on one
           Problem{2, 1, 20, 3, 9},     // a partial vector
           Problem{2, 1, 8, 100, 3},    // less than a vector
           Problem{5, 1, 1, 10, 4},     // one number a head
           Problem{7, 7, 12, 0, 130},   // odd rows of different tokens in a tile
           Problem{64, 1, 16, 10, 9},   // as many rows as an item takes, in one token
           Problem{300, 2, 4, 2, 3},    // more than that
       }) {
    SCOPED_TRACE(::testing::Message() << p.heads << "/" << p.kv_heads << "x" << p.dim << " at "
                                      << p.first << "+" << p.tokens);
    expect_close(p.run(), p.expected(), kTolerance);
  }
}

TEST_P(Attention, Windows) {
  for (std::int64_t window : {1, 2, 63, 64, 65, 100, 500}) {
    for (auto [first, tokens] : {std::pair{0, 130}, {90, 40}, {700, 1}, {1500, 3}}) {
      SCOPED_TRACE(::testing::Message() << window << " at " << first << "+" << tokens);
      Problem p{4, 2, 16, first, tokens, window};
      expect_close(p.run(), p.expected(), kTolerance);
    }
  }
}

TEST_P(Attention, LongCachesInParts) {
  for (auto [first, tokens] : {std::pair{511, 1}, {512, 1}, {1300, 1}, {1020, 8}, {510, 4}}) {
    Problem p{6, 2, 32, first, tokens};
    expect_close(p.run(), p.expected(), kTolerance);
  }
}

TEST_P(Attention, HalfPrecisionCaches) {
  for (DType dtype : {DType::kF16, DType::kBF16}) {
    for (std::int64_t dim : {64, 20}) {
      Problem p{4, 2, dim, 70, 9, 0, dtype};
      expect_close(p.run(), p.expected(), kTolerance);  // the reference reads the same halves
    }
  }
}

TEST_P(Attention, ARowDoesNotDependOnItsChunk) {
  Problem p{6, 2, 24, 0, 150, 100};
  const std::vector<float> whole = p.run();
  for (std::int64_t chunk : {9, 64, 77}) {  // more tokens than decoding takes at once
    std::vector<float> out(p.q.size());
    for (std::int64_t t = 0; t < p.tokens; t += chunk)
      if (p.tokens - t > 8) attention(p.args(out, t, std::min(p.tokens, t + chunk)));
    const std::int64_t done = chunk == 9 ? 144 : p.tokens;
    for (std::int64_t i = 0; i < done * p.heads * p.dim; ++i)
      ASSERT_EQ(out[static_cast<std::size_t>(i)], whole[static_cast<std::size_t>(i)]) << chunk;
  }
}

TEST_P(Attention, TheSameForAnyNumberOfThreads) {
  for (auto [first, tokens] : {std::pair{0, 200}, {1600, 2}}) {
    Problem p{8, 4, 16, first, tokens};
    ThreadPool one(1);
    const std::vector<float> expected = p.run(one);
    for (int threads : {2, 3, 5}) {
      ThreadPool pool(threads);
      EXPECT_EQ(p.run(pool), expected) << threads;
    }
  }
}

TEST_P(Attention, LargeScoresDoNotOverflow) {
  Problem p{2, 1, 16, 20, 12};
  for (float& x : p.q) x *= 1e4F;
  // The largest score takes all: an average of one value.
  expect_close(p.run(), p.expected(), 1e-3F);
}

TEST_P(Attention, NanReachesItsHead) {
  Problem p{4, 2, 16, 0, 12};
  p.q[3 * 64 + 5] = std::nanf("");  // token 3, head 0
  const std::vector<float> out = p.run();
  EXPECT_TRUE(std::isnan(out[3 * 64]));
  EXPECT_FALSE(std::isnan(out[3 * 64 + 16]));
  EXPECT_FALSE(std::isnan(out[2 * 64]));
}

TEST_P(Attention, WhatLiesPastTheLastTokenIsNotRead) {
  Problem p{2, 1, 16, 0, 10};
  const std::vector<float> expected = p.run();
  // A cache with room: rows 10…19 hold NaN.
  std::vector<float> k(20 * 16, std::nanf(""));
  std::vector<float> v(20 * 16, std::nanf(""));
  std::memcpy(k.data(), p.k.data(), p.k.size());
  std::memcpy(v.data(), p.v.data(), p.v.size());
  std::vector<float> out(p.q.size());
  AttentionArgs a = p.args(out, 0, 10);
  a.k = matrix_ref(k.data(), 20, 16);
  a.v = matrix_ref(v.data(), 20, 16);
  attention(a);
  EXPECT_EQ(out, expected);
}

INSTANTIATE_TEST_SUITE_P(AllIsas, Attention, ::testing::ValuesIn(testing::available_isas()),
                         testing::isa_name);

TEST(AttentionErrors, ChecksShapes) {
  Problem p{4, 2, 16, 3, 2};
  std::vector<float> out(p.q.size());
  AttentionArgs a = p.args(out, 0, 2);
  a.kv_heads = 3;
  EXPECT_THROW(attention(a), Error);
  a = p.args(out, 0, 2);
  a.k.rows = 4;
  try {
    attention(a);
    FAIL();
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(),
                 "attention: k: expected at least 5 rows of 32, got 4 of 32 with stride 32");
  }
  a = p.args(out, 0, 2);
  a.v.dtype = DType::kBF16;
  EXPECT_THROW(attention(a), Error);
}

}  // namespace
}  // namespace rarefy
