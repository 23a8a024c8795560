#include "cli/bench_ops_gpu_case.h"

#include <cstring>

namespace rarefy::bench {
namespace {

/// rows × cols to cols × rows, elements of `size` bytes.
std::vector<std::byte> transposed(const std::byte* from, std::int64_t rows, std::int64_t cols,
                                  std::size_t size) {
  std::vector<std::byte> to(static_cast<std::size_t>(rows * cols) * size);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) {
      std::memcpy(to.data() + static_cast<std::size_t>(c * rows + r) * size,
                  from + static_cast<std::size_t>(r * cols + c) * size, size);
    }
  }
  return to;
}

}  // namespace

GpuCase::GpuCase(const BenchWeight& weight, std::int64_t n, DType activations,
                 const cuda::Stream& stream)
    : weight_(weight),
      source_(weight.source()),
      n_(n),
      activations_(activations),
      stream_(stream),
      pattern_(pattern_stats(source_)),
      csr_(pack(source_, format::kCsr32)),
      host_b_(make_activations(n, weight.k, activations)),
      truth_(weight, {host_b_.data(), activations, n, weight.k, weight.k}),
      c_(stream, static_cast<std::size_t>(weight.m * n) * size_of(activations)) {
  const std::size_t bytes = static_cast<std::size_t>(n * weight.k) * size_of(activations);
  tokens_ = cuda::upload<std::byte>(stream, {host_b_.data(), bytes});
  features_ = cuda::upload<std::byte>(
      stream, transposed(host_b_.data(), n, weight.k, size_of(activations)));
  stream.synchronize();
}

const CsrMatrix& GpuCase::csr() const {
  return dynamic_cast<const CsrMatrix&>(*csr_);
}

cuda::abi::CUdeviceptr GpuCase::b(Layout layout) const {
  return layout == Layout::kTokenMajor ? tokens_.address() : features_.address();
}

void GpuCase::poison() const {
  cuda::fill_bytes(stream_, c_.address(), 0xFF, c_.size());
}

double GpuCase::error(Layout layout) const {
  // Only what is looked at comes back: all of C is hundreds of megabytes for thousands of tokens.
  const bool by_token = layout == Layout::kTokenMajor;
  const std::int64_t length = by_token ? weight_.m : n_;
  std::vector<std::byte> raw(static_cast<std::size_t>(length) * size_of(activations_));
  std::vector<float> line(static_cast<std::size_t>(length));
  Buffer values(static_cast<std::size_t>(n_ * weight_.m) * sizeof(float));
  auto* c = values.as<float>();
  for (const std::int64_t at : by_token ? truth_.tokens() : truth_.rows()) {
    cuda::copy_to_host(stream_, raw.data(),
                       c_.address() + static_cast<std::size_t>(at) * raw.size(), raw.size());
    stream_.synchronize();
    convert_elements(raw.data(), activations_, line.data(), DType::kF32, line.size());
    for (std::int64_t i = 0; i < length; ++i)
      c[by_token ? at * weight_.m + i : i * weight_.m + at] = line[static_cast<std::size_t>(i)];
  }
  return truth_.error({c, DType::kF32, n_, weight_.m, weight_.m});
}

}  // namespace rarefy::bench
