#include "cuda/cublas.h"

#include <map>
#include <mutex>
#include <utility>

#include "base/check.h"

namespace rarefy::cuda {
namespace {

// The little of cublasLt.h and cublas_v2.h that is called; tests/cuda/abi_test.cc compares where
// the headers are installed.
using Status = int;
using Handle = struct CublasHandleTag*;
using Descriptor = struct CublasDescriptorTag*;

struct Heuristic {
  std::uint64_t algorithm[8] = {};
  std::size_t workspace = 0;
  Status state = 0;
  float waves = 0;
  int reserved[4] = {};
};

constexpr int kReal32 = 0, kReal16 = 2, kRealB16 = 14;  // cudaDataType_t
constexpr int kCompute32 = 68;                          // CUBLAS_COMPUTE_32F
constexpr int kNotTransposed = 0, kTransposed = 1;      // cublasOperation_t
constexpr int kDescriptorTransA = 3, kDescriptorTransB = 4;
constexpr int kPreferenceWorkspace = 1;
constexpr int kDefaultAlgorithm = -1;
constexpr std::size_t kWorkspace = std::size_t{32} << 20;  // What NVIDIA advises for Hopper.

#define RAREFY_CUBLASLT_FUNCTIONS(X)                                                              \
  X(cublasLtCreate, (Handle*))                                                                    \
  X(cublasLtDestroy, (Handle))                                                                    \
  X(cublasLtMatmulDescCreate, (Descriptor*, int, int))                                            \
  X(cublasLtMatmulDescDestroy, (Descriptor))                                                      \
  X(cublasLtMatmulDescSetAttribute, (Descriptor, int, const void*, std::size_t))                  \
  X(cublasLtMatrixLayoutCreate, (Descriptor*, int, std::uint64_t, std::uint64_t, std::int64_t))   \
  X(cublasLtMatrixLayoutDestroy, (Descriptor))                                                    \
  X(cublasLtMatmulPreferenceCreate, (Descriptor*))                                                \
  X(cublasLtMatmulPreferenceDestroy, (Descriptor))                                                \
  X(cublasLtMatmulPreferenceSetAttribute, (Descriptor, int, const void*, std::size_t))            \
  X(cublasLtMatmulAlgoGetHeuristic, (Handle, Descriptor, Descriptor, Descriptor, Descriptor,      \
                                     Descriptor, Descriptor, int, Heuristic*, int*))              \
  X(cublasLtMatmul,                                                                               \
    (Handle, Descriptor, const void*, abi::CUdeviceptr, Descriptor, abi::CUdeviceptr, Descriptor, \
     const void*, abi::CUdeviceptr, Descriptor, abi::CUdeviceptr, Descriptor, const void*,        \
     abi::CUdeviceptr, std::size_t, abi::CUstream))

#define RAREFY_CUBLAS_FUNCTIONS(X)                                                           \
  X(cublasCreate_v2, (Handle*))                                                              \
  X(cublasDestroy_v2, (Handle))                                                              \
  X(cublasSetStream_v2, (Handle, abi::CUstream))                                             \
  X(cublasSetWorkspace_v2, (Handle, abi::CUdeviceptr, std::size_t))                          \
  X(cublasGemmEx, (Handle, int, int, int, int, int, const void*, abi::CUdeviceptr, int, int, \
                   abi::CUdeviceptr, int, int, const void*, abi::CUdeviceptr, int, int, int, int))

// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are declarators.
#define RAREFY_MEMBER(name, parameters) Status(*name) parameters = nullptr;
struct CublasLt {
  BlasState state;
  RAREFY_CUBLASLT_FUNCTIONS(RAREFY_MEMBER)
};
struct Cublas {
  BlasState state;
  RAREFY_CUBLAS_FUNCTIONS(RAREFY_MEMBER)
};
#undef RAREFY_MEMBER

#define RAREFY_LOAD(name, parameters)                                                       \
  loaded.name = reinterpret_cast<Status(*) parameters>(loaded.state.library.symbol(#name)); \
  if (loaded.name == nullptr && loaded.state.error.empty())                                 \
    loaded.state.error = loaded.state.library.file + ": no " #name;

const CublasLt& cublaslt() {
  static const CublasLt library = [] {
    CublasLt loaded;
    loaded.state.library = open_library({.stem = "libcublasLt", .majors = {13, 12}});
    if (!loaded.state.library) {
      loaded.state.error = "no cuBLASLt: " + loaded.state.library.error;
      return loaded;
    }
    RAREFY_CUBLASLT_FUNCTIONS(RAREFY_LOAD)
    return loaded;
  }();
  return library;
}

const Cublas& cublas() {
  static const Cublas library = [] {
    Cublas loaded;
    // It needs cuBLASLt of the same version, which may lie off the loader's path: open it first.
    (void)cublaslt();
    loaded.state.library = open_library({.stem = "libcublas", .majors = {13, 12}});
    if (!loaded.state.library) {
      loaded.state.error = "no cuBLAS: " + loaded.state.library.error;
      return loaded;
    }
    RAREFY_CUBLAS_FUNCTIONS(RAREFY_LOAD)
    return loaded;
  }();
  return library;
}
#undef RAREFY_LOAD
// NOLINTEND(bugprone-macro-parentheses)

void check_status(Status status, const char* what) {
  if (status != 0) fail(ErrorKind::kInternal, "GPU: {}: status {}", what, status);
}

int data_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return kReal32;
    case DType::kF16:
      return kReal16;
    case DType::kBF16:
      return kRealB16;
    default:
      fail(ErrorKind::kUnsupported, "dense product: expected f32, f16 or bf16, got {}",
           to_string(dtype));
  }
}

/// The product as a column-major library sees it: C' = op(L)·op(R).
struct ColumnMajor {
  bool weight_left;  ///< L is A, R is B; else the other way round.
  int rows, cols;    ///< Of C'.
  int depth;
  int op_left, op_right;
  int ld_left, ld_right, ld_result;
};

ColumnMajor column_major(const DenseProblem& p) {
  const auto m = static_cast<int>(p.m);
  const auto k = static_cast<int>(p.k);
  const auto n = static_cast<int>(p.n);
  // A row-major is A' K×M. Tokens: C N×M row-major is C' M×N = A'ᵀ·B' with B' K×N.
  if (p.layout == Layout::kTokenMajor) return {true, m, n, k, kTransposed, kNotTransposed, k, k, m};
  // Features: C M×N row-major is C' N×M = B'·A' with B' N×K.
  return {false, n, m, k, kNotTransposed, kNotTransposed, n, k, n};
}

}  // namespace

const BlasState& cublaslt_state() {
  return cublaslt().state;
}
const BlasState& cublas_state() {
  return cublas().state;
}

namespace {

/// The library's state and scratch memory for one stream: products of a stream run one after the
/// other, so that those of a whole model share them.
struct LtSession {
  Handle handle = nullptr;
  DeviceBuffer workspace;

  explicit LtSession(const Stream& stream) : workspace(stream, kWorkspace) {
    check_status(cublaslt().cublasLtCreate(&handle), "cublasLtCreate");
  }
  LtSession(const LtSession&) = delete;
  LtSession& operator=(const LtSession&) = delete;
  ~LtSession() { cublaslt().cublasLtDestroy(handle); }

  static std::shared_ptr<LtSession> of(const Stream& stream) {
    static std::mutex mutex;
    static std::map<abi::CUstream, std::weak_ptr<LtSession>> sessions;
    const std::scoped_lock lock(mutex);
    std::weak_ptr<LtSession>& known = sessions[stream.handle()];
    std::shared_ptr<LtSession> session = known.lock();
    if (session == nullptr) known = session = std::make_shared<LtSession>(stream);
    return session;
  }
};

}  // namespace

struct DenseMatmul::Impl {
  std::shared_ptr<LtSession> session;
  Descriptor operation = nullptr, left = nullptr, right = nullptr, result = nullptr;
  bool weight_left = true;
  std::vector<Heuristic> algorithms;

  Impl() = default;
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    const CublasLt& lt = cublaslt();
    for (Descriptor layout : {left, right, result}) {
      if (layout != nullptr) lt.cublasLtMatrixLayoutDestroy(layout);
    }
    if (operation != nullptr) lt.cublasLtMatmulDescDestroy(operation);
  }
};

DenseMatmul::DenseMatmul(const Stream& stream, const DenseProblem& problem, int most_algorithms)
    : impl_(std::make_unique<Impl>()) {
  const CublasLt& lt = cublaslt();
  if (!lt.state.error.empty()) fail(ErrorKind::kUnsupported, "GPU: {}", lt.state.error);
  stream.device().bind();
  const ColumnMajor view = column_major(problem);
  impl_->weight_left = view.weight_left;
  impl_->session = LtSession::of(stream);
  check_status(lt.cublasLtMatmulDescCreate(&impl_->operation, kCompute32, kReal32),
               "cublasLtMatmulDescCreate");
  const auto set = [&](int attribute, int value) {
    check_status(
        lt.cublasLtMatmulDescSetAttribute(impl_->operation, attribute, &value, sizeof value),
        "cublasLtMatmulDescSetAttribute");
  };
  set(kDescriptorTransA, view.op_left);
  set(kDescriptorTransB, view.op_right);
  const auto layout = [&](Descriptor* to, DType dtype, int rows, int cols, int ld) {
    check_status(
        lt.cublasLtMatrixLayoutCreate(to, data_type(dtype), static_cast<std::uint64_t>(rows),
                                      static_cast<std::uint64_t>(cols), ld),
        "cublasLtMatrixLayoutCreate");
  };
  const bool turned = view.op_left == kTransposed;
  layout(&impl_->left, problem.weight, turned ? view.depth : view.rows,
         turned ? view.rows : view.depth, view.ld_left);
  layout(&impl_->right, problem.weight, view.depth, view.cols, view.ld_right);
  layout(&impl_->result, problem.output, view.rows, view.cols, view.ld_result);
  Descriptor preference = nullptr;
  check_status(lt.cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  lt.cublasLtMatmulPreferenceSetAttribute(preference, kPreferenceWorkspace, &kWorkspace,
                                          sizeof kWorkspace);
  impl_->algorithms.resize(static_cast<std::size_t>(most_algorithms));
  int found = 0;
  const Status status = lt.cublasLtMatmulAlgoGetHeuristic(
      impl_->session->handle, impl_->operation, impl_->left, impl_->right, impl_->result,
      impl_->result, preference, most_algorithms, impl_->algorithms.data(), &found);
  lt.cublasLtMatmulPreferenceDestroy(preference);
  if (status != 0 || found == 0)
    fail(ErrorKind::kUnsupported, "GPU: cuBLASLt knows no algorithm for {}x{}x{} of {}", problem.m,
         problem.k, problem.n, to_string(problem.weight));
  impl_->algorithms.resize(static_cast<std::size_t>(found));
}

DenseMatmul::~DenseMatmul() = default;
DenseMatmul::DenseMatmul(DenseMatmul&&) noexcept = default;

int DenseMatmul::algorithms() const {
  return static_cast<int>(impl_->algorithms.size());
}

void DenseMatmul::enqueue(const Stream& stream, int algorithm, abi::CUdeviceptr a,
                          abi::CUdeviceptr b, abi::CUdeviceptr c) const {
  const float one = 1.0F;
  const float zero = 0.0F;
  if (!impl_->weight_left) std::swap(a, b);
  const Heuristic& chosen = impl_->algorithms[static_cast<std::size_t>(algorithm)];
  stream.device().bind();
  check_status(
      cublaslt().cublasLtMatmul(impl_->session->handle, impl_->operation, &one, a, impl_->left, b,
                                impl_->right, &zero, c, impl_->result, c, impl_->result,
                                chosen.algorithm, impl_->session->workspace.address(),
                                impl_->session->workspace.size(), stream.handle()),
      "cublasLtMatmul");
}

struct CublasMatmul::Impl {
  Handle handle = nullptr;
  DenseProblem problem;
  DeviceBuffer workspace;

  Impl() = default;
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    if (handle != nullptr) cublas().cublasDestroy_v2(handle);
  }
};

CublasMatmul::CublasMatmul(const Stream& stream, const DenseProblem& problem)
    : impl_(std::make_unique<Impl>()) {
  const Cublas& library = cublas();
  if (!library.state.error.empty()) fail(ErrorKind::kUnsupported, "GPU: {}", library.state.error);
  stream.device().bind();
  impl_->problem = problem;
  impl_->workspace = DeviceBuffer(stream, kWorkspace);
  check_status(library.cublasCreate_v2(&impl_->handle), "cublasCreate");
  check_status(library.cublasSetStream_v2(impl_->handle, stream.handle()), "cublasSetStream");
  check_status(library.cublasSetWorkspace_v2(impl_->handle, impl_->workspace.address(),
                                             impl_->workspace.size()),
               "cublasSetWorkspace");
}

CublasMatmul::~CublasMatmul() = default;
CublasMatmul::CublasMatmul(CublasMatmul&&) noexcept = default;

void CublasMatmul::enqueue(abi::CUdeviceptr a, abi::CUdeviceptr b, abi::CUdeviceptr c) const {
  const float one = 1.0F;
  const float zero = 0.0F;
  const ColumnMajor view = column_major(impl_->problem);
  if (!view.weight_left) std::swap(a, b);
  const int type = data_type(impl_->problem.weight);
  check_status(cublas().cublasGemmEx(impl_->handle, view.op_left, view.op_right, view.rows,
                                     view.cols, view.depth, &one, a, type, view.ld_left, b, type,
                                     view.ld_right, &zero, c, data_type(impl_->problem.output),
                                     view.ld_result, kCompute32, kDefaultAlgorithm),
               "cublasGemmEx");
}

}  // namespace rarefy::cuda
