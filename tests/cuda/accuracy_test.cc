// Every family against double on inputs that are meant to break it: sums that cancel, denormals,
// the largest numbers, infinities and NaN. The error must stay within what rounding f32 sums of so
// many terms can do, N · eps · |A| |B|, whatever the order of summation.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "gpu_or_skip.h"
#include "ops/spmm/cuda/families.h"
#include "spmm_case.h"

namespace rarefy::gpu {
namespace {

constexpr std::int64_t kRows = 96, kCols = 1536;

/// One input: A with the zeros of a pattern, and B token by token.
struct Input {
  std::vector<float> a, b;
};

bool kept(std::int64_t r, std::int64_t c, double density) {
  std::uint64_t z = static_cast<std::uint64_t>(r * kCols + c + 1) * 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53 < density;
}

template <class Weight, class Activation>
Input make_input(std::int64_t n, double density, const Weight& weight,
                 const Activation& activation) {
  Input in{std::vector<float>(static_cast<std::size_t>(kRows * kCols)),
           std::vector<float>(static_cast<std::size_t>(n * kCols))};
  for (std::int64_t r = 0; r < kRows; ++r) {
    for (std::int64_t c = 0; c < kCols; ++c)
      in.a[static_cast<std::size_t>(r * kCols + c)] = kept(r, c, density) ? weight(r, c) : 0.0F;
  }
  for (std::int64_t t = 0; t < n; ++t) {
    for (std::int64_t c = 0; c < kCols; ++c)
      in.b[static_cast<std::size_t>(t * kCols + c)] = activation(t, c);
  }
  return in;
}

std::vector<std::byte> to_bytes(std::vector<float>& values, DType dtype) {
  std::vector<std::byte> bytes(values.size() * size_of(dtype));
  convert_elements(values.data(), DType::kF32, bytes.data(), dtype, values.size());
  convert_elements(bytes.data(), dtype, values.data(), DType::kF32, values.size());  // As rounded.
  return bytes;
}

class AccuracyOnDevice : public ::testing::Test {
 protected:
  void SetUp() override { RAREFY_SKIP_WITHOUT_GPU(); }

  /// All families, a sample of each one's kernels; f32 results, so that only sums round.
  static void check(Input in, std::int64_t n, DType dtype, const char* what) {
    const std::vector<std::byte> a = to_bytes(in.a, dtype);
    const std::vector<std::byte> b = to_bytes(in.b, dtype);
    const DenseSource source({a.data(), dtype, kRows, kCols, kCols});
    const PatternStats pattern = pattern_stats(source);
    const MatrixPtr csr = pack(source, format::kCsr32);
    const Problem problem{.m = kRows,
                          .k = kCols,
                          .n = n,
                          .weight = dtype,
                          .activations = dtype,
                          .output = DType::kF32};
    const cuda::Stream stream;
    const cuda::DeviceBuffer device_b = cuda::upload<std::byte>(stream, b);
    const cuda::DeviceBuffer c(stream, static_cast<std::size_t>(kRows * n) * sizeof(float));
    for (const Family* family : families()) {
      if (!family->supports(problem, stream.device().facts())) continue;
      const std::vector<Candidate> candidates =
          family->candidates(problem, pattern, stream.device().facts());
      const std::size_t step = candidates.size() / 6 + 1;
      compile_ahead(candidates, step);
      for (std::size_t i = 0; i < candidates.size(); i += step) {
        std::unique_ptr<Operator> op;
        try {
          op = candidates[i].build({&source, &pattern, csr}, stream);
        } catch (const Error& error) {
          ASSERT_EQ(error.kind(), ErrorKind::kUnsupported) << error.what();
          continue;
        }
        cuda::fill_bytes(stream, c.address(), 0xFF, c.size());
        op->enqueue(stream, {.b = device_b.address(),
                             .b_stride = kCols,
                             .c = c.address(),
                             .c_stride = kRows,
                             .n = n});
        compare(in, n, cuda::download<float>(stream, c),
                std::string(what) + ": " + candidates[i].name);
        if (HasFatalFailure()) return;
      }
    }
  }

 private:
  static void compare(const Input& in, std::int64_t n, const std::vector<float>& got,
                      const std::string& what) {
    constexpr double kEps = 0x1p-23;
    for (std::int64_t t = 0; t < n; ++t) {
      for (std::int64_t r = 0; r < kRows; ++r) {
        double sum = 0;
        double magnitude = 0;
        bool finite = true;
        for (std::int64_t k = 0; k < kCols; ++k) {
          const double x = in.a[static_cast<std::size_t>(r * kCols + k)];
          const double y = in.b[static_cast<std::size_t>(t * kCols + k)];
          finite = finite && std::isfinite(y);
          if (x == 0) continue;
          sum += x * y;
          magnitude += std::abs(x * y);
        }
        const double result = got[static_cast<std::size_t>(t * kRows + r)];
        // A dense product, and kernels that fill in zeros, make NaN of zero times infinity; where
        // zeros are not stored they meet nothing.
        if (!finite && std::isnan(result)) continue;
        if (std::isnan(sum)) {
          ASSERT_TRUE(std::isnan(result)) << what << " at " << t << ", " << r << ": " << result;
        } else if (std::isinf(sum)) {
          ASSERT_EQ(result, sum) << what << " at " << t << ", " << r;
        } else {
          // Products below the least normal number round to multiples of the least denormal.
          const double bound = static_cast<double>(kCols) * (kEps * magnitude + 0x1p-149);
          ASSERT_LE(std::abs(result - sum), bound)
              << what << " at " << t << ", " << r << ": " << result << ", not " << sum;
        }
      }
    }
  }
};

TEST_F(AccuracyOnDevice, SumsThatCancel) {
  // Neighbours cancel to the last bit, and a small number remains: lost where sums are kept short.
  for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
    for (const std::int64_t n : {1, 8}) {
      check(make_input(
                n, 0.2,
                [](std::int64_t r, std::int64_t c) {
                  const float big = 512.0F + static_cast<float>((r * 7 + c / 2) % 64) * 4;
                  return c % 2 == 0 ? big : -big;
                },
                [](std::int64_t t, std::int64_t c) {
                  return 8.0F + static_cast<float>(t % 3) + (c % 97 == 0 ? 0.0625F : 0.0F);
                }),
            n, dtype, "cancelling");
    }
  }
}

TEST_F(AccuracyOnDevice, Denormals) {
  for (const std::int64_t n : {1, 8}) {
    // f16's denormals are f32's normal numbers: nothing may be flushed.
    check(make_input(
              n, 0.2,
              [](std::int64_t r, std::int64_t c) {
                return static_cast<float>(1 + (r + c) % 7) * 0x1p-24F;
              },
              [](std::int64_t, std::int64_t c) { return c % 2 == 0 ? 3.0F : 0x1p-24F; }),
          n, DType::kF16, "f16 denormals");
    check(make_input(
              n, 0.2,
              [](std::int64_t r, std::int64_t c) {
                return static_cast<float>(1 + (r + c) % 7) * 0x1p-149F;
              },
              [](std::int64_t t, std::int64_t) { return static_cast<float>(3 + t % 2); }),
          n, DType::kF32, "f32 denormals");
  }
}

TEST_F(AccuracyOnDevice, TheLargestNumbers) {
  for (const std::int64_t n : {1, 8}) {
    check(
        make_input(
            n, 0.2, [](std::int64_t r, std::int64_t c) { return (r + c) % 2 == 0 ? 6e4F : -5e4F; },
            [](std::int64_t, std::int64_t c) { return c % 3 == 0 ? 6.5e4F : 1.0F; }),
        n, DType::kF16, "large f16");
  }
}

TEST_F(AccuracyOnDevice, InfinityAndNanReachTheRowsThatHoldThem) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const DType dtype : {DType::kF16, DType::kF32}) {
    for (const std::int64_t n : {1, 8}) {
      for (const float special : {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
        check(make_input(
                  n, 0.1,
                  [](std::int64_t r, std::int64_t c) { return (r + c) % 5 == 0 ? -0.5F : 0.25F; },
                  [&](std::int64_t t, std::int64_t c) {
                    return c == 700 && t == n - 1 ? special : 1.0F;
                  }),
              n, dtype, "not finite activations");
        // In the weight.
        check(make_input(
                  n, 0.1,
                  [&](std::int64_t r, std::int64_t c) {
                    return r == 5 && c > 300 && c < 330 ? special : 0.25F;
                  },
                  [](std::int64_t, std::int64_t) { return 1.0F; }),
              n, dtype, "not finite weights");
      }
    }
  }
}

}  // namespace
}  // namespace rarefy::gpu
