#include "gpu_rivals.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "base/check.h"
#include "cuda/libraries.h"
#include "cuda/memory.h"
#include "cuda/timing.h"

namespace rarefy::rivals {
namespace {

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

}  // namespace

RivalTime time_cusparse(const cuda::Stream& stream, const CsrMatrix& csr, std::int64_t n) {
  const Cusparse& api = cusparse();
  if (!api.error.empty()) return {0, api.error};
  const int type = type_of(csr.dtype());
  const float one = 1.0F;
  const float zero = 0.0F;
  RivalTime best;
  Handle handle = nullptr;
  try {
    stream.device().bind();
    check(api.cusparseCreate(&handle), "cusparseCreate");
    check(api.cusparseSetStream(handle, stream.handle()), "cusparseSetStream");
    const std::vector<DeviceCsr> copies = upload_copies(stream, csr);
    const std::vector<std::byte> ones(
        static_cast<std::size_t>(csr.cols() * n) * size_of(csr.dtype()), std::byte{60});
    const cuda::DeviceBuffer b = cuda::upload<std::byte>(stream, ones);
    const cuda::DeviceBuffer c(stream,
                               static_cast<std::size_t>(csr.rows() * n) * size_of(csr.dtype()));
    stream.synchronize();

    const auto consider = [&](const std::string& name, std::size_t bytes,
                              const std::function<void(const DeviceCsr&, CUdeviceptr)>& prepare,
                              const std::function<void(const DeviceCsr&, CUdeviceptr)>& run) {
      std::vector<cuda::DeviceBuffer> buffers;
      for (const DeviceCsr& copy : copies) {
        buffers.emplace_back(stream, std::max<std::size_t>(bytes, 16));
        prepare(copy, buffers.back().address());
      }
      stream.synchronize();
      const cuda::Timing t =
          cuda::time_calls(stream,
                           [&](int i) {
                             const auto at = static_cast<std::size_t>(i);
                             run(copies[at], buffers[at].address());
                           },
                           {.copies = static_cast<int>(copies.size()), .budget_us = 20e3});
      if (best.us == 0 || t.median_us < best.us) best = {t.median_us, name};
    };

    if (n == 1) {
      Descriptor x = nullptr;
      Descriptor y = nullptr;
      check(api.cusparseCreateDnVec(&x, csr.cols(), b.address(), type), "cusparseCreateDnVec");
      check(api.cusparseCreateDnVec(&y, csr.rows(), c.address(), type), "cusparseCreateDnVec");
      for (const int algorithm : kSpmvAlgorithms) {
        std::size_t bytes = 0;
        check(api.cusparseSpMV_bufferSize(handle, 0, &one, copies[0].descriptor, x, &zero, y,
                                          kReal32, algorithm, &bytes),
              "cusparseSpMV_bufferSize");
        consider(
            fmt::format("spmv.alg{}", algorithm - 1), bytes,
            [&](const DeviceCsr& a, CUdeviceptr buffer) {
              check(api.cusparseSpMV_preprocess(handle, 0, &one, a.descriptor, x, &zero, y, kReal32,
                                                algorithm, buffer),
                    "cusparseSpMV_preprocess");
            },
            [&](const DeviceCsr& a, CUdeviceptr buffer) {
              check(api.cusparseSpMV(handle, 0, &one, a.descriptor, x, &zero, y, kReal32, algorithm,
                                     buffer),
                    "cusparseSpMV");
            });
      }
    } else {
      for (const int order : {kOrderRows, kOrderColumns}) {
        const bool rows = order == kOrderRows;
        Descriptor x = nullptr;
        Descriptor y = nullptr;
        check(api.cusparseCreateDnMat(&x, csr.cols(), n, rows ? n : csr.cols(), b.address(), type,
                                      order),
              "cusparseCreateDnMat");
        check(api.cusparseCreateDnMat(&y, csr.rows(), n, rows ? n : csr.rows(), c.address(), type,
                                      order),
              "cusparseCreateDnMat");
        for (const int algorithm : kSpmmAlgorithms) {
          std::size_t bytes = 0;
          const Status known = api.cusparseSpMM_bufferSize(handle, 0, 0, &one, copies[0].descriptor,
                                                           x, &zero, y, kReal32, algorithm, &bytes);
          if (known != 0) continue;  // This algorithm does not take these types.
          consider(
              fmt::format("spmm.alg{}.{}", algorithm, rows ? "features" : "tokens"), bytes,
              [&](const DeviceCsr& a, CUdeviceptr buffer) {
                check(api.cusparseSpMM_preprocess(handle, 0, 0, &one, a.descriptor, x, &zero, y,
                                                  kReal32, algorithm, buffer),
                      "cusparseSpMM_preprocess");
              },
              [&](const DeviceCsr& a, CUdeviceptr buffer) {
                check(api.cusparseSpMM(handle, 0, 0, &one, a.descriptor, x, &zero, y, kReal32,
                                       algorithm, buffer),
                      "cusparseSpMM");
              });
        }
      }
    }
    for (const DeviceCsr& copy : copies) api.cusparseDestroySpMat(copy.descriptor);
  } catch (const Error& error) {
    if (best.us == 0) best.name = error.what();
  }
  if (handle != nullptr) api.cusparseDestroy(handle);
  return best;
}

}  // namespace rarefy::rivals
