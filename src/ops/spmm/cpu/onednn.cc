// Row-major dense weights through oneDNN: the rival to beat, and a fallback that is always right.
//
// Weights are used where they lie (no second, reordered copy). At N = 1 its inner product reads
// 29.6 GB/s of plain weights where its matmul reads 18.8 and gains nothing from a reordering
// (oneDNN 2.6, two threads of a Xeon with AMX); at larger N the matmul packs on the fly and is the
// faster.
#include <dnnl.hpp>
#include <map>
#include <mutex>
#include <tuple>

#include "base/check.h"
#include "base/openmp.h"
#include "formats/dense_rows.h"
#include "ops/spmm/epilogue.h"
#include "ops/spmm/kernel.h"
#include "ops/spmm/scratch.h"

namespace rarefy {
namespace {

using dnnl::memory;

memory::data_type dnnl_type(DType dtype) {
  return dtype == DType::kBF16 ? memory::data_type::bf16 : memory::data_type::f32;
}

/// One engine and stream for the process; primitives are kept for every shape met, as building one
/// costs milliseconds of code generation.
class OneDnn {
 public:
  static OneDnn& instance() {
    static OneDnn one;
    return one;
  }

  struct Shape {
    std::int64_t n, k, m, x_stride, w_stride, y_stride;
    DType dtype;
    int threads;
    auto operator<=>(const Shape&) const = default;  // NOLINT(modernize-use-nullptr): misread
  };

  /// Y[n,m] = X[n,k] · W[m,k]ᵀ in f32.
  void matmul(const Shape& shape, const void* x, const void* w, float* y) {
    const std::scoped_lock lock(mutex_);
    omp_set_num_threads(shape.threads);
    try {
      auto found = multiplications_.find(shape);
      if (found == multiplications_.end()) {
        found = multiplications_.emplace(shape, make(shape)).first;
      }
      const Multiplication& m = found->second;
      // oneDNN takes mutable pointers for its inputs, too, and leaves them as they are.
      m.primitive.execute(stream_, {{DNNL_ARG_SRC, memory(m.x, engine_, const_cast<void*>(x))},
                                    {DNNL_ARG_WEIGHTS, memory(m.w, engine_, const_cast<void*>(w))},
                                    {DNNL_ARG_DST, memory(m.y, engine_, y)}});
      stream_.wait();
      // OpenMP's threads would spin for milliseconds beside those of our own pool: the operator
      // after this one took 1933 us instead of 1028 us. Starting them anew costs 45 us.
      stop_openmp_threads();
    } catch (const dnnl::error& e) {
      fail(ErrorKind::kInternal, "spmm: oneDNN failed at {}x{}, N={}: {}", shape.m, shape.k,
           shape.n, e.message);
    }
  }

 private:
  OneDnn() : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {}

  struct Multiplication {
    memory::desc x, w, y;
    dnnl::primitive primitive;
  };

  [[nodiscard]] Multiplication make(const Shape& s) const {
    const auto type = dnnl_type(s.dtype);
    const memory::desc y({s.n, s.m}, memory::data_type::f32, memory::dims{s.y_stride, 1});
    const memory::desc x({s.n, s.k}, type, memory::dims{s.x_stride, 1});
    if (s.n == 1) {
      const memory::desc w({s.m, s.k}, type, memory::dims{s.w_stride, 1});
      const dnnl::inner_product_forward::desc desc(dnnl::prop_kind::forward_inference, x, w, y);
      return {x, w, y, dnnl::inner_product_forward({desc, engine_})};
    }
    const memory::desc w({s.k, s.m}, type, memory::dims{1, s.w_stride});
    return {x, w, y, dnnl::matmul({dnnl::matmul::desc(x, w, y), engine_})};
  }

  dnnl::engine engine_;
  dnnl::stream stream_;
  std::mutex mutex_;
  std::map<Shape, Multiplication> multiplications_;
};

class DenseOneDnn final : public SpmmKernel {
 public:
  [[nodiscard]] std::string_view name() const override { return "dense.onednn"; }
  [[nodiscard]] Isa isa() const override { return Isa::kAvx512; }

  [[nodiscard]] Support supports(const FormatSpec& spec, const SpmmProblem& p) const override {
    if (spec != format::kDense) return Support::no("runs row-major dense weights only");
    // oneDNN takes its instruction set from the CPU; a forced lower level must not be exceeded.
    if (const Support isa = needs_isa(cpu_info().amx ? Isa::kAmx : Isa::kAvx512); !isa) return isa;
    if (p.weight == DType::kF16) return Support::no("oneDNN 2.6 has no f16 on CPUs");
    if (p.weight == DType::kBF16 && p.activations != DType::kBF16 &&
        p.precision == Precision::kExact) {
      return Support::no("oneDNN would round the activations to bf16; precision is exact");
    }
    return Support::yes();
  }

  [[nodiscard]] SpmmCost cost(const FormatSpec& spec, const PatternStats& pattern,
                              const SpmmProblem& p) const override {
    const double positions = static_cast<double>(p.m) * static_cast<double>(p.k);
    // At N = 1 it reads some 20 GB/s with two threads, half of what memory gives: 3.2 cycles for 32
    // bytes.
    const double bytes = positions * static_cast<double>(size_of(p.weight));
    const double products =
        positions * static_cast<double>(p.n) / (p.weight == DType::kBF16 ? 300.0 : 28.0);
    return {.bytes = estimated_bytes(spec, pattern, p.weight) + activation_bytes(p),
            .cycles = std::max(0.25 * bytes, products)};
  }

  void run(const Matrix& a, const SpmmArgs& args, ThreadPool& pool) const override {
    const ConstMatrixRef& w = dynamic_cast<const DenseRows&>(a).values();
    const std::int64_t tokens = args.b.rows;
    ConstMatrixRef x = args.b;
    Scratch converted(
        x.dtype == w.dtype ? 0 : static_cast<std::size_t>(tokens * a.cols()) * size_of(w.dtype));
    if (x.dtype != w.dtype) {
      for (std::int64_t t = 0; t < tokens; ++t) {
        const auto* from = static_cast<const std::byte*>(x.data) +
                           static_cast<std::size_t>(t * x.row_stride) * size_of(x.dtype);
        auto* to =
            converted.as<std::byte>() + static_cast<std::size_t>(t * a.cols()) * size_of(w.dtype);
        convert_elements(from, x.dtype, to, w.dtype, static_cast<std::size_t>(a.cols()));
      }
      x = {converted.as<std::byte>(), w.dtype, tokens, a.cols(), a.cols()};
    }
    const Epilogue epilogue(args);
    const bool direct = epilogue.is_plain_f32();
    Scratch sums(direct ? 0 : static_cast<std::size_t>(tokens * a.rows()) * sizeof(float));
    float* y = direct ? static_cast<float*>(args.c.data) : sums.as<float>();
    const std::int64_t y_stride = direct ? args.c.row_stride : a.rows();
    OneDnn::instance().matmul(
        {tokens, a.cols(), a.rows(), x.row_stride, w.row_stride, y_stride, w.dtype, pool.size()},
        x.data, w.data, y);
    if (direct) return;
    pool.parallel_for(tokens, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) epilogue.store(t, 0, y + t * y_stride, a.rows());
    });
  }
};

}  // namespace

std::span<const SpmmKernel* const> onednn_kernels() {
  static const DenseOneDnn dense;
  static const SpmmKernel* const kernels[] = {&dense};
  return kernels;
}

}  // namespace rarefy
