// The kernels of a decoder: all compile for every GPU generation; on a GPU each gives what the
// plain double versions of the operators give.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "gpu_or_skip.h"
#include "nvrtc_or_skip.h"
#include "ops/attention/cuda/place.h"
#include "ops/decoder/cuda/kernels.h"
#include "rarefy/transformer_ops.h"

namespace rarefy::gpu {
namespace {

TEST(DecoderKernels, CompileWithoutSpills) {
  RAREFY_SKIP_WITHOUT_NVRTC();
  const std::vector<cuda::Source> sources = decoder_kernel_sources();
  ASSERT_GT(sources.size(), 100U);
  // All with RAREFY_ALL_KERNELS=1, else a sample that goes through shapes, dtypes and generations.
  const char* all = std::getenv("RAREFY_ALL_KERNELS");
  const std::size_t step = all != nullptr && std::string_view(all) == "1" ? 1 : 31;
  std::size_t at = 0;
  for (const cuda::Source& source : sources) {
    for (const cuda::Arch& arch : cuda::kTestedArchs) {
      if (at++ % step != 0 || !cuda::can_compile(arch)) continue;
      for (const cuda::KernelFacts& kernel : cuda::compile(source, arch).kernels)
        EXPECT_EQ(kernel.local, 0U) << source.name << " " << arch.name();
    }
  }
}

std::vector<float> random_floats(std::int64_t count, std::uint32_t seed, float range = 1.0F) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, range);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& v : values) v = normal(random);
  return values;
}

/// Values as the device has them: rounded to `dtype`.
std::vector<float> rounded(const std::vector<float>& values, DType dtype) {
  std::vector<std::byte> raw(values.size() * size_of(dtype));
  convert_elements(values.data(), DType::kF32, raw.data(), dtype, values.size());
  std::vector<float> back(values.size());
  convert_elements(raw.data(), dtype, back.data(), DType::kF32, back.size());
  return back;
}

cuda::DeviceBuffer upload(const cuda::Stream& stream, const std::vector<float>& values,
                          DType dtype) {
  std::vector<std::byte> raw(values.size() * size_of(dtype));
  convert_elements(values.data(), DType::kF32, raw.data(), dtype, values.size());
  cuda::DeviceBuffer buffer = cuda::upload<std::byte>(stream, raw);
  stream.synchronize();
  return buffer;
}

std::vector<float> download(const cuda::Stream& stream, const cuda::DeviceBuffer& buffer,
                            DType dtype) {
  const std::vector<std::byte> raw = cuda::download<std::byte>(stream, buffer);
  std::vector<float> values(raw.size() / size_of(dtype));
  convert_elements(raw.data(), dtype, values.data(), DType::kF32, values.size());
  return values;
}

/// Half a unit of the dtype on a value, and some of f32 for the sums before.
double tolerance(DType dtype, double value, double scale) {
  const double eps = dtype == DType::kF32 ? 0x1p-24 : dtype == DType::kF16 ? 0x1p-11 : 0x1p-8;
  return eps * std::abs(value) * 1.01 + scale * 2e-5 + (dtype == DType::kF16 ? 1e-7 : 0);
}

void expect_close(const std::vector<float>& got, const std::vector<float>& expected, DType dtype,
                  double scale, const std::string& what) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], expected[i], tolerance(dtype, expected[i], scale)) << what << " at " << i;
}

MatrixRef matrix(std::vector<float>& values, std::int64_t rows, std::int64_t cols) {
  return matrix_ref(values.data(), rows, cols);
}

DecoderShape shape_of(std::int64_t heads, std::int64_t kv_heads, std::int64_t head_dim,
                      std::int64_t hidden = 192, std::int64_t ffn = 264) {
  DecoderShape s;
  s.vocab = 1000;
  s.hidden = hidden;
  s.ffn = ffn;
  s.layers = 2;
  s.heads = heads;
  s.kv_heads = kv_heads;
  s.head_dim = head_dim;
  return s;
}

constexpr DType kDtypes[] = {DType::kF32, DType::kF16, DType::kBF16};

class DecoderKernelsOnDevice : public ::testing::Test {
 protected:
  void SetUp() override { RAREFY_SKIP_WITHOUT_GPU(); }
};

TEST_F(DecoderKernelsOnDevice, EmbeddingCopiesRows) {
  const cuda::Stream stream;
  for (const DType dtype : kDtypes) {
    const DecoderShape s = shape_of(3, 1, 64, 200);
    const DecoderKernels kernels(stream.device(), s, dtype);
    const std::vector<float> table = rounded(random_floats(50 * s.hidden, 1), dtype);
    const cuda::DeviceBuffer d_table = upload(stream, table, dtype);
    std::vector<Place> places(3);
    for (int i = 0; i < 3; ++i) places[static_cast<std::size_t>(i)].token = 49 - 20 * i;
    const cuda::DeviceBuffer d_places = cuda::upload<Place>(stream, places);
    const cuda::DeviceBuffer hidden(stream, static_cast<std::size_t>(3 * s.hidden) * 4);
    kernels.embedding(stream, d_table.address(), d_places.address(), hidden.address(), 3);
    const std::vector<float> got = download(stream, hidden, DType::kF32);
    for (std::int64_t r = 0; r < 3; ++r) {
      for (std::int64_t i = 0; i < s.hidden; ++i) {
        ASSERT_EQ(got[static_cast<std::size_t>(r * s.hidden + i)],
                  table[static_cast<std::size_t>((49 - 20 * r) * s.hidden + i)]);
      }
    }
  }
}

TEST_F(DecoderKernelsOnDevice, AddNormAddsAndNormalises) {
  const cuda::Stream stream;
  for (const DType dtype : kDtypes) {
    for (const std::int64_t width : {8, 192, 4096, 5000}) {
      const std::int64_t rows = 3;
      const DecoderShape s = shape_of(3, 1, 64, width);
      const DecoderKernels kernels(stream.device(), s, dtype);
      std::vector<float> hidden = random_floats(rows * width, 1, 3);
      const std::vector<float> delta = rounded(random_floats(rows * width, 2), dtype);
      const std::vector<float> bias = random_floats(width, 3);
      const std::vector<float> weight = random_floats(width, 4);
      const cuda::DeviceBuffer d_hidden = upload(stream, hidden, DType::kF32);
      const cuda::DeviceBuffer d_delta = upload(stream, delta, dtype);
      const cuda::DeviceBuffer d_bias = upload(stream, bias, DType::kF32);
      const cuda::DeviceBuffer d_weight = upload(stream, weight, DType::kF32);
      const cuda::DeviceBuffer normed(stream,
                                      static_cast<std::size_t>(rows * width) * size_of(dtype));
      for (const bool adds : {false, true}) {
        kernels.add_norm(stream, d_hidden.address(), adds ? d_delta.address() : 0,
                         adds ? d_bias.address() : 0, d_weight.address(), normed.address(), rows);
        if (adds) {
          for (std::size_t i = 0; i < hidden.size(); ++i)
            hidden[i] += delta[i] + bias[i % static_cast<std::size_t>(width)];
        }
        std::vector<float> x = hidden;
        std::vector<float> y(x.size());
        reference::rms_norm(matrix(x, rows, width), weight, s.eps, matrix(y, rows, width));
        expect_close(download(stream, normed, dtype), y, dtype, 5, fmt::format("width {}", width));
        expect_close(download(stream, d_hidden, DType::kF32), x, DType::kF32, 1, "hidden");
      }
    }
  }
}

TEST_F(DecoderKernelsOnDevice, SwigluWithAndWithoutBias) {
  const cuda::Stream stream;
  for (const DType dtype : kDtypes) {
    const std::int64_t rows = 5;
    const DecoderShape s = shape_of(3, 1, 64, 192, 1032);
    const DecoderKernels kernels(stream.device(), s, dtype);
    const std::vector<float> both = rounded(random_floats(rows * 2 * s.ffn, 1, 3), dtype);
    const std::vector<float> bias = random_floats(2 * s.ffn, 2);
    const cuda::DeviceBuffer d_both = upload(stream, both, dtype);
    const cuda::DeviceBuffer d_bias = upload(stream, bias, DType::kF32);
    const cuda::DeviceBuffer y(stream, static_cast<std::size_t>(rows * s.ffn) * size_of(dtype));
    for (const bool biased : {false, true}) {
      kernels.swiglu(stream, d_both.address(), biased ? d_bias.address() : 0, y.address(), rows);
      std::vector<float> expected;
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t i = 0; i < s.ffn; ++i) {
          const auto at = static_cast<std::size_t>(r * 2 * s.ffn + i);
          const auto f = static_cast<std::size_t>(s.ffn);
          const auto c = static_cast<std::size_t>(i);
          const double gate = double{both[at]} + (biased ? double{bias[c]} : 0);
          const double up = double{both[at + f]} + (biased ? double{bias[c + f]} : 0);
          expected.push_back(static_cast<float>(gate / (1 + std::exp(-gate)) * up));
        }
      }
      expect_close(download(stream, y, dtype), expected, dtype, 20, "swiglu");
    }
  }
}

TEST_F(DecoderKernelsOnDevice, ArgmaxTakesTheLowestIdAndSeesWhatIsNotFinite) {
  const cuda::Stream stream;
  DecoderShape s = shape_of(3, 1, 64);
  s.vocab = 3001;
  const DecoderKernels kernels(stream.device(), s, DType::kF16);
  const auto vocab = static_cast<std::size_t>(s.vocab);
  std::vector<float> logits = random_floats(6 * s.vocab, 1);
  const auto at = [&](std::size_t row, std::size_t id) -> float& {
    return logits[row * vocab + id];
  };
  at(0, 3000) = 50;
  at(1, 17) = at(1, 1041) = at(1, 2999) = 50;
  at(2, 5) = std::numeric_limits<float>::quiet_NaN();
  at(3, 5) = std::numeric_limits<float>::infinity();
  for (std::size_t i = 0; i < vocab; ++i) at(4, i) = -std::numeric_limits<float>::infinity();
  at(5, 0) = 50;
  at(5, 1) = -std::numeric_limits<float>::infinity();
  const cuda::DeviceBuffer d_logits = upload(stream, logits, DType::kF32);
  const cuda::DeviceBuffer ids(stream, 6 * sizeof(std::int32_t));
  kernels.argmax(stream, d_logits.address(), ids.address(), 6);
  EXPECT_EQ(cuda::download<std::int32_t>(stream, ids),
            (std::vector<std::int32_t>{3000, 17, -1, -1, -1, 0}));
}

/// Sequences of some lengths in caches of their own; the last `tokens` of each are new.
struct Attending {
  std::int64_t heads, kv_heads, dim;
  std::vector<std::int64_t> lengths;
  std::int64_t tokens = 1;
  std::int64_t window = 0;
  bool head_norm = false;
};

/// rope_store and attention on the device against rms_norm, rope and attention in double. All of a
/// sequence's tokens go through rope_store, the new ones attend.
void check_attention(const cuda::Stream& stream, const Attending& a, DType dtype, DType kv) {
  const std::string what = fmt::format("{}x{}x{} {} tokens window {} {} {}", a.heads, a.kv_heads,
                                       a.dim, a.tokens, a.window, to_string(dtype), to_string(kv));
  DecoderShape s = shape_of(a.heads, a.kv_heads, a.dim);
  s.window = a.window;
  s.head_norm = a.head_norm;
  DecoderKernels kernels(stream.device(), s, dtype);
  const std::int64_t width = (a.heads + 2 * a.kv_heads) * a.dim;
  const std::int64_t kv_width = a.kv_heads * a.dim;
  const std::int64_t q_width = a.heads * a.dim;
  const int layer = 1;
  const std::vector<float> bias = random_floats(width, 3, 0.3F);
  const std::vector<float> q_norm = random_floats(a.dim, 4);
  const std::vector<float> k_norm = random_floats(a.dim, 5);
  const cuda::DeviceBuffer d_bias = upload(stream, bias, DType::kF32);
  const cuda::DeviceBuffer d_q_norm = upload(stream, q_norm, DType::kF32);
  const cuda::DeviceBuffer d_k_norm = upload(stream, k_norm, DType::kF32);
  std::vector<double> frequencies;
  for (std::int64_t i = 0; i < a.dim; i += 2)
    frequencies.push_back(std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(a.dim)));
  std::int64_t longest = 0;
  for (const std::int64_t length : a.lengths) longest = std::max(longest, length);
  const RopeTable table(frequencies, longest);
  const auto angles = static_cast<std::size_t>(longest * a.dim / 2);
  const cuda::DeviceBuffer cosine = cuda::upload(stream, std::span(table.cos(0), angles));
  const cuda::DeviceBuffer sine = cuda::upload(stream, std::span(table.sin(0), angles));
  const DecoderKernels::Rope rope_with{.bias = d_bias.address(),
                                       .q_norm = d_q_norm.address(),
                                       .k_norm = d_k_norm.address(),
                                       .cosine = cosine.address(),
                                       .sine = sine.address()};

  const bool single = a.tokens == 1;
  std::vector<cuda::DeviceBuffer> caches;
  std::vector<Place> last_places;           // Decode: one row a sequence.
  std::vector<cuda::DeviceBuffer> outputs;  // Prefill: one a sequence.
  std::vector<std::vector<float>> expected;
  std::vector<float> decode_rows;
  for (std::size_t n = 0; n < a.lengths.size(); ++n) {
    const std::int64_t length = a.lengths[n];
    const std::int64_t capacity = length + 3;
    caches.emplace_back(stream,
                        static_cast<std::size_t>(2 * 2 * capacity * kv_width) * size_of(kv));
    cuda::fill_bytes(stream, caches.back().address(), 0xFF, caches.back().size());  // NaN
    const std::vector<float> rows =
        rounded(random_floats(length * width, static_cast<std::uint32_t>(10 + n)), dtype);
    std::vector<Place> places;
    for (std::int64_t t = 0; t < length; ++t) {
      places.push_back({.memory = caches.back().address(),
                        .capacity = static_cast<std::int32_t>(capacity),
                        .position = static_cast<std::int32_t>(t)});
    }
    const std::int64_t before = length - a.tokens;
    const auto run = [&](std::int64_t first, std::int64_t count, bool attends) {
      const std::vector<float> part(rows.begin() + first * width,
                                    rows.begin() + (first + count) * width);
      const cuda::DeviceBuffer qkv = upload(stream, part, dtype);
      const cuda::DeviceBuffer d_places = cuda::upload(
          stream, std::span<const Place>(places).subspan(static_cast<std::size_t>(first),
                                                         static_cast<std::size_t>(count)));
      const DecoderKernels::Attention at{.qkv = qkv.address(),
                                         .places = d_places.address(),
                                         .kv = kv,
                                         .layer = layer,
                                         .rows = count};
      kernels.rope_store(stream, at, rope_with);
      if (attends) {
        outputs.emplace_back(stream, static_cast<std::size_t>(count * q_width) * size_of(dtype));
        cuda::fill_bytes(stream, outputs.back().address(), 0xFF, outputs.back().size());
        kernels.attend_prefill(stream, at, outputs.back().address());
      }
      stream.synchronize();
    };
    if (before > 0) run(0, before, false);
    if (single) {
      last_places.push_back(places.back());
      decode_rows.insert(decode_rows.end(), rows.end() - width, rows.end());
    } else {
      run(before, a.tokens, true);
    }

    // The same by the plain versions, k and v rounded as the cache rounds them, q as it is handed
    // on.
    std::vector<float> q(static_cast<std::size_t>(length * q_width));
    std::vector<float> k(static_cast<std::size_t>(length * kv_width));
    std::vector<float> v(k.size());
    for (std::int64_t t = 0; t < length; ++t) {
      for (std::int64_t i = 0; i < width; ++i) {
        const float x =
            rows[static_cast<std::size_t>(t * width + i)] + bias[static_cast<std::size_t>(i)];
        if (i < q_width) {
          q[static_cast<std::size_t>(t * q_width + i)] = x;
        } else if (i < q_width + kv_width) {
          k[static_cast<std::size_t>(t * kv_width + i - q_width)] = x;
        } else {
          v[static_cast<std::size_t>(t * kv_width + i - q_width - kv_width)] = x;
        }
      }
    }
    if (a.head_norm) {
      const MatrixRef q_heads = matrix(q, length * a.heads, a.dim);
      const MatrixRef k_heads = matrix(k, length * a.kv_heads, a.dim);
      reference::rms_norm(q_heads, q_norm, s.eps, q_heads);
      reference::rms_norm(k_heads, k_norm, s.eps, k_heads);
    }
    reference::rope(matrix(q, length, q_width), a.heads, table, 0);
    reference::rope(matrix(k, length, kv_width), a.kv_heads, table, 0);
    q = rounded(q, dtype);
    k = rounded(k, kv);
    v = rounded(v, kv);
    std::vector<float> out(static_cast<std::size_t>(a.tokens * q_width));
    AttentionArgs args;
    args.q = matrix_ref(q.data() + before * q_width, a.tokens, q_width);
    args.k = matrix(k, length, kv_width);
    args.v = matrix(v, length, kv_width);
    args.out = matrix(out, a.tokens, q_width);
    args.heads = a.heads;
    args.kv_heads = a.kv_heads;
    args.head_dim = a.dim;
    args.first_position = before;
    args.window = a.window;
    args.scale = 1.0F / std::sqrt(static_cast<float>(a.dim));
    reference::attention(args);
    expected.push_back(std::move(out));
  }

  // What q and k are rounded to may fall on the other side of a tie: one unit on a few of them.
  double eps = dtype == DType::kF32 && kv == DType::kF32 ? 1 : 150;
  // Weights of a softmax in bf16 before they meet values of up to four: 2⁻⁹ of them.
  if (dtype == DType::kBF16 && !single) eps += 400;
  if (!single) {
    for (std::size_t n = 0; n < expected.size(); ++n)
      expect_close(download(stream, outputs[n], dtype), expected[n], dtype, eps, what);
    return;
  }
  last_places.emplace_back();  // A row that only fills the batch.
  decode_rows.resize(decode_rows.size() + static_cast<std::size_t>(width), 1.0F);
  const auto rows = static_cast<std::int64_t>(last_places.size());
  const cuda::DeviceBuffer qkv = upload(stream, decode_rows, dtype);
  const cuda::DeviceBuffer d_places = cuda::upload<Place>(stream, last_places);
  const cuda::DeviceBuffer scratch(stream, kernels.decode_scratch(rows));
  const cuda::DeviceBuffer out(stream, static_cast<std::size_t>(rows * q_width) * size_of(dtype));
  cuda::fill_bytes(stream, out.address(), 0xFF, out.size());
  cuda::fill_bytes(stream, scratch.address(), 0, scratch.size());
  const DecoderKernels::Attention at{
      .qkv = qkv.address(), .places = d_places.address(), .kv = kv, .layer = layer, .rows = rows};
  kernels.attend_decode(stream, at, rope_with, scratch.address(), out.address());
  std::vector<float> all;
  for (const auto& one : expected) all.insert(all.end(), one.begin(), one.end());
  all.resize(all.size() + static_cast<std::size_t>(q_width));  // Zeros.
  const std::vector<float> got = download(stream, out, dtype);
  expect_close(got, all, dtype, eps, what);
  kernels.attend_decode(stream, at, rope_with, scratch.address(), out.address());
  EXPECT_EQ(download(stream, out, dtype), got) << what << ": other bits the second time";
}

TEST_F(DecoderKernelsOnDevice, DecodeAttentionOfShapesAndDtypes) {
  const cuda::Stream stream;
  for (const DType dtype : kDtypes) {
    for (const DType kv : {dtype, DType::kF32, DType::kBF16}) {
      check_attention(stream, {4, 2, 64, {1, 2, 70, 700}}, dtype, kv);
      check_attention(stream, {32, 4, 128, {5, 300}}, dtype, kv);
    }
  }
  check_attention(stream, {7, 1, 128, {130}}, DType::kF16, DType::kF16);
  check_attention(stream, {4, 4, 80, {1, 129}}, DType::kBF16, DType::kBF16);
  check_attention(stream, {16, 1, 256, {67}}, DType::kF16, DType::kF32);
  check_attention(stream, {2, 1, 8, {67}}, DType::kF32, DType::kF32);
  check_attention(stream, {4, 2, 10, {67}}, DType::kF16, DType::kF32);
  check_attention(stream, {4, 2, 8, {3, 67, 300}}, DType::kF16, DType::kF16);
  check_attention(stream, {4, 2, 64, {10, 200}, 1, 33}, DType::kF16, DType::kF16);
  check_attention(stream, {4, 2, 128, {3, 90}, 1, 0, true}, DType::kBF16, DType::kBF16);
}

TEST_F(DecoderKernelsOnDevice, PrefillAttentionOfShapesAndDtypes) {
  const cuda::Stream stream;
  for (const DType dtype : kDtypes) {
    for (const DType kv : {dtype, DType::kF32}) {
      check_attention(stream, {4, 2, 64, {2}, 2}, dtype, kv);
      check_attention(stream, {4, 2, 64, {130}, 130}, dtype, kv);
      check_attention(stream, {4, 1, 128, {200, 165}, 100}, dtype, kv);
    }
  }
  check_attention(stream, {4, 4, 80, {129}, 65}, DType::kBF16, DType::kBF16);
  check_attention(stream, {2, 1, 256, {100}, 64}, DType::kF16, DType::kF16);
  check_attention(stream, {2, 1, 8, {70}, 3}, DType::kF32, DType::kF32);
  check_attention(stream, {4, 2, 10, {70}, 68}, DType::kF16, DType::kF32);
  check_attention(stream, {4, 2, 64, {300}, 140, 50}, DType::kF16, DType::kF16);
  check_attention(stream, {2, 2, 16, {200}, 77, 70}, DType::kBF16, DType::kBF16);
  check_attention(stream, {2, 1, 112, {150, 64}, 64}, DType::kF16, DType::kF16);
  check_attention(stream, {4, 2, 128, {90}, 90, 0, true}, DType::kBF16, DType::kBF16);
}

}  // namespace
}  // namespace rarefy::gpu
