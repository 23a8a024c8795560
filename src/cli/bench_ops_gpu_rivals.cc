#include "cli/bench_ops_gpu_rivals.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <vector>

#include "base/check.h"
#include "cuda/cublas.h"
#include "cuda/libraries.h"
#include "cuda/timing.h"

namespace rarefy::bench {
namespace {

constexpr double kBudgetUs = 20e3;  // Of one algorithm's timing.
constexpr Layout kLayouts[] = {Layout::kTokenMajor, Layout::kFeatureMajor};

const char* name_of(Layout layout) {
  return layout == Layout::kTokenMajor ? "tokens" : "features";
}

/// Keeps the fastest of what is considered, with its error.
class Best {
 public:
  Best(const GpuCase& problem, std::size_t bytes, int copies) : problem_(problem), copies_(copies) {
    best_.bytes = bytes;
  }
  void consider(const std::string& name, Layout layout,
                const std::function<void(std::size_t copy)>& run) {
    problem_.poison();
    run(0);
    const double error = problem_.error(layout);
    const cuda::Timing t =
        cuda::time_calls(problem_.stream(), [&](int i) { run(static_cast<std::size_t>(i)); },
                         {.copies = copies_, .budget_us = kBudgetUs});
    if (best_.us > 0 && t.median_us >= best_.us) return;
    best_.name = name;
    best_.us = t.median_us;
    best_.least_us = t.least_us;
    best_.most_us = t.most_us;
    best_.error = error;
  }
  [[nodiscard]] RivalTime take(const std::string& reason = "") {
    if (best_.us == 0) best_.reason = reason.empty() ? "no algorithm ran" : reason;
    return std::move(best_);
  }

 private:
  const GpuCase& problem_;
  int copies_;
  RivalTime best_;
};

std::vector<cuda::DeviceBuffer> dense_copies(const GpuCase& problem) {
  const Buffer& values = problem.weight().values;
  std::vector<cuda::DeviceBuffer> copies(
      static_cast<std::size_t>(cuda::rotating_copies(values.size())));
  for (cuda::DeviceBuffer& copy : copies)
    copy = cuda::upload<std::byte>(problem.stream(), {values.data(), values.size()});
  return copies;
}

cuda::DenseProblem dense_problem(const GpuCase& problem, Layout layout) {
  return {problem.weight().m,     problem.weight().k,    problem.n(),
          problem.weight().dtype, problem.activations(), layout};
}

using Status = int;
using Handle = struct HandleTag*;
using Descriptor = struct DescriptorTag*;
using cuda::abi::CUdeviceptr;

constexpr int kIndex32 = 2;  // cusparseIndexType_t
constexpr int kReal32 = 0, kReal16 = 2, kRealB16 = 14;
constexpr int kOrderColumns = 1, kOrderRows = 2;
constexpr int kSpmvAlgorithms[] = {2, 3};      // CUSPARSE_SPMV_CSR_ALG1, ALG2
constexpr int kSpmmAlgorithms[] = {4, 6, 12};  // CUSPARSE_SPMM_CSR_ALG1, ALG2, ALG3

// clang-format off
#define RAREFY_CUSPARSE_FUNCTIONS(X)                                                              \
  X(cusparseCreate, (Handle*))                                                                    \
  X(cusparseDestroy, (Handle))                                                                    \
  X(cusparseSetStream, (Handle, cuda::abi::CUstream))                                             \
  X(cusparseCreateCsr, (Descriptor*, std::int64_t, std::int64_t, std::int64_t, CUdeviceptr,       \
                        CUdeviceptr, CUdeviceptr, int, int, int, int))                            \
  X(cusparseDestroySpMat, (Descriptor))                                                           \
  X(cusparseCreateDnVec, (Descriptor*, std::int64_t, CUdeviceptr, int))                           \
  X(cusparseCreateDnMat, (Descriptor*, std::int64_t, std::int64_t, std::int64_t, CUdeviceptr,     \
                          int, int))                                                              \
  X(cusparseSpMV_bufferSize, (Handle, int, const void*, Descriptor, Descriptor, const void*,      \
                              Descriptor, int, int, std::size_t*))                                \
  X(cusparseSpMV_preprocess, (Handle, int, const void*, Descriptor, Descriptor, const void*,      \
                              Descriptor, int, int, CUdeviceptr))                                 \
  X(cusparseSpMV, (Handle, int, const void*, Descriptor, Descriptor, const void*, Descriptor,     \
                   int, int, CUdeviceptr))                                                        \
  X(cusparseSpMM_bufferSize, (Handle, int, int, const void*, Descriptor, Descriptor, const void*, \
                              Descriptor, int, int, std::size_t*))                                \
  X(cusparseSpMM_preprocess, (Handle, int, int, const void*, Descriptor, Descriptor, const void*, \
                              Descriptor, int, int, CUdeviceptr))                                 \
  X(cusparseSpMM, (Handle, int, int, const void*, Descriptor, Descriptor, const void*,            \
                   Descriptor, int, int, CUdeviceptr))
// clang-format on

// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are declarators.
struct Cusparse {
  cuda::Library library;
  std::string error;
#define RAREFY_MEMBER(name, parameters) Status(*name) parameters = nullptr;
  RAREFY_CUSPARSE_FUNCTIONS(RAREFY_MEMBER)
#undef RAREFY_MEMBER
};

const Cusparse& cusparse() {
  static const Cusparse loaded = [] {
    Cusparse c;
    // It needs nvJitLink, which may lie off the loader's path.
    (void)cuda::open_library({.stem = "libnvJitLink", .majors = {13, 12}});
    c.library = cuda::open_library({.stem = "libcusparse", .majors = {12, 13}});
    c.error = c.library.error;
#define RAREFY_LOAD(name, parameters)                                                      \
  if (c.library) c.name = reinterpret_cast<Status(*) parameters>(c.library.symbol(#name)); \
  if (c.name == nullptr && c.error.empty()) c.error = "cuSPARSE: no " #name;
    RAREFY_CUSPARSE_FUNCTIONS(RAREFY_LOAD)
#undef RAREFY_LOAD
    return c;
  }();
  return loaded;
}

// NOLINTEND(bugprone-macro-parentheses)

int type_of(DType dtype) {
  return dtype == DType::kF32 ? kReal32 : dtype == DType::kF16 ? kReal16 : kRealB16;
}

void check(Status status, const char* what) {
  if (status != 0) fail(ErrorKind::kUnsupported, "cuSPARSE: {}: status {}", what, status);
}

/// A CSR on the device with its descriptor.
struct DeviceCsr {
  cuda::DeviceBuffer offsets, columns, values;
  Descriptor descriptor = nullptr;
};

std::vector<DeviceCsr> upload_copies(const cuda::Stream& stream, const CsrMatrix& csr) {
  const std::int64_t nnz = csr.entries();
  std::vector<std::int32_t> offsets(static_cast<std::size_t>(csr.rows()) + 1);
  for (std::size_t i = 0; i < offsets.size(); ++i)
    offsets[i] = static_cast<std::int32_t>(csr.row_offsets()[i]);
  const auto count = static_cast<std::size_t>(nnz);
  const std::span<const std::uint32_t> columns(csr.col_indices<std::uint32_t>(), count);
  const std::span<const std::byte> values(static_cast<const std::byte*>(csr.values()),
                                          count * size_of(csr.dtype()));
  const std::size_t bytes = columns.size_bytes() + values.size_bytes();
  std::vector<DeviceCsr> copies(static_cast<std::size_t>(cuda::rotating_copies(bytes)));
  for (DeviceCsr& copy : copies) {
    copy.offsets = cuda::upload<std::int32_t>(stream, offsets);
    copy.columns = cuda::upload<std::uint32_t>(stream, columns);
    copy.values = cuda::upload<std::byte>(stream, values);
    check(cusparse().cusparseCreateCsr(&copy.descriptor, csr.rows(), csr.cols(), nnz,
                                       copy.offsets.address(), copy.columns.address(),
                                       copy.values.address(), kIndex32, kIndex32, 0,
                                       type_of(csr.dtype())),
          "cusparseCreateCsr");
  }
  return copies;
}

/// Dense products need activations of the weight's dtype.
std::string dense_reason(const GpuCase& problem, const cuda::BlasState& state) {
  if (!state.error.empty()) return state.error;
  return problem.weight().dtype == problem.activations()
             ? ""
             : "takes activations of the weight's dtype only";
}

/// SpMV: one column, in whatever layout.
void consider_spmv(const GpuCase& problem, Handle handle, const std::vector<DeviceCsr>& copies,
                   Best& best) {
  const Cusparse& api = cusparse();
  const int type = type_of(problem.weight().dtype);
  const float one = 1.0F;
  const float zero = 0.0F;
  Descriptor x = nullptr;
  Descriptor y = nullptr;
  check(api.cusparseCreateDnVec(&x, problem.weight().k, problem.b(Layout::kTokenMajor), type),
        "cusparseCreateDnVec");
  check(api.cusparseCreateDnVec(&y, problem.weight().m, problem.c(), type), "cusparseCreateDnVec");
  for (const int algorithm : kSpmvAlgorithms) {
    std::size_t bytes = 0;
    check(api.cusparseSpMV_bufferSize(handle, 0, &one, copies[0].descriptor, x, &zero, y, kReal32,
                                      algorithm, &bytes),
          "cusparseSpMV_bufferSize");
    std::vector<cuda::DeviceBuffer> scratch;
    for (const DeviceCsr& copy : copies) {
      scratch.emplace_back(problem.stream(), std::max<std::size_t>(bytes, 16));
      check(api.cusparseSpMV_preprocess(handle, 0, &one, copy.descriptor, x, &zero, y, kReal32,
                                        algorithm, scratch.back().address()),
            "cusparseSpMV_preprocess");
    }
    best.consider(fmt::format("cusparse.spmv.alg{}", algorithm - 1), Layout::kTokenMajor,
                  [&](std::size_t i) {
                    check(api.cusparseSpMV(handle, 0, &one, copies[i].descriptor, x, &zero, y,
                                           kReal32, algorithm, scratch[i].address()),
                          "cusparseSpMV");
                  });
  }
}

void consider_spmm(const GpuCase& problem, Handle handle, const std::vector<DeviceCsr>& copies,
                   Best& best) {
  const Cusparse& api = cusparse();
  const int type = type_of(problem.weight().dtype);
  const std::int64_t m = problem.weight().m;
  const std::int64_t k = problem.weight().k;
  const std::int64_t n = problem.n();
  const float one = 1.0F;
  const float zero = 0.0F;
  for (const Layout layout : kLayouts) {
    const bool rows = layout == Layout::kFeatureMajor;
    const int order = rows ? kOrderRows : kOrderColumns;
    Descriptor x = nullptr;
    Descriptor y = nullptr;
    check(api.cusparseCreateDnMat(&x, k, n, rows ? n : k, problem.b(layout), type, order),
          "cusparseCreateDnMat");
    check(api.cusparseCreateDnMat(&y, m, n, rows ? n : m, problem.c(), type, order),
          "cusparseCreateDnMat");
    for (const int algorithm : kSpmmAlgorithms) {
      std::size_t bytes = 0;
      const Status known = api.cusparseSpMM_bufferSize(handle, 0, 0, &one, copies[0].descriptor, x,
                                                       &zero, y, kReal32, algorithm, &bytes);
      if (known != 0) continue;  // This algorithm does not take these types.
      std::vector<cuda::DeviceBuffer> scratch;
      for (const DeviceCsr& copy : copies) {
        scratch.emplace_back(problem.stream(), std::max<std::size_t>(bytes, 16));
        check(api.cusparseSpMM_preprocess(handle, 0, 0, &one, copy.descriptor, x, &zero, y, kReal32,
                                          algorithm, scratch.back().address()),
              "cusparseSpMM_preprocess");
      }
      best.consider(fmt::format("cusparse.spmm.alg{}.{}", algorithm, name_of(layout)), layout,
                    [&](std::size_t i) {
                      check(api.cusparseSpMM(handle, 0, 0, &one, copies[i].descriptor, x, &zero, y,
                                             kReal32, algorithm, scratch[i].address()),
                            "cusparseSpMM");
                    });
    }
  }
}

}  // namespace

RivalTime time_cublaslt(const GpuCase& problem) {
  if (const std::string reason = dense_reason(problem, cuda::cublaslt_state()); !reason.empty())
    return {.name = "cublaslt", .reason = reason};
  const std::vector<cuda::DeviceBuffer> copies = dense_copies(problem);
  Best best(problem, copies[0].size(), static_cast<int>(copies.size()));
  for (const Layout layout : kLayouts) {
    const cuda::DenseMatmul product(problem.stream(), dense_problem(problem, layout));
    for (int a = 0; a < product.algorithms(); ++a) {
      best.consider(fmt::format("cublaslt.{}.{}", name_of(layout), a), layout, [&](std::size_t i) {
        product.enqueue(problem.stream(), a, copies[i].address(), problem.b(layout), problem.c());
      });
    }
  }
  return best.take();
}

RivalTime time_cublas(const GpuCase& problem) {
  if (const std::string reason = dense_reason(problem, cuda::cublas_state()); !reason.empty())
    return {.name = "cublas", .reason = reason};
  const std::vector<cuda::DeviceBuffer> copies = dense_copies(problem);
  Best best(problem, copies[0].size(), static_cast<int>(copies.size()));
  for (const Layout layout : kLayouts) {
    const cuda::CublasMatmul product(problem.stream(), dense_problem(problem, layout));
    best.consider(fmt::format("cublas.{}", name_of(layout)), layout, [&](std::size_t i) {
      product.enqueue(copies[i].address(), problem.b(layout), problem.c());
    });
  }
  return best.take();
}

RivalTime time_cusparse(const GpuCase& problem) {
  const Cusparse& api = cusparse();
  if (!api.error.empty()) return {.name = "cusparse", .reason = api.error};
  if (problem.weight().dtype != problem.activations())
    return {.name = "cusparse", .reason = "takes activations of the weight's dtype only"};
  Handle handle = nullptr;
  std::vector<DeviceCsr> copies;
  std::optional<Best> best;
  std::string reason;
  try {
    problem.stream().device().bind();
    check(api.cusparseCreate(&handle), "cusparseCreate");
    check(api.cusparseSetStream(handle, problem.stream().handle()), "cusparseSetStream");
    copies = upload_copies(problem.stream(), problem.csr());
    problem.stream().synchronize();
    best.emplace(problem,
                 copies[0].offsets.size() + copies[0].columns.size() + copies[0].values.size(),
                 static_cast<int>(copies.size()));
    if (problem.n() == 1) {
      consider_spmv(problem, handle, copies, *best);
    } else {
      consider_spmm(problem, handle, copies, *best);
    }
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kInternal) throw;  // The device is in an unknown state.
    reason = error.what();
  }
  for (const DeviceCsr& copy : copies) api.cusparseDestroySpMat(copy.descriptor);
  if (handle != nullptr) api.cusparseDestroy(handle);
  if (!best) return {.name = "cusparse", .reason = reason};
  return best->take(reason);
}

}  // namespace rarefy::bench
