// Other people's multiplications: oneDNN, OpenBLAS, MKL.
#include <cblas.h>
#include <dlfcn.h>

#include <chrono>
#include <dnnl.hpp>
#include <thread>

#include "base/check.h"
#include "base/openmp.h"
#include "cli/bench_ops_methods.h"

namespace rarefy::bench {
namespace {

using dnnl::memory;

/// What a multiplication must at least read, over the memory ceiling.
double floor_of(std::size_t bytes, const MachineCeilings& ceilings) {
  return static_cast<double>(bytes) / (ceilings.dram_gb_per_s * 1e3);
}

/// Methods whose threads are OpenMP's.
class OpenMpMethod : public Method {
 public:
  explicit OpenMpMethod(const Problem& problem) : problem_(problem) {}
  void before() override {
    // Threads that exist and spin, each on a core of its own: how a program that only ran this
    // library would find them. New ones may share a core until the system moves them: an empty
    // region then takes a slice of its time, not a microsecond.
    using Clock = std::chrono::steady_clock;
    omp_set_num_threads(problem_.pool.size());
    const auto begin = Clock::now();
    for (int prompt = 0; prompt < 3 && Clock::now() - begin < std::chrono::milliseconds(30);) {
      const auto start = Clock::now();
#pragma omp parallel
      { asm volatile(""); }
      prompt = Clock::now() - start < std::chrono::microseconds(20) ? prompt + 1 : 0;
    }
  }
  void after() override {
    stop_openmp_threads();
  }

 protected:
  const Problem& problem_;
};

memory::data_type onednn_type(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return memory::data_type::bf16;
    case DType::kF16:
      return memory::data_type::f16;
    default:
      return memory::data_type::f32;
  }
}

/// oneDNN's matmul with the weights reordered once into the layout that it prefers.
class OneDnnDense final : public OpenMpMethod {
 public:
  explicit OneDnnDense(const Problem& problem)
      : OpenMpMethod(problem), engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {
    before();
    const memory::dim n = problem.n;
    const memory::dim k = problem.weight.k;
    const memory::dim m = problem.weight.m;
    const auto type = onednn_type(problem.weight.dtype);
    if (problem.activations != problem.weight.dtype)
      fail(ErrorKind::kUnsupported, "takes activations of the weight's dtype only");
    const memory::desc src({n, k}, type, memory::format_tag::ab);
    const memory::desc any({k, m}, type, memory::format_tag::any);
    const memory::desc dst({n, m}, memory::data_type::f32, memory::format_tag::ab);
#if DNNL_VERSION_MAJOR >= 3
    const dnnl::matmul::primitive_desc chosen(engine_, src, any, dst);
#else
    const dnnl::matmul::primitive_desc chosen({src, any, dst}, engine_);
#endif
    weights_ = chosen.weights_desc();
    matmul_ = dnnl::matmul(chosen);
    src_ = memory(src, engine_, const_cast<void*>(problem.b.data));
    dst_ = memory(dst, engine_, problem.c.data);
    make_copies(1);
    after();
  }
  [[nodiscard]] std::string name() const override {
    return "onednn";
  }
  [[nodiscard]] std::string format() const override {
    return "dense";
  }
  [[nodiscard]] bool dense() const override {
    return true;
  }
  [[nodiscard]] std::size_t bytes() const override {
    return weights_.get_size();
  }
  void make_copies(int copies) override {
    const memory::desc rows({problem_.weight.k, problem_.weight.m},
                            onednn_type(problem_.weight.dtype), memory::format_tag::ba);
    memory from(rows, engine_, const_cast<std::byte*>(problem_.weight.values.data()));
    while (std::ssize(copies_) < copies) {
      memory to(weights_, engine_);
      dnnl::reorder(from, to).execute(stream_, from, to);
      stream_.wait();
      copies_.push_back(std::move(to));
    }
  }
  void run(int copy) override {
    matmul_.execute(stream_, {{DNNL_ARG_SRC, src_},
                              {DNNL_ARG_WEIGHTS, copies_.at(static_cast<std::size_t>(copy))},
                              {DNNL_ARG_DST, dst_}});
    stream_.wait();
  }

 private:
  dnnl::engine engine_;
  dnnl::stream stream_;
  memory::desc weights_;
  dnnl::matmul matmul_;
  memory src_, dst_;
  std::vector<memory> copies_;
};

/// The nonzeros of the weight as other libraries want them: f32 CSR, 32-bit indices.
struct CsrArrays {
  std::vector<float> values;
  std::vector<std::int32_t> columns, offsets{0};

  explicit CsrArrays(const BenchWeight& weight) {
    const float* at = weight.values.as<float>();
    for (std::int64_t r = 0; r < weight.m; ++r) {
      for (std::int64_t c = 0; c < weight.k; ++c, ++at) {
        if (*at == 0) continue;
        values.push_back(*at);
        columns.push_back(static_cast<std::int32_t>(c));
      }
      offsets.push_back(static_cast<std::int32_t>(values.size()));
    }
  }
  [[nodiscard]] std::size_t bytes() const {
    return 4 * (values.size() + columns.size() + offsets.size());
  }
};

#if DNNL_VERSION_MAJOR > 3 || (DNNL_VERSION_MAJOR == 3 && DNNL_VERSION_MINOR >= 4)
/// oneDNN's sparse matmul: A in CSR times B (k × n); it takes the sparse operand on the left, so B
/// and C are turned outside of the timing.
class OneDnnCsr final : public OpenMpMethod {
 public:
  explicit OneDnnCsr(const Problem& problem)
      : OpenMpMethod(problem),
        engine_(dnnl::engine::kind::cpu, 0),
        stream_(engine_),
        arrays_(problem.weight) {
    before();
    const memory::dim n = problem.n;
    const memory::dim k = problem.weight.k;
    const memory::dim m = problem.weight.m;
    constexpr auto kF32 = memory::data_type::f32;
    constexpr auto kS32 = memory::data_type::s32;
    csr_ = memory::desc::csr({m, k}, kF32, static_cast<memory::dim>(arrays_.values.size()), kS32,
                             kS32);
    const memory::desc b({k, n}, kF32, memory::format_tag::ab);
    const memory::desc c({m, n}, kF32, memory::format_tag::ab);
    matmul_ = dnnl::matmul(dnnl::matmul::primitive_desc(engine_, csr_, b, c));
    b_ = memory(b, engine_);
    c_ = memory(c, engine_);
    auto* turned = static_cast<float*>(b_.get_data_handle());
    for (std::int64_t j = 0; j < n; ++j) {
      for (std::int64_t i = 0; i < k; ++i) turned[i * n + j] = problem.b.row<float>(j)[i];
    }
    make_copies(1);
    after();
  }
  [[nodiscard]] std::string name() const override { return "onednn.csr"; }
  [[nodiscard]] std::string format() const override { return "csr"; }
  [[nodiscard]] bool dense() const override { return false; }
  [[nodiscard]] std::size_t bytes() const override { return arrays_.bytes(); }
  void make_copies(int copies) override {
    while (std::ssize(copies_) < copies) {
      CsrArrays& a = *stored_.emplace_back(std::make_unique<CsrArrays>(arrays_));
      copies_.emplace_back(csr_, engine_,
                           std::vector<void*>{a.values.data(), a.columns.data(), a.offsets.data()});
    }
  }
  void run(int copy) override {
    matmul_.execute(stream_, {{DNNL_ARG_SRC, copies_.at(static_cast<std::size_t>(copy))},
                              {DNNL_ARG_WEIGHTS, b_},
                              {DNNL_ARG_DST, c_}});
    stream_.wait();
  }
  void after() override {
    OpenMpMethod::after();
    const auto* turned = static_cast<const float*>(c_.get_data_handle());
    for (std::int64_t j = 0; j < problem_.n; ++j) {
      for (std::int64_t i = 0; i < problem_.weight.m; ++i)
        problem_.c.row<float>(j)[i] = turned[i * problem_.n + j];
    }
  }

 private:
  dnnl::engine engine_;
  dnnl::stream stream_;
  CsrArrays arrays_;
  memory::desc csr_;
  dnnl::matmul matmul_;
  memory b_, c_;
  std::vector<std::unique_ptr<CsrArrays>> stored_;
  std::vector<memory> copies_;
};
#endif

class OpenBlas final : public Method {
 public:
  explicit OpenBlas(const Problem& problem) : problem_(problem) {
    if (problem.weight.dtype != DType::kF32 || problem.activations != DType::kF32)
      fail(ErrorKind::kUnsupported, "is for f32 weights and activations");
    make_copies(1);
  }
  [[nodiscard]] std::string name() const override {
    return problem_.n == 1 ? "openblas.sgemv" : "openblas.sgemm";
  }
  [[nodiscard]] std::string format() const override { return "dense"; }
  [[nodiscard]] bool dense() const override { return true; }
  [[nodiscard]] std::size_t bytes() const override { return problem_.weight.values.size(); }
  void make_copies(int copies) override {
    while (std::ssize(copies_) < copies) {
      Buffer& copy = copies_.emplace_back(problem_.weight.values.size());
      std::copy_n(problem_.weight.values.data(), copy.size(), copy.data());
    }
  }
  void before() override { openblas_set_num_threads(problem_.pool.size()); }
  void run(int copy) override {
    const auto n = static_cast<blasint>(problem_.n);
    const auto k = static_cast<blasint>(problem_.weight.k);
    const auto m = static_cast<blasint>(problem_.weight.m);
    const float* a = copies_.at(static_cast<std::size_t>(copy)).as<float>();
    const auto* b = static_cast<const float*>(problem_.b.data);
    auto* c = static_cast<float*>(problem_.c.data);
    if (n == 1) {
      cblas_sgemv(CblasRowMajor, CblasNoTrans, m, k, 1.0F, a, k, b, 1, 0.0F, c, 1);
    } else {
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, m, k, 1.0F, b, k, a, k, 0.0F, c, m);
    }
  }
  void after() override {
    // Its idle threads yield in a loop before they sleep (105 ms of Debian's 0.3.21), and whatever
    // shares a core with one takes twice its time; there is no call to stop them.
    std::this_thread::sleep_for(std::chrono::milliseconds(120));
  }

 private:
  const Problem& problem_;
  std::vector<Buffer> copies_;
};

/// MKL's inspector-executor sparse BLAS, when libmkl_rt can be opened. Declared here as its headers
/// say, since they need not be installed.
class MklCsr final : public OpenMpMethod {
 public:
  explicit MklCsr(const Problem& problem) : OpenMpMethod(problem), library_(open()) {
    if (problem.weight.dtype != DType::kF32 || problem.activations != DType::kF32)
      fail(ErrorKind::kUnsupported, "is for f32 weights and activations");
    // "GNU" as threading layer: one OpenMP runtime in the process.
    if (auto* layer = optional<int (*)(int)>("MKL_Set_Threading_Layer")) layer(3);
    if (auto* threads = optional<void (*)(int)>("MKL_Set_Num_Threads"))
      threads(problem.pool.size());
    create_ = symbol<Create>("mkl_sparse_s_create_csr");
    multiply_ = symbol<MultiplyMany>("mkl_sparse_s_mm");
    multiply_one_ = symbol<MultiplyOne>("mkl_sparse_s_mv");
    destroy_ = symbol<int (*)(void*)>("mkl_sparse_destroy");
    make_copies(1);
  }
  ~MklCsr() override {
    for (Copy& copy : copies_) destroy_(copy.handle);
  }
  [[nodiscard]] std::string name() const override { return "mkl.csr"; }
  [[nodiscard]] std::string format() const override { return "csr"; }
  [[nodiscard]] bool dense() const override { return false; }
  [[nodiscard]] std::size_t bytes() const override { return copies_.front().arrays->bytes(); }
  void make_copies(int copies) override {
    before();
    const auto m = static_cast<std::int32_t>(problem_.weight.m);
    const auto k = static_cast<std::int32_t>(problem_.weight.k);
    while (std::ssize(copies_) < copies) {
      Copy copy{.arrays = std::make_unique<CsrArrays>(problem_.weight)};
      std::int32_t* offsets = copy.arrays->offsets.data();
      check(create_(&copy.handle, kBaseZero, m, k, offsets, offsets + 1,
                    copy.arrays->columns.data(), copy.arrays->values.data()));
      using Hint = int (*)(void*, int, Descr, std::int32_t);
      using HintMany = int (*)(void*, int, Descr, int, std::int32_t, std::int32_t);
      constexpr std::int32_t kManyCalls = 1000;
      if (problem_.n == 1) {
        symbol<Hint>("mkl_sparse_set_mv_hint")(copy.handle, kNoTranspose, {}, kManyCalls);
      } else {
        symbol<HintMany>("mkl_sparse_set_mm_hint")(copy.handle, kNoTranspose, {}, kColumnMajor,
                                                   static_cast<std::int32_t>(problem_.n),
                                                   kManyCalls);
      }
      check(symbol<int (*)(void*)>("mkl_sparse_optimize")(copy.handle));
      copies_.push_back(std::move(copy));
    }
    after();
  }
  void run(int copy) override {
    const auto n = static_cast<std::int32_t>(problem_.n);
    const auto k = static_cast<std::int32_t>(problem_.weight.k);
    const auto m = static_cast<std::int32_t>(problem_.weight.m);
    const auto* b = static_cast<const float*>(problem_.b.data);
    auto* c = static_cast<float*>(problem_.c.data);
    void* handle = copies_.at(static_cast<std::size_t>(copy)).handle;
    // N rows of K values are a column-major K×N matrix.
    check(n == 1 ? multiply_one_(kNoTranspose, 1.0F, handle, {}, b, 0.0F, c)
                 : multiply_(kNoTranspose, 1.0F, handle, {}, kColumnMajor, b, n, k, 0.0F, c, m));
  }

 private:
  static constexpr int kBaseZero = 0;
  static constexpr int kNoTranspose = 10;
  static constexpr int kColumnMajor = 102;
  /// matrix_descr: general, and two fields that a general matrix ignores.
  struct Descr {
    int type = 20, mode = 0, diag = 0;
  };
  using Create = int (*)(void**, int, std::int32_t, std::int32_t, std::int32_t*, std::int32_t*,
                         std::int32_t*, float*);
  using MultiplyMany = int (*)(int, float, void*, Descr, int, const float*, std::int32_t,
                               std::int32_t, float, float*, std::int32_t);
  using MultiplyOne = int (*)(int, float, void*, Descr, const float*, float, float*);
  struct Copy {
    std::unique_ptr<CsrArrays> arrays;
    void* handle = nullptr;
  };

  /// Stays open: MKL's threads outlive a multiplication.
  static void* open() {
    for (const char* file : {"libmkl_rt.so", "libmkl_rt.so.2", "libmkl_rt.so.3"}) {
      if (void* handle = dlopen(file, RTLD_NOW | RTLD_LOCAL)) return handle;
    }
    fail(ErrorKind::kUnsupported, "libmkl_rt is not installed");
  }
  template <class F>
  F optional(const char* name) const {
    return reinterpret_cast<F>(dlsym(library_, name));
  }
  template <class F>
  F symbol(const char* name) const {
    F found = optional<F>(name);
    if (found == nullptr) fail(ErrorKind::kUnsupported, "libmkl_rt has no {}", name);
    return found;
  }
  static void check(int status) {
    if (status != 0) fail(ErrorKind::kInternal, "mkl_sparse failed with status {}", status);
  }

  void* library_;
  Create create_ = nullptr;
  MultiplyMany multiply_ = nullptr;
  MultiplyOne multiply_one_ = nullptr;
  int (*destroy_)(void*) = nullptr;
  std::vector<Copy> copies_;
};

template <class T>
void add(Methods& methods, const char* name, const Problem& problem,
         const MachineCeilings& ceilings, std::vector<Skipped>& skipped) {
  try {
    auto method = std::make_unique<T>(problem);
    method->floor_us = floor_of(method->bytes(), ceilings);
    methods.push_back(std::move(method));
  } catch (const dnnl::error& error) {
    skipped.push_back({name, std::string("oneDNN: ") + error.what()});
  } catch (const Error& error) {
    skipped.push_back({name, error.what()});
  }
}

}  // namespace

Methods rival_methods(const Problem& problem, const MachineCeilings& ceilings,
                      std::vector<Skipped>& skipped) {
  Methods methods;
  add<OneDnnDense>(methods, "onednn", problem, ceilings, skipped);
#if DNNL_VERSION_MAJOR > 3 || (DNNL_VERSION_MAJOR == 3 && DNNL_VERSION_MINOR >= 4)
  if (problem.weight.dtype == DType::kF32 && problem.activations == DType::kF32)
    add<OneDnnCsr>(methods, "onednn.csr", problem, ceilings, skipped);
#else
  skipped.push_back({"onednn.csr", "this oneDNN is older than 3.4"});
#endif
  add<OpenBlas>(methods, "openblas", problem, ceilings, skipped);
  add<MklCsr>(methods, "mkl.csr", problem, ceilings, skipped);
  return methods;
}

}  // namespace rarefy::bench
